package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"apex": main})
}

// TestScripts runs the command line as a person would: each script in testdata/script is a session with the real
// binary, the real git and the real ssh-keygen.
func TestScripts(t *testing.T) {
	examples, err := filepath.Abs("../../examples")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			home := filepath.Join(e.WorkDir, "home")
			e.Setenv("HOME", home)
			e.Setenv("EXAMPLES", examples)
			e.Setenv("SSH_AUTH_SOCK", "")
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
