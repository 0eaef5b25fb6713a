package idp

import (
	"crypto/rand"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// GitHubJob is a workflow run, in the words of the claims that GitHub gives it. Empty fields get plausible values, but
// for Environment, which most jobs do not have.
type GitHubJob struct {
	Repository  string // owner/name. Default: example/network
	Ref         string // default: refs/heads/main
	Environment string
	Event       string // default: push. pull_request changes the subject, as it does at GitHub
	Workflow    string // file below .github/workflows. Default: deploy.yml
	Actor       string // default: octocat
	RunID       string // default: 1001
}

// Claims are those of the job's token, issued now for five minutes.
func (j GitHubJob) Claims(issuer, audience string, now time.Time) Claims {
	setDefault(&j.Repository, "example/network")
	setDefault(&j.Ref, "refs/heads/main")
	setDefault(&j.Event, "push")
	setDefault(&j.Workflow, "deploy.yml")
	setDefault(&j.Actor, "octocat")
	setDefault(&j.RunID, "1001")
	owner, _, _ := strings.Cut(j.Repository, "/")
	const sha = "8d2c9d0e5f0b7f6a3c1d4e5f60718293a4b5c6d7"
	workflow := fmt.Sprintf("%s/.github/workflows/%s@%s", j.Repository, j.Workflow, j.Ref)
	refType := "branch"
	if strings.HasPrefix(j.Ref, "refs/tags/") {
		refType = "tag"
	}
	c := newClaims(issuer, audience, j.subject(), now).Valid(now, now.Add(5*time.Minute))
	for name, value := range map[string]string{
		"ref": j.Ref, "sha": sha, "repository": j.Repository, "repository_owner": owner, "repository_owner_id": "65",
		"repository_id": "74", "repository_visibility": "private", "run_id": j.RunID, "run_number": "10",
		"run_attempt": "1", "actor": j.Actor, "actor_id": "12", "workflow": j.Workflow, "head_ref": "", "base_ref": "",
		"event_name": j.Event, "ref_protected": "true", "ref_type": refType, "workflow_ref": workflow,
		"workflow_sha": sha, "job_workflow_ref": workflow, "job_workflow_sha": sha, "runner_environment": "self-hosted",
	} {
		c[name] = value
	}
	if j.Environment != "" {
		c["environment"] = j.Environment
	}
	return c
}

func (j GitHubJob) subject() string {
	switch {
	case j.Environment != "":
		return fmt.Sprintf("repo:%s:environment:%s", j.Repository, j.Environment)
	case j.Event == "pull_request":
		return fmt.Sprintf("repo:%s:pull_request", j.Repository)
	default:
		return fmt.Sprintf("repo:%s:ref:%s", j.Repository, j.Ref)
	}
}

// GitLabJob is a job of a GitLab pipeline. Empty fields get plausible values, but for Environment.
type GitLabJob struct {
	Project     string // path. Default: example/network
	Ref         string // default: main
	Tag         bool   // Ref is a tag
	Environment string
	User        string // login. Default: octavia
}

// Claims are those of the job's ID token (id_tokens in .gitlab-ci.yml), issued now for an hour.
func (j GitLabJob) Claims(issuer, audience string, now time.Time) Claims {
	setDefault(&j.Project, "example/network")
	setDefault(&j.Ref, "main")
	setDefault(&j.User, "octavia")
	namespace := j.Project[:max(0, strings.LastIndex(j.Project, "/"))]
	refType, refPath := "branch", "refs/heads/"+j.Ref
	if j.Tag {
		refType, refPath = "tag", "refs/tags/"+j.Ref
	}
	subject := fmt.Sprintf("project_path:%s:ref_type:%s:ref:%s", j.Project, refType, j.Ref)
	c := newClaims(issuer, audience, subject, now).Valid(now, now.Add(time.Hour))
	for name, value := range map[string]string{
		"namespace_id": "72", "namespace_path": namespace, "project_id": "20", "project_path": j.Project,
		"project_visibility": "private", "user_id": "1", "user_login": j.User, "user_email": j.User + "@example.com",
		"user_access_level": "maintainer", "pipeline_id": "574", "pipeline_source": "push", "job_id": "302", "ref": j.Ref,
		"ref_type": refType, "ref_path": refPath, "ref_protected": "true", "runner_environment": "self-hosted",
		"sha": "714a629c0b401fdce83e847fc9589983fc6f46bc", "ci_config_sha": "714a629c0b401fdce83e847fc9589983fc6f46bc",
		"ci_config_ref_uri": fmt.Sprintf("gitlab.example/%s//.gitlab-ci.yml@%s", j.Project, refPath),
	} {
		c[name] = value
	}
	c["runner_id"] = 1 // a number, unlike the others
	if j.Environment != "" {
		c["environment"], c["environment_protected"], c["deployment_tier"] = j.Environment, "true", "production"
	}
	return c
}

// ServiceAccount is a Kubernetes service account whose token a pod has mounted (a projected volume).
type ServiceAccount struct {
	Namespace string // default: default
	Name      string // default: deployer
	Pod       string // default: deployer-0
}

// Claims are those of the projected token, issued now for an hour. The audience is a list, as in Kubernetes.
func (a ServiceAccount) Claims(issuer, audience string, now time.Time) Claims {
	setDefault(&a.Namespace, "default")
	setDefault(&a.Name, "deployer")
	setDefault(&a.Pod, "deployer-0")
	subject := fmt.Sprintf("system:serviceaccount:%s:%s", a.Namespace, a.Name)
	c := newClaims(issuer, audience, subject, now).Valid(now, now.Add(time.Hour))
	c["aud"] = []string{audience}
	c["kubernetes.io"] = object{
		"namespace":      a.Namespace,
		"serviceaccount": object{"name": a.Name, "uid": "14ee3fa4-a7e2-420f-9f9a-dbc4507c3798"},
		"pod":            object{"name": a.Pod, "uid": "5e0bd49b-f040-43b0-99b7-22765a53f7f3"},
		"node":           object{"name": "node-1", "uid": "646e7c5e-32d6-4d42-9dbd-e504e6cbe6b1"},
		"warnafter":      now.Add(time.Hour).Add(-7 * time.Minute).Unix(),
	}
	return c
}

func setDefault(s *string, value string) {
	if *s == "" {
		*s = value
	}
}

// GitHubEnv gives the two environment variables (NAME=value) with which a job of GitHub Actions asks for its token, and
// serves the endpoint that they name: a simulation of GitHub's. claims are of GitHubJob.Claims; the audience that the
// job asks for replaces theirs.
func (i *Issuer) GitHubEnv(claims Claims) []string {
	bearer := "job-" + rand.Text()
	i.mu.Lock()
	defer i.mu.Unlock()
	i.jobs[bearer] = claims
	return []string{
		"ACTIONS_ID_TOKEN_REQUEST_URL=" + i.URL(Actions) + "?api-version=2.0",
		"ACTIONS_ID_TOKEN_REQUEST_TOKEN=" + bearer,
	}
}

func (i *Issuer) serveActions(w http.ResponseWriter, r *http.Request) {
	bearer, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	i.mu.Lock()
	claims, ok := i.jobs[bearer]
	i.mu.Unlock()
	if !ok {
		writeJSON(w, http.StatusUnauthorized, object{"message": "Unauthorized"})
		return
	}
	if audience := r.Form.Get("audience"); audience != "" {
		claims = claims.With("aud", audience)
	}
	token := i.Mint(claims.With("jti", rand.Text()))
	writeJSON(w, http.StatusOK, object{"count": len(token), "value": token})
}
