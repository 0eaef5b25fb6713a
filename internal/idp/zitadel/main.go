// Command zitadel is an OpenID provider for tests: the provider library and the example login pages of
// github.com/zitadel/oidc, with the example's storage in memory. What the example lacks is added here: groups, a device
// client, client credentials, and signing keys that change while it runs.
//
// It takes the path of a JSON file. Users, generation and algorithm are read again whenever they matter, so that
// whoever replaces the file (by a rename) moves people between groups and rotates the keys without a restart.
package main

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"time"

	"github.com/zitadel/oidc/v3/example/server/exampleop"
	"github.com/zitadel/oidc/v3/example/server/storage"
)

// configuration is the JSON file. The writer is internal/idp/zitadel.go.
type configuration struct {
	Issuer         string
	Listen         string // address and port
	Cert, Key      string // TLS files; none: plain HTTP
	PublicClient   string
	JobClient      string
	JobSecret      string
	IDTokenSeconds int

	Users      []user
	Generation int    // another number means another signing key
	Algorithm  string // RS256, ES256 or EdDSA
}

type user struct {
	ID, Username, Email, Password string
	Groups                        []string
}

func read(file string) (configuration, error) {
	var c configuration
	b, err := os.ReadFile(file)
	if err != nil {
		return c, err
	}
	return c, json.Unmarshal(b, &c)
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "zitadel:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("usage: zitadel <configuration.json>")
	}
	config, err := read(args[0])
	if err != nil {
		return err
	}
	// A native client may use any port of the loopback, but only these paths.
	redirects := []string{
		"http://127.0.0.1", "http://127.0.0.1/", "http://127.0.0.1/callback", "http://localhost/callback",
	}
	clients := map[string]*storage.Client{
		config.PublicClient: storage.NativeClient(config.PublicClient, redirects...),
		config.JobClient:    storage.WebClient(config.JobClient, config.JobSecret),
	}
	for _, c := range clients {
		storage.RegisterClients(c)
	}
	people := people{file: args[0]}
	store := &store{
		Storage: storage.NewStorage(people), people: people, keys: &keys{file: args[0]}, clients: clients, job: config,
	}
	logger := slog.New(slog.NewTextHandler(os.Stderr, nil))
	server := &http.Server{
		Addr: config.Listen, Handler: exampleop.SetupServer(config.Issuer, store, logger, false),
		ReadHeaderTimeout: 10 * time.Second,
	}
	if config.Cert != "" {
		return server.ListenAndServeTLS(config.Cert, config.Key)
	}
	return server.ListenAndServe()
}
