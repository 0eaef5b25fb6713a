package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/apex-network/apex/internal/cli"
	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/diag"
	"github.com/apex-network/apex/spec/policy"
)

// answer is what `apex can -o json` prints.
type answer struct {
	Zone    string         `json:"zone"`
	From    string         `json:"from"`
	To      string         `json:"to"`
	Port    string         `json:"port,omitempty"`
	Allowed bool           `json:"allowed"`
	Rule    string         `json:"rule,omitempty"`
	At      *diag.Position `json:"at,omitempty"`
	Reason  string         `json:"reason"`
}

func newCan(s cli.Streams) *cobra.Command {
	var format, zone string
	c := &cobra.Command{
		Use:   "can FROM TO [PORT] [DIR]",
		Short: "Say whether one node may reach another, and which rule decides it",
		Long: `Can answers whether FROM may open a flow to TO. FROM and TO are node names, addresses or prefixes behind a
router, or user:NAME and group:NAME for whoever enrols by a member rule; PORT is like tcp/5432, udp/53, icmp or tcp/8000-8099. Without PORT the question is whether anything at all
is allowed.

Exit codes: 0 allowed, 1 denied, 3 the network or the question is invalid.`,
		Example: "  apex can web-1 db-1 tcp/5432\n  apex can laptop 10.1.0.7 tcp/443 --zone office\n  apex can group:ops db-1 tcp/22",
		Args:    cobra.RangeArgs(2, 4),
		RunE: func(_ *cobra.Command, args []string) error {
			port, dir, err := canArgs(args)
			if err != nil {
				return err
			}
			return can(s, dir, format, zone, args[0], args[1], port, time.Now())
		},
	}
	c.Flags().StringVarP(&format, "output", "o", "text", "how to print the answer: text, json or yaml")
	c.Flags().StringVar(&zone, "zone", "", "the zone to ask about; needed only if several zones know both names")
	return c
}

// canArgs tells PORT from DIR among the optional arguments.
func canArgs(args []string) (port *spec.Port, dir string, err error) {
	dir = "."
	for i, a := range args[2:] {
		p, perr := spec.ParsePort(a)
		switch {
		case perr == nil && i == 0:
			port = &p
		case i == len(args)-3 && !(i == 0 && len(args) == 4):
			dir = a
		default:
			return nil, "", cli.WithCode(cli.Invalid, perr)
		}
	}
	return port, dir, nil
}

func can(s cli.Streams, dir, format, zone, from, to string, port *spec.Port, now time.Time) error {
	w, err := validWorkspace(s, dir, now)
	if err != nil {
		return err
	}
	zone, err = w.zoneOf(zone, from, to)
	if err != nil {
		return err
	}
	v := policy.New(w.repo, zone).Can(from, to, port, now)
	a := answer{Zone: zone, From: from, To: to, Allowed: v.Allowed, Rule: v.Rule, Reason: v.Reason}
	if port != nil {
		a.Port = port.String()
	}
	if v.Pos.File != "" {
		a.At = &v.Pos
	}
	if err := printAnswer(s, format, a); err != nil {
		return err
	}
	if !v.Allowed {
		return cli.Quiet(cli.Failed)
	}
	return nil
}

func printAnswer(s cli.Streams, format string, a answer) error {
	if format != "text" {
		return cli.Print(s.Out, format, a)
	}
	word := paint(s, green, "allowed")
	if !a.Allowed {
		word = paint(s, red, "denied")
	}
	port := ""
	if a.Port != "" {
		port = " " + a.Port
	}
	fmt.Fprintf(s.Out, "%s: %s -> %s%s in zone %s\n", word, a.From, a.To, port, a.Zone)
	if a.At != nil {
		fmt.Fprintf(s.Out, "  %s: ", a.At)
	} else {
		fmt.Fprint(s.Out, "  ")
	}
	fmt.Fprintln(s.Out, a.Reason)
	return nil
}

// zoneOf finds the one zone that knows all the named nodes. Addresses and prefixes are known to every zone.
func (w *workspace) zoneOf(zone string, names ...string) (string, error) {
	if zone != "" {
		for _, z := range w.repo.Zones {
			if z.Value.Metadata.Name == zone {
				return zone, nil
			}
		}
		return "", cli.WithCode(cli.Invalid, fmt.Errorf("zone %q is not in %s", zone, w.dir))
	}
	var candidates []string
	for _, z := range w.repo.Zones {
		if w.zoneKnows(z.Value.Metadata.Name, names) {
			candidates = append(candidates, z.Value.Metadata.Name)
		}
	}
	switch len(candidates) {
	case 1:
		return candidates[0], nil
	case 0:
		return "", cli.WithCode(cli.Invalid, fmt.Errorf("no zone has all of %q%s", names, w.whyUnknown(names)))
	}
	return "", cli.WithCode(cli.Invalid, fmt.Errorf("zones %q all have %q; choose one with --zone", candidates, names))
}

// whyUnknown says what may be wrong with names that no zone has.
func (w *workspace) whyUnknown(names []string) string {
	issuers := w.repo.IdentityNames()
	for _, name := range names {
		who, ok := spec.ParseMemberEndpoint(name)
		if !ok {
			continue
		}
		if _, _, ok := issuers.Split(who.User + who.Group); !ok {
			return fmt.Sprintf("; %s names no issuer: with several, write group:ISSUER:NAME or user:ISSUER:NAME", name)
		}
	}
	return "; node names are listed by `apex map show`, and a user or group needs a member rule that can admit it"
}

func (w *workspace) zoneKnows(zone string, names []string) bool {
	for _, name := range names {
		if isAddress(name) {
			continue
		}
		if who, ok := spec.ParseMemberEndpoint(name); ok {
			if !w.zoneAdmits(zone, who) {
				return false
			}
			continue
		}
		if w.node(zone, name) == nil {
			return false
		}
	}
	return true
}

// zoneAdmits reports whether a member rule of the zone admits a user or group.
func (w *workspace) zoneAdmits(zone string, who spec.MemberEndpoint) bool {
	z := w.repo.Zone(zone)
	issuer, name, ok := w.repo.IdentityNames().Split(who.User + who.Group)
	return z != nil && ok && len(z.Value.Spec.RulesFor(issuer, who.Named(name))) > 0
}
