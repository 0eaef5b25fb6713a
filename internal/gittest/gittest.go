// Package gittest makes real, signed git repositories for tests and for the demo, with the git, ssh-keygen and gpg
// programs of the machine, isolated from the user's own configuration and keys.
//
//	env := gittest.New(t)                                  // folders, keys and configuration live in t.TempDir()
//	alice := env.SSHKey("alice")                           // ssh-keygen -t ed25519
//	repo := env.Repo("net")                                // git init -b main
//	trust := env.TrustRoot("corp", 1, alice)               // version 1, root role: alice
//	trust.Maintainer("all", alice, []string{"**"})
//	trust.Write(repo, alice)                               // trust/root.yaml and the signed trust/roots/1.json
//	repo.Write("zones/prod.yaml", "…")
//	id := repo.Commit(alice, "Add the zone")               // git add -A && git commit -S
//	remote := repo.Bare()                                  // a bare clone to fetch from
//
// A program that is no test gives New a TB of its own. PGPKey starts a gpg-agent: see CloseGPG.
package gittest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
)

// TB is what gittest needs of *testing.T.
type TB interface {
	Helper()
	Fatalf(format string, args ...any)
	TempDir() string
}

// Env is an isolated home: configuration, keys and repositories.
type Env struct {
	tb   TB
	home string
	// seconds counts commits, which get one instant each, so that ids do not depend on the clock.
	seconds int
}

// New makes an Env in the test's temporary folder.
func New(tb TB) *Env {
	tb.Helper()
	e := &Env{tb: tb, home: tb.TempDir()}
	e.WriteFile(filepath.Join(e.home, "gitconfig"), `[user]
	name = Test Person
	email = test@example.org
[init]
	defaultBranch = main
[gc]
	auto = 0
[maintenance]
	auto = false
[protocol "file"]
	allow = always
[advice]
	detachedHead = false
[merge]
	conflictStyle = merge
`)
	if err := os.Mkdir(filepath.Join(e.home, "gnupg"), 0o700); err != nil {
		tb.Fatalf("gittest: %v", err)
	}
	return e
}

// Home is the folder that holds everything.
func (e *Env) Home() string { return e.home }

// Environ is the environment for git, ssh-keygen and gpg: nothing of the user's configuration shows through.
func (e *Env) Environ() []string {
	var env []string
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "GIT_") && !strings.HasPrefix(kv, "SSH_") && !strings.HasPrefix(kv, "GNUPGHOME=") && !strings.HasPrefix(kv, "HOME=") {
			env = append(env, kv)
		}
	}
	instant := fmt.Sprintf("%d +0000", 1_700_000_000+e.seconds)
	return append(env,
		"HOME="+e.home, "XDG_CONFIG_HOME="+e.home,
		"GIT_CONFIG_GLOBAL="+filepath.Join(e.home, "gitconfig"), "GIT_CONFIG_SYSTEM=/dev/null", "GIT_CONFIG_NOSYSTEM=1",
		"GIT_TERMINAL_PROMPT=0", "GIT_AUTHOR_DATE="+instant, "GIT_COMMITTER_DATE="+instant,
		"GNUPGHOME="+filepath.Join(e.home, "gnupg"), "LC_ALL=C")
}

// Run runs a program in dir with stdin and gives its output; a failure ends the test.
func (e *Env) Run(dir string, stdin []byte, name string, args ...string) string {
	e.tb.Helper()
	out, err := e.Try(dir, stdin, name, args...)
	if err != nil {
		e.tb.Fatalf("gittest: %v", err)
	}
	return out
}

// Try is Run for commands that may fail.
func (e *Env) Try(dir string, stdin []byte, name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.Env, cmd.Stdin = dir, e.Environ(), bytes.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s %s: %w\n%s%s", name, strings.Join(args, " "), err, stdout.String(), stderr.String())
	}
	return stdout.String(), nil
}

// WriteFile writes a file with its folders.
func (e *Env) WriteFile(path, content string) {
	e.tb.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		e.tb.Fatalf("gittest: %v", err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		e.tb.Fatalf("gittest: %v", err)
	}
}

// Repo is a non-bare repository with a working tree.
type Repo struct {
	env *Env
	dir string
}

// Repo makes an empty repository with branch main.
func (e *Env) Repo(name string) *Repo {
	e.tb.Helper()
	dir := filepath.Join(e.home, "repos", name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		e.tb.Fatalf("gittest: %v", err)
	}
	r := &Repo{env: e, dir: dir}
	r.Git("init", "-q", "-b", "main")
	return r
}

// At opens an existing repository.
func (e *Env) At(dir string) *Repo { return &Repo{env: e, dir: dir} }

// Dir is the working tree.
func (r *Repo) Dir() string { return r.dir }

// Git runs git in the repository and gives its trimmed output.
func (r *Repo) Git(args ...string) string {
	r.env.tb.Helper()
	return strings.TrimSpace(r.env.Run(r.dir, nil, "git", args...))
}

// Write writes a file of the working tree.
func (r *Repo) Write(path, content string) {
	r.env.tb.Helper()
	r.env.WriteFile(filepath.Join(r.dir, filepath.FromSlash(path)), content)
}

// WriteAll writes files by path.
func (r *Repo) WriteAll(files map[string]string) {
	r.env.tb.Helper()
	paths := make([]string, 0, len(files))
	for path := range files {
		paths = append(paths, path)
	}
	sort.Strings(paths)
	for _, path := range paths {
		r.Write(path, files[path])
	}
}

// Remove removes a file or folder of the working tree.
func (r *Repo) Remove(path string) {
	r.env.tb.Helper()
	if err := os.RemoveAll(filepath.Join(r.dir, filepath.FromSlash(path))); err != nil {
		r.env.tb.Fatalf("gittest: %v", err)
	}
}

// Commit commits everything in the working tree, signed by key (nil: unsigned), and gives the commit's id.
func (r *Repo) Commit(key Key, message string) string {
	r.env.tb.Helper()
	r.Git("add", "-A")
	r.git(key, "commit", "-q", "--allow-empty", "-m", message)
	return r.Head()
}

// Amend commits the working tree into the last commit.
func (r *Repo) Amend(key Key) string {
	r.env.tb.Helper()
	r.Git("add", "-A")
	r.git(key, "commit", "-q", "--amend", "--no-edit", "--allow-empty")
	return r.Head()
}

// git runs a git command that makes commits, signed by key.
func (r *Repo) git(key Key, command string, args ...string) {
	r.env.tb.Helper()
	r.env.seconds++
	var all []string
	if key != nil {
		all = key.gitConfig()
	}
	all = append(all, command)
	if key != nil {
		all = append(all, "-S")
	}
	r.Git(append(all, args...)...)
}

// Head is the id of the current commit.
func (r *Repo) Head() string { return r.Git("rev-parse", "HEAD") }

// Branch makes a branch at the current commit, or at the one named, and switches to it.
func (r *Repo) Branch(name string, at ...string) {
	r.env.tb.Helper()
	r.Git(append([]string{"switch", "-q", "-c", name}, at...)...)
}

// Switch changes to a branch.
func (r *Repo) Switch(name string) { r.env.tb.Helper(); r.Git("switch", "-q", name) }

// Merge merges a branch with a merge commit signed by key and gives its id.
func (r *Repo) Merge(key Key, branch string, args ...string) string {
	r.env.tb.Helper()
	r.git(key, "merge", append([]string{"-q", "--no-ff", "-m", "Merge " + branch, branch}, args...)...)
	return r.Head()
}

// Bare makes a bare clone with this branch only, to serve as a remote, and gives its folder.
func (r *Repo) Bare() string {
	r.env.tb.Helper()
	dir := r.dir + ".git"
	r.env.Run(r.env.home, nil, "git", "clone", "-q", "--bare", r.dir, dir)
	return dir
}

// RawCommit stores the bytes of a commit object as they are and moves the branch to it.
func (r *Repo) RawCommit(raw []byte) string {
	r.env.tb.Helper()
	id := strings.TrimSpace(r.env.Run(r.dir, raw, "git", "hash-object", "-t", "commit", "-w", "--stdin", "--literally"))
	r.Git("reset", "-q", "--hard", id)
	return id
}

// Raw gives the stored bytes of an object of the given type.
func (r *Repo) Raw(kind, id string) []byte {
	r.env.tb.Helper()
	return []byte(r.env.Run(r.dir, nil, "git", "cat-file", kind, id))
}
