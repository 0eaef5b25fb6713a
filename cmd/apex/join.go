package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/apex-network/apex/agent/control"
	"github.com/apex-network/apex/agent/status"
	"github.com/apex-network/apex/agent/token"
	"github.com/apex-network/apex/internal/cli"
	"github.com/apex-network/apex/internal/login"
	"github.com/apex-network/apex/internal/oidcclient"
	"github.com/apex-network/apex/internal/protocol"
)

// joinPoll is how often join asks the agent how far it is.
const joinPoll = 500 * time.Millisecond

// joinFlags say which zone is joined, with which token, and what is asked for.
type joinFlags struct {
	signInFlags
	zone, socket, format      string
	tokenFile, tokenEnv, file string
	routes                    []string
	relay                     bool
	request, again, wait      bool
	github                    bool
}

func newJoin(s cli.Streams) *cobra.Command {
	var f joinFlags
	c := &cobra.Command{
		Use:   "join",
		Short: "Join a zone with the identity you have",
		Long: `Join signs you in at the network's OpenID provider, hands the token to this host's agent, and waits until the controller has
bound the host to your identity. What your identity may do stands in the zone's member rules. The token commits to the
host's keys, so it is worth nothing to anybody who sees it on its way.

Without --browser, --paste or --device it takes the first that is possible here. Machines give a token instead: from a
file or an environment variable. A host whose agent has a source of tokens (join in its configuration) uses that. To sign in on
another machine, see apex login.

Where a rule asks for a review, join says so and ends; --wait waits for the maintainer. While the controller restarts, join
waits for it, before you sign in and after.

Exit codes: 0 bound, or waiting for a maintainer; 4 the token or the identity is refused; 6 not in time.`,
		Example: "  sudo apex join --zone office\n  sudo apex join --zone office --paste\n" +
			"  sudo apex join --zone ci --issuer gitlab --token-env APEX_ID_TOKEN",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return runJoin(c.Context(), s, control.NewClient(f.socket), f)
		},
	}
	f.register(c)
	c.Flags().StringVar(&f.zone, "zone", "", "zone to join; needed only if this host has several")
	c.Flags().StringVar(&f.socket, "socket", status.DefaultSocket, "the agent's socket")
	c.Flags().StringVar(&f.tokenFile, "token-file", "", "file with an ID token; - reads standard input")
	c.Flags().StringVar(&f.tokenEnv, "token-env", "", "environment variable with an ID token")
	c.Flags().BoolVar(&f.github, "github", false, "ask GitHub Actions for an ID token, in a job that may have one (permissions: id-token: write)")
	c.Flags().StringVar(&f.file, "login", "", "file that apex login wrote; - reads standard input")
	c.Flags().StringArrayVar(&f.routes, "route", nil, "prefix behind this host to ask for; repeatable")
	c.Flags().BoolVar(&f.relay, "relay", false, "ask to be a relay")
	c.Flags().BoolVar(&f.request, "request", false, "only print what apex login --request needs on another machine")
	c.Flags().BoolVar(&f.again, "again", false, "sign in although this host is a member already, or waits")
	c.Flags().BoolVar(&f.wait, "wait", false, "wait for a maintainer's approval too")
	c.Flags().StringVarP(&f.format, "output", "o", "table", "how to print the membership: table, json or yaml")
	return c
}

func runJoin(ctx context.Context, s cli.Streams, agent *control.Client, f joinFlags) error {
	routes, err := f.prefixes()
	if err == nil {
		err = checkFormat(f.format)
	}
	if err != nil {
		return err
	}
	e, err := readyEnrolment(ctx, s, agent, f.zone, f.timeout, f.settled)
	if err != nil {
		return err
	}
	if f.request {
		r, err := requestOf(e)
		if err != nil {
			return err
		}
		return cli.Print(s.Out, "json", r)
	}
	if member(e) && f.settled(e) {
		fmt.Fprintf(s.Err, "This host is a member of zone %s already; --again signs in anew.\n", e.Zone)
		return printEnrolment(s, f.format, e)
	}
	if f.settled(e) {
		return f.follow(ctx, s, agent, e) // who waits gains nothing by signing in again
	}
	session := &login.Session{Issuer: f.issuer} // without a token the agent takes one of its own source
	if !f.own(e) {
		if session, err = f.session(ctx, s, e); err != nil {
			return err
		}
	}
	fmt.Fprintf(s.Err, "Asking to join zone %s as %s.\n", e.Zone, e.Node)
	join := control.Join{
		Zone: e.Zone, Issuer: session.Issuer, IDToken: session.IDToken, RefreshToken: session.RefreshToken,
		TokenEndpoint: session.TokenEndpoint, ClientID: session.ClientID, ClientSecret: session.ClientSecret,
		Routes: routes, Relay: f.relay,
	}
	e, err = whenReady(ctx, s, f.timeout, func(ctx context.Context) (control.Enrolment, error) { return agent.Join(ctx, join) }, notReady)
	if err != nil {
		return err
	}
	return f.follow(ctx, s, agent, e)
}

// settled says whether there is nothing to sign in for.
func (f *joinFlags) settled(e control.Enrolment) bool {
	return !f.request && !f.again && !f.brings() && (member(e) || waits(e))
}

// member says whether the host is bound and stays so without a person.
func member(e control.Enrolment) bool {
	return (e.Stage == control.Bound || e.Stage == control.Renewing) && !e.Lost
}

// waits says whether a maintainer has to decide before the host is a member.
func waits(e control.Enrolment) bool {
	return e.Stage == control.Waiting || e.Lost && e.WaitingID != ""
}

// own says whether the host joins with its own source of tokens, as one that has left and comes back. A way to sign in that is
// named goes before it.
func (f *joinFlags) own(e control.Enrolment) bool {
	chosen := f.browser || f.paste || f.device || f.again || f.brings()
	return e.Automatic && (e.Stage == control.Unbound || e.Stage == control.Enrolling) && !chosen
}

// brings says whether a token comes with the command.
func (f *joinFlags) brings() bool {
	return f.tokenFile != "" || f.tokenEnv != "" || f.file != "" || f.github
}

func (f *joinFlags) prefixes() ([]netip.Prefix, error) {
	list := []netip.Prefix{}
	for _, r := range f.routes {
		p, err := netip.ParsePrefix(r)
		if err != nil || p != p.Masked() {
			return nil, cli.WithCode(cli.Invalid, fmt.Errorf("--route %q: want a prefix without host bits, such as 10.1.0.0/16", r))
		}
		list = append(list, p)
	}
	return list, nil
}

// session is the token that the host is to join with, wherever it comes from.
func (f *joinFlags) session(ctx context.Context, s cli.Streams, e control.Enrolment) (*login.Session, error) {
	given := 0
	for _, is := range []bool{f.tokenFile != "", f.tokenEnv != "", f.file != "", f.github, f.browser || f.paste || f.device} {
		if is {
			given++
		}
	}
	switch {
	case given > 1:
		return nil, cli.WithCode(cli.Invalid, errors.New(
			"choose one of --token-file, --token-env, --github, --login and a way to sign in"))
	case f.file != "":
		return readSession(s, f.file)
	case f.tokenFile != "" || f.tokenEnv != "":
		text, err := readToken(s, f.tokenFile, f.tokenEnv)
		if err != nil {
			return nil, err
		}
		issuer, err := issuerOf(e.Info, f.issuer, text)
		return &login.Session{Issuer: issuer, IDToken: text}, err
	}
	r, err := requestOf(e)
	if err != nil {
		return nil, err
	}
	if !f.github {
		return f.signIn(ctx, s, r.Issuers, r.Commitment)
	}
	issuer, err := chooseIssuer(r.Issuers, f.issuer)
	if err != nil {
		return nil, err
	}
	need := token.Need{Issuer: issuer.URL, Audience: issuer.Audience, Commitment: r.Commitment}
	text, err := token.GitHub{}.Token(ctx, need)
	return &login.Session{Issuer: issuer.Name, IDToken: text}, err
}

// issuerOf finds what the network calls the issuer of a token, unless the name was given.
func issuerOf(info *protocol.EnrolmentInfo, name, raw string) (string, error) {
	if name != "" || info == nil {
		return name, nil
	}
	claims, err := oidcclient.Peek(raw)
	if err != nil {
		return "", cli.WithCode(cli.Invalid, err)
	}
	for _, i := range info.Issuers {
		if i.URL == claims.Issuer {
			return i.Name, nil
		}
	}
	return "", cli.WithCode(cli.Trust, fmt.Errorf(
		"the token's claim iss is %q, which is no issuer of the network", claims.Issuer))
}

// follow asks the agent until the host is bound, waits for a maintainer, or has failed.
func (f *joinFlags) follow(ctx context.Context, s cli.Streams, agent *control.Client, e control.Enrolment) error {
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	tick := time.NewTicker(joinPoll)
	defer tick.Stop()
	said := ""
	for {
		switch {
		case member(e) || e.Stage == control.Expiring && !e.Lost:
			return printEnrolment(s, f.format, e)
		case waits(e) && !f.wait:
			fmt.Fprintf(s.Err, "A maintainer has to approve this: apex enrol approve %s. The agent asks again by itself.\n",
				e.WaitingID)
			return printEnrolment(s, f.format, e)
		case e.Stage == control.Unbound || e.Stage == control.Expired:
			err := fmt.Errorf("zone %s was not joined: %s", e.Zone, e.Message)
			if e.Refused {
				return cli.WithCode(cli.Trust, err)
			}
			return err
		}
		if text := fmt.Sprintf("%s %s", e.Stage, e.Message); text != said {
			said = text
			fmt.Fprintf(s.Err, "%s…\n", strings.TrimSpace(text))
		}
		select {
		case <-ctx.Done():
			return cli.WithCode(cli.TimedOut, fmt.Errorf(
				"zone %s is not joined yet (%s); the agent goes on trying, apex join shows how far it is", e.Zone, e.Stage))
		case <-tick.C:
		}
		next, err := agent.Enrolment(ctx, e.Zone)
		if err != nil && ctx.Err() == nil {
			return agentError(err)
		}
		if err == nil {
			e = next
		}
	}
}

// checkFormat refuses what printEnrolment could not print, before anything is done.
func checkFormat(format string) error {
	if format == "table" || format == "json" || format == "yaml" {
		return nil
	}
	return cli.WithCode(cli.Invalid, fmt.Errorf("output format %q: want table, json or yaml", format))
}

// printEnrolment prints how a host stands in a zone.
func printEnrolment(s cli.Streams, format string, e control.Enrolment) error {
	e.Info = nil // how to join is no part of the membership
	if format != "table" {
		return cli.Print(s.Out, format, e)
	}
	w := tabwriter.NewWriter(s.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "network\t%s\nzone\t%s\nnode\t%s\nstage\t%s\n", e.Network, e.Zone, e.Node, e.Stage)
	if e.WaitingID != "" {
		fmt.Fprintf(w, "waiting as\t%s\n", e.WaitingID)
	}
	if b := e.Binding; b != nil {
		who := b.Username
		if who == "" {
			who = b.Subject
		}
		addresses := make([]string, len(b.Addresses))
		for i, a := range b.Addresses {
			addresses[i] = a.String()
		}
		renewal := "by the agent"
		if !e.Automatic {
			renewal = "by you: apex join"
		}
		fmt.Fprintf(w, "identity\t%s:%s\naddress\t%s\nrule\t%s\nuntil\t%s\nrenewal\t%s\n", b.Issuer, who, joined(addresses), b.Rule,
			b.Expires.UTC().Format(time.RFC3339), renewal)
	}
	if e.Message != "" {
		fmt.Fprintf(w, "message\t%s\n", e.Message)
	}
	return w.Flush()
}

func newLeave(s cli.Streams) *cobra.Command {
	var zone, socket, format string
	c := &cobra.Command{
		Use:   "leave",
		Short: "End this host's membership by identity",
		Long: `Leave ends the binding that apex join got: the host leaves the zone with the next generation, its address is free again, and
the agent forgets how to renew it. A node whose keys stand in git leaves by a commit.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := checkFormat(format); err != nil {
				return err
			}
			e, err := control.NewClient(socket).Leave(c.Context(), zone)
			if err != nil {
				return agentError(err)
			}
			fmt.Fprintf(s.Err, "%s has left zone %s.\n", e.Node, e.Zone)
			return printEnrolment(s, format, e)
		},
	}
	c.Flags().StringVar(&zone, "zone", "", "zone to leave; needed only if this host has several")
	c.Flags().StringVar(&socket, "socket", status.DefaultSocket, "the agent's socket")
	c.Flags().StringVarP(&format, "output", "o", "table", "how to print it: table, json or yaml")
	return c
}
