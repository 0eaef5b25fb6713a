package main

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/apex-network/apex/controller/client"
	"github.com/apex-network/apex/internal/cli"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/spec/binding"
	"github.com/apex-network/apex/spec/peermap"
)

// enrolFlags say which network's enrolments are meant.
type enrolFlags struct {
	remoteFlags
	networkFlags
	zone string
}

func (f *enrolFlags) register(c *cobra.Command) {
	f.remoteFlags.register(c)
	f.networkFlags.register(c)
	c.Flags().StringVar(&f.zone, "zone", "", "only this zone")
}

func newEnrol(s cli.Streams) *cobra.Command {
	c := &cobra.Command{Use: "enrol", Short: "See who joined by identity, and decide on those who wait"}
	c.AddCommand(newEnrolList(s), newEnrolApprove(s), newEnrolDeny(s))
	return c
}

func newEnrolList(s cli.Streams) *cobra.Command {
	var f enrolFlags
	var format string
	c := &cobra.Command{
		Use:   "list",
		Short: "List the nodes that joined by identity and the requests that wait",
		Long: `List prints the bindings in force and the requests that wait for a maintainer, with all that an approval would give them. The last
column of a binding is what Network.spec.revoked takes as binding. Reading needs a key that the trust root names as applier or maintainer.`,
		Example: "  apex enrol list --controller https://apex.example.com --key ~/.ssh/id_ed25519",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return enrolList(c.Context(), s, f, format)
		},
	}
	f.register(c)
	c.Flags().StringVarP(&format, "output", "o", "table", "how to print it: table, json or yaml")
	return c
}

// enrolments is what enrol list prints.
type enrolments struct {
	Bindings []enrolled         `json:"bindings"`
	Waiting  []protocol.Waiting `json:"waiting"`
}

// enrolled is a binding with the digest that names it.
type enrolled struct {
	Digest  peermap.Digest  `json:"digest"`
	Binding binding.Binding `json:"binding"`
}

// readEnrolments decodes a controller's list and keeps what is of the zone; an empty zone keeps all.
func readEnrolments(list protocol.EnrolmentList, zone string) (enrolments, error) {
	e := enrolments{Bindings: []enrolled{}, Waiting: []protocol.Waiting{}}
	for _, payload := range list.Bindings {
		b, err := binding.NewSigned(payload, nil)
		if err != nil {
			return e, fmt.Errorf("the controller lists a binding that cannot be read: %w", err)
		}
		if zone == "" || b.Binding.Zone == zone {
			e.Bindings = append(e.Bindings, enrolled{b.Digest, b.Binding})
		}
	}
	for _, w := range list.Waiting {
		if zone == "" || w.Zone == zone {
			e.Waiting = append(e.Waiting, w)
		}
	}
	return e, nil
}

// read asks the controller who has joined and who waits. The client that it gives goes on until done, with the same key.
func (f *enrolFlags) read(ctx context.Context, s cli.Streams) (r *client.Client, e enrolments, done func(), err error) {
	network, err := f.name()
	if err != nil {
		return nil, e, nil, err
	}
	if r, done, err = f.open(s, network); err != nil {
		return nil, e, nil, err
	}
	list, err := r.Enrolments(ctx)
	if err != nil {
		err = coded(err)
	} else {
		e, err = readEnrolments(list, f.zone)
	}
	if err != nil {
		done()
		return nil, e, nil, err
	}
	return r, e, done, nil
}

func enrolList(ctx context.Context, s cli.Streams, f enrolFlags, format string) error {
	_, e, done, err := f.read(ctx, s)
	if err != nil {
		return err
	}
	defer done()
	if format != "table" {
		return cli.Print(s.Out, format, e)
	}
	return e.write(s)
}

func (e enrolments) write(s cli.Streams) error {
	w := tabwriter.NewWriter(s.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ZONE\tNODE\tIDENTITY\tADDRESS\tRULE\tUNTIL\tBINDING")
	for _, b := range e.Bindings {
		addresses := make([]string, len(b.Binding.Addresses))
		for i, a := range b.Binding.Addresses {
			addresses[i] = a.String()
		}
		id := b.Binding.Identity
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", b.Binding.Zone, b.Binding.Node,
			whose(id.Issuer, id.Username, id.Subject), joined(addresses), b.Binding.Rule.Name,
			time.Unix(b.Binding.Expires, 0).UTC().Format(time.RFC3339), b.Digest)
	}
	if len(e.Waiting) > 0 {
		fmt.Fprintln(w, "\nWAITING\tZONE\tNODE\tIDENTITY\tSUBJECT\tGROUPS\tRULE\tROUTES\tRELAY\tSINCE")
	}
	for _, r := range e.Waiting {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%t\t%s\n", r.ID, r.Zone, r.Node, whose(r.Issuer, r.Username, r.Subject),
			r.Subject, joined(r.Groups), r.Rule, routesOf(r.Routes), r.Relay, r.Since.UTC().Format(time.RFC3339))
	}
	return w.Flush()
}

// routesOf lists all routes, however many: an approval is for each of them.
func routesOf(routes []netip.Prefix) string {
	if len(routes) == 0 {
		return "-"
	}
	texts := make([]string, len(routes))
	for i, p := range routes {
		texts[i] = p.String()
	}
	return strings.Join(texts, ", ")
}

// whose names an identity as selectors do.
func whose(issuer, username, subject string) string {
	if username == "" {
		username = subject
	}
	return issuer + ":" + username
}

// find gives the request that waits under an ID, the beginning of one, or a node's name.
func (e enrolments) find(what string) (protocol.Waiting, error) {
	var fit []protocol.Waiting
	for _, w := range e.Waiting {
		if w.ID == what || w.Node == what || len(what) >= 4 && strings.HasPrefix(w.ID, what) {
			fit = append(fit, w)
		}
	}
	switch len(fit) {
	case 1:
		return fit[0], nil
	case 0:
		return protocol.Waiting{}, cli.WithCode(cli.Invalid, fmt.Errorf("no request %q waits; see apex enrol list", what))
	}
	ids := make([]string, len(fit))
	for i, w := range fit {
		ids[i] = w.ID
	}
	slices.Sort(ids)
	return protocol.Waiting{}, cli.WithCode(cli.Invalid, fmt.Errorf(
		"%q means several requests: name one of %s", what, strings.Join(ids, ", ")))
}
