package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/apex-network/apex/internal/idp"
	"github.com/apex-network/apex/internal/loopback"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"apex": main, "host": program("host", host), "person": program("person", person)})
}

// buildController compiles apex-controller, which scripts find in their PATH.
func buildController(t *testing.T) (folder string) {
	t.Helper()
	folder = t.TempDir()
	build := exec.Command("go", "build", "-o", folder, "../apex-controller")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build apex-controller: %v\n%s", err, out)
	}
	return folder
}

// await is the script command `await REGEXP PROGRAM [ARG...]`: it runs the program until what it prints to stdout matches.
func await(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: await REGEXP PROGRAM [ARG...]")
	}
	want, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	const limit = 3 * time.Minute // only for what hangs
	for deadline := time.Now().Add(limit); ; {
		err := ts.Exec(args[1], args[2:]...)
		if err == nil && want.MatchString(ts.ReadFile("stdout")) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("not within %s: %s\n%s\n%s", limit, args[0], ts.ReadFile("stdout"), ts.ReadFile("stderr"))
		}
	}
}

// TestScripts runs the command line as a person would: each script in testdata/script is a session with the real
// binary, the real git and the real ssh-keygen.
func TestScripts(t *testing.T) {
	examples, err := filepath.Abs("../../examples")
	if err != nil {
		t.Fatal(err)
	}
	ciFiles, err := filepath.Abs("../../deploy/ci")
	if err != nil {
		t.Fatal(err)
	}
	controller := buildController(t)
	issuers := &providers{by: map[string]*idp.Issuer{}}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"await": await, "commit": commit, "hides": hides, "readenv": readenv, "workflow": runWorkflow, "pipeline": runPipeline,
			"dex": dex, "issuer": issuers.start, "mint": issuers.mint, "github": issuers.github,
		},
		Setup: func(e *testscript.Env) error {
			home := filepath.Join(e.WorkDir, "home")
			e.Setenv("HOME", home)
			e.Setenv("EXAMPLES", examples)
			e.Setenv("CI_FILES", ciFiles)
			e.Setenv("SSH_AUTH_SOCK", "")
			e.Setenv("PATH", controller+string(filepath.ListSeparator)+e.Getenv("PATH"))
			at, err := loopback.Address()
			if err != nil {
				return err
			}
			e.Setenv("IP", at.Addr().String())
			e.Setenv("LISTEN", at.String())
			e.Setenv("URL", "https://"+at.String())
			e.Setenv("GIT_CONFIG_NOSYSTEM", "1")
			e.Setenv("GIT_CONFIG_GLOBAL", filepath.Join(home, ".gitconfig"))
			if err := os.MkdirAll(home, 0o700); err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(home, ".gitconfig"), []byte(gitConfig), 0o600)
		},
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
	})
}

const gitConfig = `[user]
	name = Test
	email = test@example.com
[gpg]
	format = ssh
[init]
	defaultBranch = main
[commit]
	gpgSign = false
[core]
	hooksPath = /dev/null
`
