package status

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"
)

// Write prints the status for people: conditions that need attention first, then generations, signatures and peers. Ages
// count to when the status was taken.
func (s Status) Write(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintf(t, "node %s of network %s, agent %s, up %s\n", s.Node, s.Network, s.Version, age(s.Taken.Sub(s.Started)))
	for _, z := range s.Zones {
		z.write(t, s.Taken)
	}
	return t.Flush()
}

func (z Zone) write(w io.Writer, now time.Time) {
	fmt.Fprintf(w, "\nzone %s on %s\n", z.Zone, z.Interface)
	good := map[string]bool{}
	for _, d := range Definitions() {
		good[d.Type] = d.Good
	}
	for _, c := range z.Conditions {
		if c.Type == Ready || c.Status != good[c.Type] {
			fmt.Fprintf(w, "  %s\t%t\t%s\t%s\t%s\n", c.Type, c.Status, c.Reason, age(now.Sub(c.Since)), c.Message)
		}
	}
	z.Verified.write(w, "verified")
	z.Applied.write(w, "applied")
	for _, g := range z.Signatures {
		expires := "does not expire"
		if g.Expires != nil {
			expires = "expires in " + age(g.Expires.Sub(now))
			if g.Expired {
				expires = "EXPIRED " + age(now.Sub(*g.Expires)) + " ago"
			}
		}
		fmt.Fprintf(w, "  %s\t%s\t%s old\t%s\n", g.Name, g.Version, age(time.Duration(g.AgeSeconds)*time.Second), expires)
	}
	state := "not connected"
	if z.Controller.Connected {
		state = "connected"
	}
	heard := "never heard of"
	if z.Controller.LastMessageAgeSeconds >= 0 {
		heard = "last heard " + age(time.Duration(z.Controller.LastMessageAgeSeconds)*time.Second) + " ago"
	}
	fmt.Fprintf(w, "  controller\t%s\t%s\t%s\n", z.Controller.URL, state, heard)
	if e := z.Enrolment; e != nil {
		e.write(w, now)
	}
	if len(z.Peers) > 0 {
		fmt.Fprintf(w, "  PEER\tENDPOINT\tHANDSHAKE\tRECEIVED\tSENT\n")
	}
	for _, p := range z.Peers {
		handshake := "never"
		if !p.LastHandshake.IsZero() {
			handshake = age(now.Sub(p.LastHandshake)) + " ago"
		}
		endpoint := p.Endpoint
		if endpoint == "" {
			endpoint = "-"
		}
		fmt.Fprintf(w, "  %s\t%s\t%s\t%s\t%s\n", p.Name, endpoint, handshake, size(p.ReceivedBytes), size(p.SentBytes))
	}
}

func (e *Enrolment) write(w io.Writer, now time.Time) {
	if e.Identity == "" {
		fmt.Fprintf(w, "  enrolment\t%s\n", e.Stage)
		return
	}
	expires := "expires in " + age(e.Expires.Sub(now))
	if !now.Before(e.Expires) {
		expires = "EXPIRED " + age(now.Sub(e.Expires)) + " ago"
	}
	fmt.Fprintf(w, "  enrolment\t%s\t%s\trule %s\t%s\n", e.Stage, e.Identity, e.Rule, expires)
}

func (g *Generation) write(w io.Writer, standing string) {
	if g == nil {
		fmt.Fprintf(w, "  %s\tnothing yet\n", standing)
		return
	}
	fmt.Fprintf(w, "  %s\tgeneration %d.%d\tcommit %.12s\tview %.12s\n", standing, g.Epoch, g.Serial, g.Commit, g.View)
}

// age is a duration with one unit too few rather than one too many.
func age(d time.Duration) string {
	switch {
	case d < 0:
		return "-" + age(-d)
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%dd", d/(24*time.Hour))
}

// size is bytes in binary units.
func size(n int64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	value, unit := float64(n)/1024, 0
	for value >= 1024 && unit < 5 {
		value, unit = value/1024, unit+1
	}
	return fmt.Sprintf("%.1f %ciB", value, "KMGTPE"[unit])
}
