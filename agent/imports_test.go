package agent

import (
	"os/exec"
	"strings"
	"testing"
)

// TestImports keeps the agent's binary small: it must suit a small IoT board.
func TestImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "github.com/apex-network/apex/cmd/apex-agent").CombinedOutput()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, out)
	}
	forbidden := []string{
		"github.com/go-git/", "github.com/nats-io/", "github.com/prometheus/",
		"github.com/apex-network/apex/controller", "github.com/apex-network/apex/internal/lab",
		"github.com/apex-network/apex/internal/deps", "github.com/coreos/", "github.com/go-jose/", "golang.org/x/oauth2",
	}
	pure := map[string]bool{ // small packages of the language that know neither YAML nor documents
		"github.com/apex-network/apex/spec/peermap": true, "github.com/apex-network/apex/spec/binding": true,
		"github.com/apex-network/apex/spec/claims": true, "github.com/apex-network/apex/spec/jwk": true,
	}
	for _, name := range strings.Fields(string(out)) {
		for _, prefix := range forbidden {
			if strings.HasPrefix(name, prefix) {
				t.Errorf("the agent imports %s", name)
			}
		}
		if name == "github.com/apex-network/apex/spec" || strings.HasPrefix(name, "github.com/apex-network/apex/spec/") &&
			!pure[name] {
			t.Errorf("the agent imports the language: %s", name)
		}
	}
}
