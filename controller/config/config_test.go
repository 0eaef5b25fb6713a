package config_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/apex-network/apex/controller/config"
)

const pin = "3f0a3c5f6f6e1f6d0f6c7a1d5b8b2a4e9c0d1e2f3a4b5c6d7e8f90a1b2c3d4e5"

const minimal = `storage: state
tls: {selfSigned: true}
networks:
  - name: acme
    repository: {url: ../net.git}
    trustRoot: ` + pin + `
    keys:
      manifestFiles: [manifest.key]
      timestampFiles: [timestamp.key]
`

func TestMinimalConfigurationGetsDefaults(t *testing.T) {
	c, problems := config.Parse("/etc/apex/controller.yaml", []byte(minimal))
	if c == nil {
		t.Fatal(problems.Err())
	}
	n := c.Networks[0]
	if c.Storage != "/etc/apex/state" || c.Listen.API != ":8443" || n.Repository.Branch != "main" || !*n.Apply ||
		time.Duration(n.Poll.Interval) != 30*time.Second || n.Keys.ManifestFiles[0] != "/etc/apex/manifest.key" {
		t.Fatalf("defaults: %+v", c)
	}
	if n.Repository.URL != "../net.git" {
		t.Fatalf("the URL is not a path to resolve: %s", n.Repository.URL)
	}
}

func TestExampleShowsEveryKey(t *testing.T) {
	data, err := os.ReadFile("../../deploy/controller.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	c, problems := config.Parse("controller.example.yaml", []byte(strings.Replace(string(data), "selfSigned: false", "selfSigned: false", 1)))
	if c == nil {
		t.Fatal(problems.Err())
	}
	var walk func(reflect.Type)
	walk = func(typ reflect.Type) {
		for typ.Kind() == reflect.Slice || typ.Kind() == reflect.Pointer {
			typ = typ.Elem()
		}
		if typ.Kind() != reflect.Struct {
			return
		}
		for i := range typ.NumField() {
			name, _, _ := strings.Cut(typ.Field(i).Tag.Get("yaml"), ",")
			if !strings.Contains(string(data), name+":") {
				t.Errorf("the example does not show %s of %s", name, typ)
			}
			walk(typ.Field(i).Type)
		}
	}
	walk(reflect.TypeFor[config.Config]())
}

func TestMistakesAreNamedWithTheirPlace(t *testing.T) {
	for name, tc := range map[string]struct{ from, to, want string }{
		"unknown key":    {"storage: state", "storage: state\nstorge: x", "controller.yaml:2:1"},
		"no certificate": {"tls: {selfSigned: true}", "tls: {}", "no certificate"},
		"half":           {"tls: {selfSigned: true}", "tls: {certFile: a}", "half a certificate"},
		"both":           {"selfSigned: true", "selfSigned: true, certFile: a, keyFile: b", "exclude"},
		"yes":            {"selfSigned: true", "selfSigned: yes", "controller.yaml:2:"},
		"bad digest":     {pin, "abcd", "controller.yaml:6:"},
		"no keys":        {"manifestFiles: [manifest.key]", "manifestFiles: []", "controller.yaml:8:22"},
		"bad interval":   {"    keys:", "    poll: {interval: 3}\n    keys:", "controller.yaml:7:22"},
		"duplicate":      {"storage: state", "storage: state\nstorage: b", "controller.yaml:2:1"},
		"replicas alone": {"storage: state", "storage: state\nnats: {replicas: 3}", "external"},
		"address":        {"storage: state", "storage: state\nlisten: {api: here}", "no address"},
		"two documents":  {"storage: state", "---\na: b\n---\nstorage: state", "2 documents"},
	} {
		t.Run(name, func(t *testing.T) {
			c, problems := config.Parse("controller.yaml", []byte(strings.Replace(minimal, tc.from, tc.to, 1)))
			if c != nil {
				t.Fatal("accepted")
			}
			if err := problems.Err(); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("%v\nwant %q", err, tc.want)
			}
		})
	}
}

func TestOneNameTwiceIsRefused(t *testing.T) {
	_, list, _ := strings.Cut(minimal, "networks:\n")
	c, problems := config.Parse("c.yaml", []byte(minimal+list))
	if c != nil || !strings.Contains(problems.Err().Error(), "stands twice") {
		t.Fatal(problems.Err())
	}
}

func TestWatchFollowsContentNotNoise(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "controller.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	write(minimal)
	first, err := config.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	got, ended := make(chan *config.Config), make(chan struct{})
	go func() {
		defer close(ended)
		config.Watch(ctx, path, first, slog.New(slog.DiscardHandler), func(c *config.Config) { got <- c })
	}()
	// It counts from when the file was loaded, so that it does not matter when the watch begins.
	write(minimal + "publicHosts: [\"a:1\"]\n")
	write("not: valid\n")
	write(minimal + "publicHosts: [\"b:2\"]\n")
	for c := range got {
		if slices.Equal(c.PublicHosts, []string{"b:2"}) {
			break
		}
		if !slices.Equal(c.PublicHosts, []string{"a:1"}) { // it was quick
			t.Errorf("got %v", c.PublicHosts)
			break
		}
	}
	cancel()
	<-ended
}
