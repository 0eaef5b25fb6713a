package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/apex-network/apex/agent/fetch"
	"github.com/apex-network/apex/internal/cli"
	"github.com/apex-network/apex/internal/login"
	"github.com/apex-network/apex/internal/oidcclient"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/spec/binding"
)

// signInFlags say how a person signs in.
type signInFlags struct {
	issuer                 string
	browser, device, paste bool
	caFile, callback       string
	timeout                time.Duration
}

func (f *signInFlags) register(c *cobra.Command) {
	c.Flags().StringVar(&f.issuer, "issuer", "", "issuer of the network to sign in at; needed only if there are several")
	c.Flags().BoolVar(&f.browser, "browser", false, "sign in with a browser on this machine")
	c.Flags().BoolVar(&f.paste, "paste", false, "sign in with a browser elsewhere and paste the address that it ends at")
	c.Flags().BoolVar(&f.device, "device", false, "sign in with a code that is typed in elsewhere")
	c.Flags().StringVar(&f.caFile, "issuer-ca-file", "", "certificate authorities of the issuer instead of the system's, PEM")
	c.Flags().StringVar(&f.callback, "callback", "", "host:port of the loopback that the issuer has registered (default: 127.0.0.1 and any port)")
	c.Flags().DurationVar(&f.timeout, "timeout", 10*time.Minute, "how long to wait for a person, and for a controller that is not ready")
}

// way is how a person signs in.
type way int

const (
	byBrowser way = iota
	byPaste
	byDevice
)

// way takes the one that was asked for, or the best there is: a browser here, then one elsewhere; a device code only
// where the network takes tokens that commit to no keys, since few providers let such a code carry a nonce.
func (f *signInFlags) way(goos string, env login.Environ, interactive, bound bool) (way, error) {
	asked := []way{}
	for w, set := range []bool{byBrowser: f.browser, byPaste: f.paste, byDevice: f.device} {
		if set {
			asked = append(asked, way(w))
		}
	}
	switch {
	case len(asked) > 1:
		return 0, cli.WithCode(cli.Invalid, errors.New("choose one of --browser, --paste and --device"))
	case len(asked) == 1:
		return asked[0], nil
	case login.HasBrowser(goos, env):
		return byBrowser, nil
	case !bound:
		return byDevice, nil
	case interactive:
		return byPaste, nil
	}
	return 0, cli.WithCode(cli.Invalid, errors.New("there is neither a browser nor a terminal here to sign in with: give a token "+
		"(--token-file, --token-env), or sign in on another machine (apex join --request here, apex login --request there)"))
}

// chooseIssuer finds the issuer by name, or the only one there is, or the only one that people can sign in at.
func chooseIssuer(issuers []protocol.IssuerInfo, name string) (protocol.IssuerInfo, error) {
	var fit []protocol.IssuerInfo
	var names []string
	for _, i := range issuers {
		names = append(names, i.Name)
		if i.Name == name || name == "" && i.ClientID != "" {
			fit = append(fit, i)
		}
	}
	if len(fit) == 1 {
		return fit[0], nil
	}
	if name == "" && len(issuers) == 1 {
		return issuers[0], nil
	}
	switch {
	case len(names) == 0:
		return protocol.IssuerInfo{}, cli.WithCode(cli.Invalid, errors.New(
			"the network has no issuers: nobody can join by identity (Network.spec.issuers)"))
	case name != "":
		return protocol.IssuerInfo{}, cli.WithCode(cli.Invalid, fmt.Errorf(
			"issuer %q is none of the network's: %s", name, strings.Join(names, ", ")))
	}
	return protocol.IssuerInfo{}, cli.WithCode(cli.Invalid, fmt.Errorf(
		"choose an issuer with --issuer: %s", strings.Join(names, ", ")))
}

// signIn lets the person at the terminal sign in so that the token commits to commitment.
func (f *signInFlags) signIn(
	ctx context.Context, s cli.Streams, issuers []protocol.IssuerInfo, commitment string,
) (*login.Session, error) {
	issuer, err := chooseIssuer(issuers, f.issuer)
	if err != nil {
		return nil, err
	}
	if err := fitToShow(issuer); err != nil {
		return nil, err
	}
	how, err := f.way(runtime.GOOS, os.Getenv, s.Interactive, issuer.Bound)
	if err != nil {
		return nil, err
	}
	transport, err := fetch.NewTransport(fetch.TLS{CAFile: f.caFile})
	if err != nil {
		return nil, cli.WithCode(cli.Invalid, err)
	}
	flow := &login.Flow{Issuer: issuer, Commitment: commitment, Callback: f.callback,
		Client: oidcclient.New(transport, "apex/"+version)}
	// Unless the agent's configuration says so, it is the controller that says where people sign in, and as which client.
	fmt.Fprintf(s.Err, "Issuer %s is %q, and the token is for its client %q. If that is not what your network uses, stop here.\n",
		issuer.Name, issuer.URL, issuer.ClientID)
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	session, err := f.run(ctx, s, flow, how)
	switch {
	case errors.Is(err, login.ErrExpired):
		return nil, cli.WithCode(cli.TimedOut, err)
	case errors.Is(err, login.ErrToken), errors.Is(err, login.ErrUnbound), errors.Is(err, login.ErrDenied):
		return nil, cli.WithCode(cli.Trust, err)
	case errors.Is(err, login.ErrUnsupported):
		return nil, cli.WithCode(cli.Invalid, err)
	}
	return session, err
}

// fitToShow refuses an issuer whose words could make a terminal show something else than what they say: the person decides by them.
func fitToShow(issuer protocol.IssuerInfo) error {
	for _, words := range append([]string{issuer.Name, issuer.URL, issuer.ClientID, issuer.Audience}, issuer.Scopes...) {
		if !binding.Printable(words) {
			return cli.WithCode(cli.Trust, fmt.Errorf(
				"issuer %q of the network has characters that do not print (%q): whoever says so is no controller of yours", issuer.Name, words))
		}
	}
	return nil
}

func (f *signInFlags) run(ctx context.Context, s cli.Streams, flow *login.Flow, how way) (*login.Session, error) {
	switch how {
	case byBrowser:
		return flow.Browser(ctx, func(page string) error {
			fmt.Fprintf(s.Err, "Sign in at %s in the browser that opens, or open this address in one on this machine:\n\n  %s\n\n",
				flow.Issuer.Name, page)
			if err := login.Open(ctx, page); err != nil {
				fmt.Fprintf(s.Err, "No browser opened by itself (%v).\n", err)
			}
			return nil
		})
	case byPaste:
		input := bufio.NewReader(io.LimitReader(s.In, maxInput))
		return flow.Paste(ctx, func(page string) {
			fmt.Fprintf(s.Err, "Sign in at %s: open this address in a browser on any machine.\n\n  %s\n\n"+
				"It ends at a page that cannot be loaded. Copy that page's whole address.\n", flow.Issuer.Name, page)
		}, func(ctx context.Context, why error) (string, error) {
			if why != nil {
				fmt.Fprintf(s.Err, "%v.\n", why)
			}
			fmt.Fprint(s.Err, "Paste it here: ")
			return readLine(ctx, input)
		})
	}
	return flow.Device(ctx, func(p login.Prompt) {
		fmt.Fprintf(s.Err, "Sign in at %s: open %s on any machine and type in this code:\n\n  %s\n\n",
			flow.Issuer.Name, protocol.Shown(p.URL), paint(s, bold, protocol.Shown(p.Code)))
		if p.Complete != "" {
			fmt.Fprintf(s.Err, "Or open %s\n", protocol.Shown(p.Complete))
		}
		fmt.Fprintf(s.Err, "Waiting until %s.\n", p.Expires.Local().Format(time.TimeOnly))
	})
}

// readLine reads one line and stops waiting with ctx; the reading itself ends with the process.
func readLine(ctx context.Context, r *bufio.Reader) (string, error) {
	type line struct {
		text string
		err  error
	}
	got := make(chan line, 1)
	go func() {
		text, err := r.ReadString('\n')
		if text != "" && errors.Is(err, io.EOF) {
			err = nil // the last line may lack its end
		}
		got <- line{text, err}
	}()
	select {
	case l := <-got:
		return l.text, l.err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}
