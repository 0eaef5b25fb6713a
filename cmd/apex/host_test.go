package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/apex-network/apex/agent"
	"github.com/apex-network/apex/agent/keys"
	"github.com/apex-network/apex/internal/cli"
	"github.com/apex-network/apex/internal/idp"
	"github.com/apex-network/apex/reconciler"
	"github.com/apex-network/apex/reconciler/twin"
)

// program makes a script's program of a function.
func program(name string, f func(context.Context) error) func() {
	return func() { os.Exit(int(cli.Run(name, cli.StandardStreams(), f))) }
}

// host is the script program `host CONFIG`: the real agent on a host in memory, which needs no privileges.
func host(ctx context.Context) error {
	config, err := agent.ReadConfig(os.Args[1])
	if err != nil {
		return err
	}
	config = config.WithDefaults()
	if err := config.Validate(); err != nil {
		return err
	}
	files := keys.Files{Identity: config.IdentityKeyFile, WireGuard: map[string]string{}}
	for _, z := range config.Zones {
		files.WireGuard[z.Name] = z.WireGuardKeyFile
	}
	ring, err := keys.Open(files, true, rand.Reader)
	if err != nil {
		return err
	}
	inMemory := twin.New()
	a, err := agent.New(agent.Options{
		Config: config, Version: "test", Keys: ring, Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		NewEngine: func(opt reconciler.Options) (agent.Engine, error) {
			opt.Backends = inMemory.Backends()
			return reconciler.New(opt)
		},
		Times: agent.Times{BackoffMin: 100 * time.Millisecond, EnrolMin: 200 * time.Millisecond, EnrolMax: time.Second, Tick: 200 * time.Millisecond},
	})
	if err != nil {
		return err
	}
	return a.Run(ctx)
}

// shown finds the address that a person is shown.
var shown = regexp.MustCompile(`https?://\S+`)

// person is the script program `person URL`, a browser in the hands of $LOGIN, and `person approve|paste FILE`: it waits until
// FILE, which apex writes to, shows an address; it approves the device there, or prints where the browser ended.
func person(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute) // only for what hangs
	defer cancel()
	ca, err := os.ReadFile(os.Getenv("ISSUER_CA"))
	if err != nil {
		return err
	}
	p := idp.Person{Login: os.Getenv("LOGIN"), Password: os.Getenv("PASSWORD"), Client: idp.NewClient((&net.Dialer{}).DialContext, ca)}
	if len(os.Args) == 2 {
		_, err := p.Follow(ctx, os.Args[1])
		return err
	}
	page, err := awaitPage(ctx, os.Args[2], os.Args[1] == "approve")
	if err != nil {
		return err
	}
	if os.Args[1] == "approve" {
		return p.Approve(ctx, page)
	}
	p.Client.Transport = elsewhere{p.Client.Transport}
	last, err := p.Follow(ctx, page)
	if err != nil {
		return err
	}
	_, err = fmt.Println(last)
	return err
}

// awaitPage waits for the address in a file that a person would open: a device's comes with its code in it, any other with
// the nonce that it asks for. The issuer's address, which the file names before, is neither. Only whole lines count: their
// writer may be in the middle of one.
func awaitPage(ctx context.Context, file string, device bool) (string, error) {
	mark := "nonce="
	if device {
		mark = "user_code="
	}
	for ctx.Err() == nil {
		text, err := os.ReadFile(file)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", err
		}
		whole := text[:bytes.LastIndexByte(text, '\n')+1]
		for _, page := range shown.FindAllString(string(whole), -1) {
			if strings.Contains(page, mark) {
				return page, nil
			}
		}
		time.Sleep(20 * time.Millisecond) // another process writes; there is nothing to wait on
	}
	return "", ctx.Err()
}

// elsewhere is the network of another machine, where nobody listens on the loopback for apex.
type elsewhere struct{ next http.RoundTripper }

func (e elsewhere) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Path == "/callback" && r.URL.Scheme == "http" {
		return &http.Response{StatusCode: http.StatusBadGateway, Status: "502 nobody listens", Request: r, Body: http.NoBody}, nil
	}
	return e.next.RoundTrip(r)
}

// dex is the script command `dex NAME=GROUP...`: it starts a real Dex with these people, whose passwords are `pass`, and sets
// $ISSUER and $ISSUER_CA.
func dex(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: dex NAME=GROUP...")
	}
	var users idp.Users
	for _, a := range args {
		name, group, _ := strings.Cut(a, "=")
		users = append(users, idp.User{Username: name, Password: "pass", Groups: []string{group}})
	}
	folder := ts.MkAbs("dex")
	ts.Check(os.Mkdir(folder, 0o700))
	d, err := idp.StartDex(context.Background(), idp.DexOptions{Place: idp.Place{Folder: folder, TLS: true}, Users: users})
	ts.Check(err)
	ts.Defer(func() { ts.Check(d.Close()) })
	ts.Check(os.WriteFile(ts.MkAbs("issuer.crt"), d.CA(), 0o644))
	ts.Setenv("ISSUER", d.Issuer())
	ts.Setenv("ISSUER_CA", ts.MkAbs("issuer.crt"))
	ts.Setenv("PASSWORD", "pass")
}
