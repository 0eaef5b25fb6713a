package idp

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// The clients that Dex and the Zitadel provider know.
const (
	// ClientID is the public client of the command line: device flow, and authorization code with PKCE to any port of
	// the loopback.
	ClientID = "apex-cli"
	// ControllerID is a client that trusts ClientID. With the scope ControllerScope Dex puts it into the audience, beside
	// ClientID, which then is the azp too.
	ControllerID    = "apex-controller"
	ControllerScope = "audience:server:client_id:" + ControllerID
	// JobID and JobSecret are a confidential client: client credentials with Zitadel. Dex has no such grant; there the
	// client may use the password grant.
	JobID     = "apex-job"
	JobSecret = "not-a-secret-outside-tests"
)

// User is a person that a provider knows.
type User struct {
	ID       string // stable; becomes part of "sub". Default: Username
	Username string
	Email    string // what Dex's password form takes as login. Default: Username@example.com
	Password string
	Groups   []string
}

func (u User) complete() User {
	if u.ID == "" {
		u.ID = u.Username
	}
	if u.Email == "" {
		u.Email = u.Username + "@example.com"
	}
	return u
}

// DexOptions says how a Dex is to be configured.
type DexOptions struct {
	Place
	Users Users
	// IDTokens is how long ID tokens live. Default: an hour.
	IDTokens time.Duration
	// DeviceCodes is how long a device flow may take. Default: 5 minutes.
	DeviceCodes time.Duration
	// RefreshTokens is how long refresh tokens live after the login. Default: a day.
	RefreshTokens time.Duration
	// LDAP, if set, is where Dex looks for people, instead of Users.
	LDAP *Slapd
}

// Users is a list of people, each with a Username or an Email of their own.
type Users []User

// Dex is a running Dex 2.45.1, built from its Go module, unchanged. Its state is an SQLite file, so that signing keys,
// refresh tokens and pending device flows survive a restart. Methods may be called from many goroutines.
type Dex struct {
	binary string

	mu      sync.Mutex
	options DexOptions
	gone    Users    // people who were known once; see passwords
	serving *serving // nil once closed
}

// StartDex builds Dex if the cache has none, starts it and returns when it answers. The caller must Close it.
func StartDex(ctx context.Context, o DexOptions) (*Dex, error) {
	binary, err := dexProgram.build(ctx)
	if err != nil {
		return nil, err
	}
	if o.Place, err = o.complete(); err != nil {
		return nil, err
	}
	d := &Dex{binary: binary, options: o}
	if err := d.start(ctx); err != nil {
		return nil, err
	}
	return d, nil
}

// RunDex is StartDex for a test, with the test's folder by default; the test's end closes it.
func RunDex(tb TB, o DexOptions) *Dex {
	tb.Helper()
	if o.Folder == "" {
		o.Folder = tb.TempDir()
	}
	d, err := StartDex(tb.Context(), o)
	if err != nil {
		tb.Fatalf("start Dex: %v", err)
	}
	tb.Cleanup(func() {
		if err := d.Close(); err != nil {
			tb.Errorf("stop Dex: %v", err)
		}
	})
	return d
}

func (d *Dex) start(ctx context.Context) error {
	config, err := d.options.config(d.gone)
	if err != nil {
		return fmt.Errorf("configure Dex: %w", err)
	}
	file := filepath.Join(d.options.Folder, "dex.json")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		return err
	}
	d.serving, err = launch(ctx, d.options.Place, d.Issuer(), "dex", d.binary, "serve", file)
	return err
}

// Issuer is the issuer URL. It has a path, which is easy to get wrong.
func (d *Dex) Issuer() string { return d.options.url(dexPath) }

// CA is the PEM certificate to trust; nil without TLS.
func (d *Dex) CA() []byte { return d.options.ca() }

// Client gives an HTTP client that reaches and trusts this provider.
func (d *Dex) Client() *http.Client { return d.options.client() }

// Close stops Dex. Closing twice is no error.
func (d *Dex) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.serving == nil {
		return nil
	}
	s := d.serving
	d.serving = nil
	return s.stop()
}

// SetUsers replaces the people by restarting Dex: its own API cannot set groups. Signing keys and refresh tokens stay,
// and the next login or refresh sees the new groups. Dex is away for some tens of milliseconds.
func (d *Dex) SetUsers(ctx context.Context, users Users) error {
	return d.restart(ctx, func() error {
		d.gone = append(d.gone, d.options.Users...)
		d.options.Users = users
		return nil
	})
}

// LoseState restarts Dex without its database: other signing keys at the same issuer, and no refresh token is known.
func (d *Dex) LoseState(ctx context.Context) error {
	return d.restart(ctx, func() error {
		files, err := filepath.Glob(d.options.database() + "*")
		if err != nil {
			return err
		}
		for _, f := range files {
			err = errors.Join(err, os.Remove(f))
		}
		return err
	})
}

func (d *Dex) restart(ctx context.Context, between func() error) error {
	if err := d.Close(); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := between(); err != nil {
		return err
	}
	return d.start(ctx)
}

func (o DexOptions) database() string { return filepath.Join(o.Folder, "dex.db") }

// dexPath is the path of the issuer URL.
const dexPath = "/dex"

// object is a JSON object. Dex reads YAML, of which JSON is a part.
type object map[string]any

func (o DexOptions) config(gone Users) ([]byte, error) {
	web := object{"http": o.Addr.String()}
	if o.TLS {
		cert, key, err := o.Authority.WriteFiles(o.Folder, o.Addr.Addr().String())
		if err != nil {
			return nil, err
		}
		web = object{"https": o.Addr.String(), "tlsCert": cert, "tlsKey": key}
	}
	config := object{
		"issuer":  o.url(dexPath),
		"storage": object{"type": "sqlite3", "config": object{"file": o.database()}},
		"web":     web,
		"logger":  object{"level": "info"},
		"expiry": object{
			"idTokens":       orDefault(o.IDTokens, time.Hour),
			"deviceRequests": orDefault(o.DeviceCodes, 5*time.Minute),
			"signingKeys":    "6h",
			"refreshTokens":  object{"absoluteLifetime": orDefault(o.RefreshTokens, 24*time.Hour)},
		},
		"staticClients": []object{
			// Without redirect URIs a public client may use /device/callback and any loopback address.
			{"id": ClientID, "name": "Apex", "public": true},
			{"id": ControllerID, "name": "Apex controller", "secret": JobSecret, "trustedPeers": []string{ClientID}},
			{"id": JobID, "name": "Apex job", "secret": JobSecret, "redirectURIs": []string{"http://127.0.0.1/"}},
		},
	}
	if o.LDAP != nil {
		config["connectors"] = []object{o.LDAP.connector()}
		config["oauth2"] = object{"passwordConnector": "ldap"}
	} else {
		passwords, err := o.Users.passwords(gone)
		if err != nil {
			return nil, err
		}
		config["enablePasswordDB"], config["staticPasswords"] = true, passwords
		config["oauth2"] = object{"passwordConnector": "local"}
	}
	return json.MarshalIndent(config, "", "  ")
}

func orDefault(d, otherwise time.Duration) string {
	if d == 0 {
		d = otherwise
	}
	return d.String()
}

// passwords renders the people for Dex. Hashing is slow on purpose, so equal passwords share a hash.
//
// Those who are gone stay listed with another user ID and nobody's password, so that they are refused. Dex would look
// for an unlisted person in its database, inside the transaction that already holds the only connection, and hang.
func (us Users) passwords(gone Users) ([]object, error) {
	hashes := map[string]string{}
	hash := func(password string) (string, error) {
		if hashes[password] == "" {
			h, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.DefaultCost)
			if err != nil {
				return "", fmt.Errorf("hash a password: %w", err)
			}
			hashes[password] = string(h)
		}
		return hashes[password], nil
	}
	list, listed := []object{}, map[string]bool{}
	add := func(u User) error {
		h, err := hash(u.Password)
		list = append(list, object{
			"email": u.Email, "username": u.Username, "preferredUsername": u.Username, "userID": u.ID,
			"hash": h, "groups": u.Groups,
		})
		listed[u.Email] = true
		return err
	}
	for _, u := range us {
		if err := add(u.complete()); err != nil {
			return nil, err
		}
	}
	nobody := rand.Text()
	for _, u := range gone {
		if u = u.complete(); listed[u.Email] {
			continue
		}
		if err := add(User{ID: nobody, Username: u.Username, Email: u.Email, Password: nobody}); err != nil {
			return nil, err
		}
	}
	return list, nil
}
