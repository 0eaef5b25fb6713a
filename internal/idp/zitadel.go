package idp

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// ZitadelOptions says how the Zitadel provider is to be configured.
type ZitadelOptions struct {
	Place
	Users Users
	// IDTokens is how long ID tokens live, in whole seconds. Default: an hour.
	IDTokens time.Duration
	// Algorithm of the signing key: RS256 (default), ES256 or EdDSA.
	Algorithm string
}

// Zitadel is a running provider of github.com/zitadel/oidc: its library and example login pages, with a small program
// of ours around them (folder zitadel). A second real code base beside Dex. Its state is in memory.
// Methods may be called from many goroutines.
type Zitadel struct {
	mu         sync.Mutex
	options    ZitadelOptions
	generation int
	serving    *serving // nil once closed
}

// StartZitadel builds the provider if the cache has none, starts it and returns when it answers. Close ends it.
func StartZitadel(ctx context.Context, o ZitadelOptions) (*Zitadel, error) {
	binary, err := zitadelProgram.build(ctx)
	if err != nil {
		return nil, err
	}
	if o.IDTokens == 0 {
		o.IDTokens = time.Hour
	}
	if o.Algorithm == "" {
		o.Algorithm = "RS256"
	}
	if o.Place, err = o.complete(); err != nil {
		return nil, err
	}
	z := &Zitadel{options: o}
	if err := z.write(); err != nil {
		return nil, fmt.Errorf("configure Zitadel: %w", err)
	}
	if z.serving, err = launch(ctx, o.Place, z.Issuer(), "zitadel", binary, z.file()); err != nil {
		return nil, err
	}
	return z, nil
}

// RunZitadel is StartZitadel for a test, with the test's folder by default; the test's end closes it.
func RunZitadel(tb TB, o ZitadelOptions) *Zitadel {
	tb.Helper()
	if o.Folder == "" {
		o.Folder = tb.TempDir()
	}
	z, err := StartZitadel(tb.Context(), o)
	if err != nil {
		tb.Fatalf("start Zitadel: %v", err)
	}
	tb.Cleanup(func() {
		if err := z.Close(); err != nil {
			tb.Errorf("stop Zitadel: %v", err)
		}
	})
	return z
}

// Issuer is the issuer URL, without a path.
func (z *Zitadel) Issuer() string { return z.options.url("") }

// CA is the PEM certificate to trust; nil without TLS.
func (z *Zitadel) CA() []byte { return z.options.ca() }

// Client gives an HTTP client that reaches and trusts this provider.
func (z *Zitadel) Client() *http.Client { return z.options.client() }

// Close stops the provider. Closing twice is no error.
func (z *Zitadel) Close() error {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.serving == nil {
		return nil
	}
	s := z.serving
	z.serving = nil
	return s.stop()
}

// SetUsers replaces the people at once, without a restart; the next login or refresh sees it.
func (z *Zitadel) SetUsers(users Users) error {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.options.Users = users
	return z.write()
}

// Rotate replaces the signing key by a new one of the algorithm (RS256, ES256, EdDSA; "" keeps it) at once, without a
// restart. The old key is no longer published.
func (z *Zitadel) Rotate(algorithm string) error {
	z.mu.Lock()
	defer z.mu.Unlock()
	if algorithm != "" {
		z.options.Algorithm = algorithm
	}
	z.generation++
	return z.write()
}

func (z *Zitadel) file() string { return filepath.Join(z.options.Folder, "zitadel.json") }

// write replaces the configuration file in one step. The reader is internal/idp/zitadel/main.go.
func (z *Zitadel) write() error {
	o := z.options
	users := []object{}
	for _, u := range o.Users {
		u = u.complete()
		users = append(users, object{
			"ID": u.ID, "Username": u.Username, "Email": u.Email, "Password": u.Password, "Groups": u.Groups,
		})
	}
	config := object{
		"Issuer": z.Issuer(), "Listen": o.Addr.String(), "PublicClient": ClientID, "JobClient": JobID,
		"JobSecret": JobSecret, "IDTokenSeconds": int(o.IDTokens.Seconds()), "Users": users,
		"Generation": z.generation, "Algorithm": o.Algorithm,
	}
	if o.TLS {
		cert, key, err := o.Authority.WriteFiles(o.Folder, o.Addr.Addr().String())
		if err != nil {
			return err
		}
		config["Cert"], config["Key"] = cert, key
	}
	b, err := json.MarshalIndent(config, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(z.file()+".new", b, 0o600); err != nil {
		return err
	}
	return os.Rename(z.file()+".new", z.file())
}
