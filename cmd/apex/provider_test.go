package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/apex-network/apex/internal/idp"
)

// providers are the OpenID providers that scripts start, each by its script's work folder.
type providers struct {
	mu sync.Mutex
	by map[string]*idp.Issuer
}

// start is the script command `issuer`: a simulated provider on the loopback. It sets $ISSUER.
func (p *providers) start(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: issuer")
	}
	i, err := idp.StartIssuer(idp.IssuerOptions{})
	ts.Check(err)
	ts.Defer(i.Close)
	ts.Setenv("ISSUER", i.Issuer())
	p.mu.Lock()
	defer p.mu.Unlock()
	p.by[ts.Getenv("WORK")] = i
}

func (p *providers) of(ts *testscript.TestScript) *idp.Issuer {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := p.by[ts.Getenv("WORK")]
	if i == nil {
		ts.Fatalf("run issuer first")
	}
	return i
}

// mint is the script command `mint FILE [CLAIM=VALUE...]`: it writes a token of the script's provider, for the audience
// apex, into a file.
func (p *providers) mint(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: mint FILE [CLAIM=VALUE...]")
	}
	i := p.of(ts)
	claims := i.Claims("apex", "job", time.Now())
	for _, a := range args[1:] {
		name, value, _ := strings.Cut(a, "=")
		claims = claims.With(name, value)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(i.Mint(claims)+"\n"), 0o600))
}

// github is the script command `github COMMIT`: it sets the environment of a job of GitHub Actions that runs for a commit.
func (p *providers) github(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: github COMMIT")
	}
	i := p.of(ts)
	job := idp.GitHubJob{Environment: "production"}
	for _, v := range i.GitHubEnv(job.Claims(i.Issuer(), "", time.Now()).With("sha", args[0])) {
		name, value, _ := strings.Cut(v, "=")
		ts.Setenv(name, value)
	}
}

// commit is the script command `commit VARIABLE DIR`: it puts the commit id of a clone's HEAD into a variable.
func commit(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: commit VARIABLE DIR")
	}
	ts.Check(ts.Exec("git", "-C", args[1], "rev-parse", "HEAD"))
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile("stdout")))
}

// readenv is the script command `readenv VARIABLE FILE`: it puts what a file holds into a variable.
func readenv(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: readenv VARIABLE FILE")
	}
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile(args[1])))
}

// hides is the script command `hides FILE...`: it fails if anything that the last command printed, or a file holds, looks
// like a JWT.
func hides(ts *testscript.TestScript, neg bool, args []string) {
	if neg {
		ts.Fatalf("usage: hides [FILE...]")
	}
	for _, name := range append([]string{"stdout", "stderr"}, args...) {
		text := ts.ReadFile(name)
		if i := strings.Index(text, "eyJ"); i >= 0 {
			ts.Fatalf("%s shows a token: %s", filepath.Base(name), fmt.Sprintf("%.12s…", text[i:]))
		}
	}
}
