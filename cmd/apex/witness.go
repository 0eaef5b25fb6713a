package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"github.com/apex-network/apex/agent/fetch"
	"github.com/apex-network/apex/agent/token"
	"github.com/apex-network/apex/controller/enrol"
	"github.com/apex-network/apex/controller/gitsource"
	"github.com/apex-network/apex/controller/tokens"
	"github.com/apex-network/apex/controller/witness"
	"github.com/apex-network/apex/internal/cli"
	"github.com/apex-network/apex/internal/keyfile"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/spec/binding"
)

// witnessFlags configure a witness.
type witnessFlags struct {
	controller, caFile, tlsPin string
	network, pin, key, state   string
	issuerCAFile               string
	remote                     gitsource.Remote
	// identity, with tokens from GitHub or a command, stands in for the key.
	identity string
	github   bool
	command  []string
	once     bool
	timeout  time.Duration
}

func newWitness(s cli.Streams) *cobra.Command {
	var f witnessFlags
	c := &cobra.Command{
		Use:   "witness",
		Short: "Recompile every generation from an own clone, and co-sign it if it is right",
		Long: `Witness is the second party of a manifest threshold of 2. It clones the repository by itself, judges the commits, compiles
what the controller wants to publish, and signs only if not a byte differs. Run it on another machine than the
controller, with another way to the repository. It needs no open port and runs until it is stopped.

Where nodes enrol by an identity, it judges each new one by itself: it asks the issuers for their keys (--issuer-ca-file, if
these have certificates of an own authority), and verifies the token, the rule in git and the maintainer's approval.

Make its key with apex-controller keygen and name it as --witness in apex trust init.

A CI job can be the witness without any key: --identity names its entry under witnesses.identities of the trust root, and
its CI system gives one ID token to show and one for each manifest, whose audience is that manifest's digest. The CI system
must let the job choose the audience, as GitHub Actions does. With --once it judges what waits and ends.

Exit codes with --once: 0 nothing is left to sign, 4 a generation is not what the repository says, 6 not done in time.`,
		Example: "  apex witness --controller https://apex.example.com --network acme --root-digest … --repository https://git.example.com/acme.git --key witness.key\n" +
			"  apex witness --once --identity ci --github --controller https://apex.example.com --network acme --root-digest … --repository https://github.com/acme/net --state-dir .witness",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return runWitness(c.Context(), s, f) },
	}
	c.Flags().StringVar(&f.controller, "controller", "", "base URL of the controller")
	c.Flags().StringVar(&f.caFile, "ca-file", "", "certificate authorities to trust instead of the system's, PEM")
	c.Flags().StringVar(&f.tlsPin, "tls-pin", "", "SHA-256 of the controller's public key, hex")
	c.Flags().StringVar(&f.network, "network", "", "network name")
	c.Flags().StringVar(&f.pin, "root-digest", "", "digest of the first trust root, hex")
	c.Flags().StringVar(&f.key, "key", "", "witness key file, mode 0600")
	c.Flags().StringVar(&f.identity, "identity", "", "witness identity of the trust root, in place of a key")
	c.Flags().BoolVar(&f.github, "github", false, "with --identity: ask GitHub Actions for ID tokens")
	c.Flags().StringArrayVar(&f.command, "token-command", nil, "with --identity: program that prints an ID token for $APEX_AUDIENCE; repeat for its arguments")
	c.Flags().BoolVar(&f.once, "once", false, "judge what waits, and end")
	c.Flags().DurationVar(&f.timeout, "timeout", 5*time.Minute, "with --once: how long that may take")
	c.Flags().StringVar(&f.state, "state-dir", "/var/lib/apex-witness", "folder for the clone and what was signed last")
	c.Flags().StringVar(&f.issuerCAFile, "issuer-ca-file", "", "certificate authorities of OpenID providers to trust besides the system's, PEM")
	c.Flags().StringVar(&f.remote.URL, "repository", "", "repository: a path, file://, https:// or ssh:// URL")
	c.Flags().StringVar(&f.remote.Branch, "branch", "main", "branch that counts")
	c.Flags().StringVar(&f.remote.Username, "username", "", "user name for the repository over HTTP")
	c.Flags().StringVar(&f.remote.PasswordFile, "password-file", "", "password or token for the repository over HTTP")
	c.Flags().StringVar(&f.remote.CAFile, "repository-ca-file", "", "certificate authorities of the repository, PEM")
	c.Flags().StringVar(&f.remote.SSHKeyFile, "ssh-key", "", "private key for the repository over SSH, mode 0600")
	c.Flags().StringVar(&f.remote.SSHKnownHostsFile, "known-hosts", "", "known_hosts file for the repository over SSH")
	return c
}

func runWitness(ctx context.Context, s cli.Streams, f witnessFlags) error {
	cfg, err := f.config(s)
	if err != nil {
		return cli.WithCode(cli.Invalid, err)
	}
	if f.once {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, f.timeout)
		defer cancel()
	}
	err = witness.Run(ctx, cfg)
	switch {
	case errors.Is(err, witness.ErrRefused):
		return cli.WithCode(cli.Trust, err)
	case errors.Is(err, context.DeadlineExceeded):
		return cli.WithCode(cli.TimedOut, err)
	case errors.Is(err, context.Canceled):
		return nil
	}
	return err
}

// hand gives the witness its key, or the source of its tokens.
func (f witnessFlags) hand(cfg *witness.Config) (err error) {
	if f.identity == "" {
		if f.github || len(f.command) > 0 {
			return errors.New("--github and --token-command need --identity")
		}
		if f.key == "" {
			return errors.New("--key is missing, or --identity for a CI job")
		}
		cfg.Key, err = keyfile.LoadEd25519(f.key)
		return err
	}
	if f.key != "" || f.github == (len(f.command) > 0) {
		return errors.New("--identity needs one of --github and --token-command, and no --key")
	}
	var source token.Source = token.GitHub{}
	if len(f.command) > 0 {
		source = token.Command{Argv: f.command, Logger: cfg.Logger}
	}
	cfg.Identity = &witness.Identity{Name: f.identity, Token: func(ctx context.Context, audience string) (string, error) {
		return source.Token(ctx, token.Need{Audience: audience})
	}}
	return nil
}

func (f witnessFlags) config(s cli.Streams) (witness.Config, error) {
	cfg := witness.Config{Network: f.network, Remote: f.remote, Dir: f.state, Once: f.once, Logger: slog.New(slog.NewTextHandler(s.Err, nil))}
	for flag, value := range map[string]string{"controller": f.controller, "network": f.network, "root-digest": f.pin, "repository": f.remote.URL} {
		if value == "" {
			return cfg, fmt.Errorf("--%s is missing", flag)
		}
	}
	var err error
	if cfg.Controller, err = url.Parse(f.controller); err != nil {
		return cfg, fmt.Errorf("--controller: %w", err)
	}
	if err := cfg.TrustRoot.UnmarshalText([]byte(f.pin)); err != nil {
		return cfg, fmt.Errorf("--root-digest: %w", err)
	}
	pin, err := hex.DecodeString(f.tlsPin)
	if err != nil {
		return cfg, fmt.Errorf("--tls-pin: %w", err)
	}
	transport, err := fetch.NewTransport(fetch.TLS{CAFile: f.caFile, SPKI: pin})
	if err != nil {
		return cfg, err
	}
	// The controller holds a question open until there is something to sign.
	transport.ResponseHeaderTimeout = 0
	// No redirect is followed: it would lead a stolen controller's requests into the witness's network.
	cfg.Client = &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	if err := f.hand(&cfg); err != nil {
		return cfg, err
	}
	verifier, err := tokens.New(tokens.Options{CAFile: f.issuerCAFile, Logger: cfg.Logger})
	if err != nil {
		return cfg, fmt.Errorf("--issuer-ca-file: %w", err)
	}
	cfg.Recheck = recheckWith(f.network, verifier)
	return cfg, nil
}

// recheckWith judges bindings with the keys that their issuers give to verifier.
func recheckWith(network string, verifier tokens.Verifier) witness.Recheck {
	return func(ctx context.Context, at witness.Commit, record protocol.BindingRecord) ([]*binding.Signed, error) {
		past, err := enrol.Judge{
			Network: network, Published: &enrol.Published{Commit: at.ID, Repo: at.Repo, Root: at.Root}, Verifier: verifier, Judged: at.Judged,
		}.Recheck(ctx, record)
		var down *tokens.Unavailable
		if errors.As(err, &down) {
			return nil, fmt.Errorf("%w: %w", witness.ErrLater, err)
		}
		return past, err
	}
}
