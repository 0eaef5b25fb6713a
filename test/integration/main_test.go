//go:build linux

// Package integration attacks whole networks: real programs, real keys and signatures, real WireGuard, nftables and
// git, on the machines of package lab. Every test makes a network of its own with package fleet, waits on conditions
// and never on the clock, and leaves nothing behind.
package integration

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/apex-network/apex/internal/fleet"
	"github.com/apex-network/apex/internal/idp"
	"github.com/apex-network/apex/internal/lab"
	"github.com/apex-network/apex/internal/lab/labtest"
)

// TestMain builds the providers while there is still a network to fetch their modules from.
func TestMain(m *testing.M) {
	lab.Init()
	if len(os.Args) == 3 && os.Args[1] == tokenCommand {
		printToken(os.Args[2])
		return
	}
	if !lab.Isolated() {
		if err := idp.Prepare(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, "cannot run these tests:", err)
			os.Exit(1)
		}
	}
	labtest.Main(m)
}

// programs builds the three commands, once per run, into the temporary folder, which is gone with the run.
var programs = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "apex-programs-*")
	if err != nil {
		return "", err
	}
	for _, name := range []string{"apex", "apex-controller", "apex-agent"} {
		cmd := exec.Command("go", "build", "-o", filepath.Join(dir, name), "../../cmd/"+name)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("build %s: %w\n%w", name, err, errors.New(string(out)))
		}
	}
	return dir, nil
})

// program is the path of a command.
func program(t testing.TB, name string) string {
	t.Helper()
	dir, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, name)
}

func binaries(t testing.TB) fleet.Binaries {
	t.Helper()
	return fleet.Binaries{Controller: program(t, "apex-controller"), Agent: program(t, "apex-agent"), Apex: program(t, "apex")}
}
