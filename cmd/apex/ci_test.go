package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/itchyny/gojq"
	"github.com/rhysd/actionlint"
	"github.com/rogpeppe/go-internal/testscript"
	"gopkg.in/yaml.v3"
)

// TestWorkflowsLint lets actionlint read the workflows that people copy.
func TestWorkflowsLint(t *testing.T) {
	files, err := filepath.Glob("../../deploy/ci/github/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no workflows found: %v", err)
	}
	// What shellcheck and pyflakes are on this machine must not decide the outcome: none is named.
	linter, err := actionlint.NewLinter(t.Output(), &actionlint.LinterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	found, err := linter.LintFiles(files, nil)
	if err != nil || len(found) > 0 {
		t.Errorf("actionlint: %d problems, %v", len(found), err)
	}
}

// TestCommentIsFound lets the workflow find its comment among those of others, with what gh selects with: people may write the
// mark too, and other workflows write as the same bot.
func TestCommentIsFound(t *testing.T) {
	file, err := os.ReadFile("../../deploy/ci/github/apex-check.yaml")
	if err != nil {
		t.Fatal(err)
	}
	filter := regexp.MustCompile(`(?s)--jq '(.*?)'`).FindSubmatch(file)
	if filter == nil {
		t.Fatal("the workflow selects nothing")
	}
	query, err := gojq.Parse(string(filter[1]))
	if err != nil {
		t.Fatal(err)
	}
	bot, mallory := map[string]any{"login": "github-actions[bot]"}, map[string]any{"login": "mallory"}
	found := query.Run([]any{
		map[string]any{"id": 1, "user": bot, "body": "another workflow's"},
		map[string]any{"id": 2, "user": mallory, "body": "<!-- apex plan -->\nno plan"},
		map[string]any{"id": 3, "user": bot, "body": "<!-- apex plan -->\nthe plan"},
		map[string]any{"id": 4, "user": bot, "body": "quotes <!-- apex plan -->"},
	})
	first, _ := found.Next()
	more, ok := found.Next()
	if first != 3 || ok {
		t.Errorf("found %v, then %v", first, more)
	}
}

// workflow is as much of a GitHub workflow as its commands need.
type workflow struct {
	Jobs map[string]struct {
		Env   map[string]string
		Steps []struct {
			Name, Uses, Run string
			Env             map[string]string
		}
	}
}

// expression is what GitHub replaces before a step runs.
var expression = regexp.MustCompile(`\$\{\{\s*([^}]*?)\s*\}\}`)

// runWorkflow is the script command `workflow FILE JOB [EXPRESSION=VALUE...]`: it runs every command of the job in the
// current folder, as a runner would, with the values of the expressions that it uses.
func runWorkflow(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: workflow FILE JOB [EXPRESSION=VALUE...]")
	}
	var w workflow
	readYAML(ts, args[0], &w)
	job, ok := w.Jobs[args[1]]
	if !ok {
		ts.Fatalf("%s has no job %s", args[0], args[1])
	}
	values := map[string]string{}
	for _, a := range args[2:] {
		name, value, _ := strings.Cut(a, "=")
		values[name] = value
	}
	resolve := func(text string) string {
		return expression.ReplaceAllStringFunc(text, func(match string) string {
			name := expression.FindStringSubmatch(match)[1]
			value, ok := values[name]
			if !ok {
				ts.Fatalf("%s uses %s, which the script does not give", args[0], name)
			}
			return value
		})
	}
	for _, step := range job.Steps {
		if step.Uses != "" {
			continue // the script has checked out what it wants
		}
		env := []string{}
		for _, from := range []map[string]string{job.Env, step.Env} {
			for name, value := range from {
				env = append(env, name+"="+resolve(value))
			}
		}
		if strings.Contains(step.Run, "${{") {
			ts.Fatalf("step %s puts an expression into a shell command: use env", step.Name)
		}
		ts.Logf("step %s", step.Name)
		ts.Check(ts.Exec("env", append(env, "bash", "-e", "-c", step.Run)...))
	}
}

// runPipeline is the script command `[!] pipeline FILE JOB`: it runs the commands of a GitLab job in the current folder.
func runPipeline(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: pipeline FILE JOB")
	}
	var all map[string]yaml.Node
	readYAML(ts, args[0], &all)
	var job, common struct {
		Script []string
		Before []string `yaml:"before_script"`
		Stage  string
	}
	var stages []string
	for name, into := range map[string]any{args[1]: &job, "default": &common, "stages": &stages} {
		node, ok := all[name]
		if !ok {
			ts.Fatalf("%s has no %s", args[0], name)
		}
		ts.Check(node.Decode(into))
	}
	if !strings.Contains(strings.Join(stages, " "), job.Stage) || len(job.Script) == 0 {
		ts.Fatalf("job %s is of stage %q and has %d commands", args[1], job.Stage, len(job.Script))
	}
	lines := append([]string{"set -eo pipefail"}, append(common.Before, job.Script...)...)
	err := ts.Exec("bash", "-c", strings.Join(lines, "\n"))
	if neg && err == nil {
		ts.Fatalf("job %s succeeded", args[1])
	}
	if !neg {
		ts.Check(err)
	}
}

// TestCommentLinesStandInTheFile compares what the page shows of the pipeline with the pipeline.
func TestCommentLinesStandInTheFile(t *testing.T) {
	page, err := os.ReadFile("../../docs/ci.md")
	if err != nil {
		t.Fatal(err)
	}
	pipeline, err := os.ReadFile("../../deploy/ci/gitlab/.gitlab-ci.yml")
	if err != nil {
		t.Fatal(err)
	}
	shown := regexp.MustCompile("(?s)```yaml\n(    - >-.*?)```").FindSubmatch(page)
	if shown == nil || !strings.Contains(string(pipeline), string(shown[1])) {
		t.Errorf("docs/ci.md shows lines that the pipeline does not have")
	}
}

func readYAML(ts *testscript.TestScript, path string, into any) {
	data, err := os.ReadFile(ts.MkAbs(path))
	ts.Check(err)
	ts.Check(yaml.Unmarshal(data, into))
}
