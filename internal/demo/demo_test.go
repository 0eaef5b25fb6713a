//go:build linux

package demo

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/apex-network/apex/internal/fleet"
	"github.com/apex-network/apex/internal/lab/labtest"
)

func TestMain(m *testing.M) { labtest.Main(m) }

// TestStory runs the whole demo; its steps assert what they show.
func TestStory(t *testing.T) {
	labtest.NeedTunnel(t)
	binaries := fleet.Binaries{
		Controller: labtest.Build(t, filepath.Join("..", "..", "cmd", "apex-controller")),
		Agent:      labtest.Build(t, filepath.Join("..", "..", "cmd", "apex-agent")),
		Apex:       labtest.Build(t, filepath.Join("..", "..", "cmd", "apex")),
	}
	var out bytes.Buffer
	if err := Run(labtest.Context(t, 10*time.Minute), Options{Out: &out, Binaries: binaries}); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	if !strings.Contains(out.String(), "14 of 14 steps") {
		t.Errorf("the closing table is missing:\n%s", out.String())
	}
}
