package main

import (
	"context"
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/apex-network/apex/agent/status"
	"github.com/apex-network/apex/internal/cli"
	"github.com/apex-network/apex/internal/protocol"
)

func newStatus(s cli.Streams) *cobra.Command {
	var f remoteFlags
	var n networkFlags
	var format, socket string
	c := &cobra.Command{
		Use:   "status",
		Short: "Show this host's agent, or with --controller the whole fleet",
		Long: `Status prints what the agent on this host enforces: generation, the age of every signature, conditions and peers.
With --controller it prints the fleet: who is at which commit, who is behind, and why. Reading the fleet needs a
key that the trust root names as applier or maintainer.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if f.controller != "" {
				return fleetStatus(c.Context(), s, f, n, format)
			}
			return hostStatus(c.Context(), s, socket, format)
		},
	}
	f.register(c)
	n.register(c)
	c.Flags().StringVarP(&format, "output", "o", "table", "how to print it: table, json or yaml")
	c.Flags().StringVar(&socket, "socket", status.DefaultSocket, "the agent's status socket")
	return c
}

func hostStatus(ctx context.Context, s cli.Streams, socket, format string) error {
	st, err := status.NewClient(socket).Get(ctx)
	if errors.Is(err, status.ErrNoAgent) {
		return fmt.Errorf("%w: is apex-agent running here? The fleet is shown by apex status --controller URL", err)
	}
	if err != nil {
		return err
	}
	if format != "table" {
		return cli.Print(s.Out, format, st)
	}
	return st.Write(s.Out)
}

func fleetStatus(ctx context.Context, s cli.Streams, f remoteFlags, n networkFlags, format string) error {
	network, err := n.name()
	if err != nil {
		return err
	}
	r, done, err := f.open(s, network)
	if err != nil {
		return err
	}
	defer done()
	fleet, err := r.Fleet(ctx)
	if err != nil {
		return coded(err)
	}
	if format != "table" {
		return cli.Print(s.Out, format, fleet)
	}
	return printFleet(s, fleet)
}

func printFleet(s cli.Streams, f protocol.FleetStatus) error {
	w := tabwriter.NewWriter(s.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "network\t%s\nhead\t%.12s\naccepted\t%.12s\nfetched\t%s\n", f.Network, f.Head, f.Accepted, ago(f.Now, f.Fetched))
	if f.FetchError != "" {
		fmt.Fprintf(w, "fetch\t%s\n", f.FetchError)
	}
	if f.Refused != nil {
		fmt.Fprintf(w, "refused\t%.12s at %s, %s: %s\n", f.Refused.Commit, f.Refused.Stage, ago(f.Now, f.Refused.Since), f.Refused.Reason)
	}
	if f.Waiting > 0 {
		fmt.Fprintf(w, "waiting\t%d enrolments wait for a maintainer: apex enrol list\n", f.Waiting)
	}
	for _, z := range f.Zones {
		printZone(w, f.Now, z)
	}
	if len(f.Rejected) > 0 {
		fmt.Fprintln(w, "\nENROLLED, BUT NO MEMBER\tREASON\t")
	}
	for _, r := range f.Rejected {
		fmt.Fprintf(w, "%s/%s\t%s\t%s\n", r.Zone, r.Node, r.Reason, r.Detail)
	}
	return w.Flush()
}

func printZone(w *tabwriter.Writer, now time.Time, z protocol.ZoneStatus) {
	if z.Current == nil {
		fmt.Fprintf(w, "\nzone %s\tnothing published yet%s\n", z.Zone, zoneNote(z))
	} else {
		enrolled := ""
		if z.Current.Enrolled > 0 {
			enrolled = fmt.Sprintf(", %d of %d nodes enrolled", z.Current.Enrolled, z.Current.Views)
		}
		fmt.Fprintf(w, "\nzone %s\tgeneration %d.%d of %.12s, published %s%s%s\n", z.Zone, z.Current.Epoch, z.Current.Serial,
			z.Current.Commit, ago(now, z.Current.Published), enrolled, zoneNote(z))
	}
	fmt.Fprintln(w, "NODE\tSEEN\tGENERATION\tCOMMIT\tPEERS\tBEHIND")
	for _, n := range z.Nodes {
		generation, commit, peers := "-", "-", "-"
		if n.Status != nil {
			generation = fmt.Sprintf("%d.%d", n.Status.Applied.Epoch, n.Status.Applied.Serial)
			commit = fmt.Sprintf("%.12s", n.Status.Applied.Commit)
			peers = fmt.Sprintf("%d/%d", n.Status.Peers.Alive, n.Status.Peers.Total)
		}
		seen := "connected"
		if !n.Connected {
			seen = ago(now, n.LastSeen)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", n.Node, seen, generation, commit, peers, n.Behind)
	}
}

// ago says how long before now t was.
func ago(now, t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return now.Sub(t).Round(time.Second).String() + " ago"
}
