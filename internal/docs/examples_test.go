package docs

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/apex-network/apex/agent"
	"github.com/apex-network/apex/controller/config"
	"github.com/apex-network/apex/spec"
)

const agentExample = "deploy/agent.example.yaml"

// TestAgentExample demands that the example of the agent's configuration is valid, as it stands and with each default
// written out, that it shows every key, and that the defaults it shows are the defaults.
func TestAgentExample(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(agentExample)))
	if err != nil {
		t.Fatal(err)
	}
	plain := parseAgent(t, string(data))
	// A commented key becomes a key; prose and the alternative to caFile do not.
	key := regexp.MustCompile(`(?m)^( *)# ([a-zA-Z]+: \S.*)$`)
	spelled := key.ReplaceAllStringFunc(string(data), func(line string) string {
		if strings.Contains(line, "tlsPin:") || strings.Contains(line, "metrics:") {
			return line
		}
		return key.ReplaceAllString(line, "$1$2")
	})
	if full := parseAgent(t, spelled); !reflect.DeepEqual(full, plain) {
		t.Errorf("a default shown in %s is not the default:\n%+v\n%+v", agentExample, full, plain)
	}
	for _, typ := range []reflect.Type{reflect.TypeFor[agent.Config](), reflect.TypeFor[agent.ZoneConfig]()} {
		for i := range typ.NumField() {
			name, _, _ := strings.Cut(typ.Field(i).Tag.Get("yaml"), ",")
			if !strings.Contains(string(data), name+":") {
				t.Errorf("%s does not show %s of %s", agentExample, name, typ)
			}
		}
	}
}

// parseAgent reads a configuration as the agent does, defaults filled in.
func parseAgent(t *testing.T, text string) agent.Config {
	t.Helper()
	path := filepath.Join(t.TempDir(), "agent.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	config, err := agent.ReadConfig(path)
	if err != nil {
		t.Fatal(err)
	}
	config = config.WithDefaults()
	if err := config.Validate(); err != nil {
		t.Fatal(err)
	}
	return config
}

// TestSnippets reads the YAML that pages show, as the program that it is for does: whole documents of the language (for
// their own form; what they refer to stands elsewhere), and the configurations of controller and agent.
func TestSnippets(t *testing.T) {
	var documents, controllers, agents int
	for _, p := range pages(t) {
		for _, b := range p.blocks {
			switch {
			case b.language != "yaml":
			case strings.HasPrefix(b.text, "apiVersion:"):
				documents++
				_, problems := spec.Load([]spec.File{{Path: "snippet.yaml", Data: []byte(b.text)}})
				for _, d := range problems {
					if d.Code < "APX1300" {
						t.Errorf("%s: %s\n%s", p.path, d.Message, b.text)
					}
				}
			case strings.HasPrefix(b.text, "storage:"):
				controllers++
				if c, problems := config.Parse("controller.yaml", []byte(b.text)); c == nil {
					t.Errorf("%s: %v\n%s", p.path, problems.Err(), b.text)
				}
			case strings.HasPrefix(b.text, "controllers:"):
				agents++
				parseAgent(t, b.text)
			}
		}
	}
	if documents < 2 || controllers < 2 || agents < 1 {
		t.Errorf("only %d documents, %d controllers and %d agents found", documents, controllers, agents)
	}
}

// TestDependencies demands that docs/design/dependencies.md has a line for each module that go.mod requires directly. A
// module may stand in short form beside a sibling ("`cobra`, `pflag`").
func TestDependencies(t *testing.T) {
	mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(root, "docs", "design", "dependencies.md"))
	if err != nil {
		t.Fatal(err)
	}
	version := regexp.MustCompile(`/v[0-9]+$`)
	required := regexp.MustCompile(`(?m)^\t(\S+) v\S+$`).FindAllStringSubmatch(string(mod), -1)
	if len(required) < 10 {
		t.Fatalf("only %d direct requirements found", len(required))
	}
	for _, m := range required {
		short := version.ReplaceAllString(m[1], "")
		names := []string{m[1] + "`", short + "`", "`" + short[strings.LastIndexByte(short, '/')+1:] + "`", "`" + strings.TrimPrefix(short, "golang.org/") + "`"}
		if !containsAny(string(page), names) {
			t.Errorf("docs/design/dependencies.md does not say why %s was taken", m[1])
		}
	}
}

func containsAny(text string, parts []string) bool {
	for _, p := range parts {
		if strings.Contains(text, p) {
			return true
		}
	}
	return false
}
