package plan

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
)

// JSON writes the plan in its stable schema, indented.
func (p *Plan) JSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(p)
}

// Text writes the plan for a terminal: + gained or added, - lost or removed, ~ changed.
func (p *Plan) Text(w io.Writer, color bool) error {
	t := &terminal{color: color}
	if p.Empty() {
		t.linef(plain, "No changes: the network is what it was.")
		return t.flush(w)
	}
	for _, problem := range p.Problems {
		t.linef(red, "! %s", problem)
	}
	if p.TrustRoot != "" {
		t.linef(yellow, "~ trust root: %s", p.TrustRoot)
	}
	for _, f := range p.Network {
		t.linef(yellow, "~ %s", field(f))
	}
	for i := range p.Zones {
		if i > 0 || t.out.Len() > 0 {
			t.out.WriteByte('\n')
		}
		t.zone(&p.Zones[i])
	}
	t.out.WriteByte('\n')
	t.linef(plain, "%s", p.summary())
	if note := p.Enrolled.note(); note != "" {
		t.linef(yellow, "%s", note)
	}
	return t.flush(w)
}

// summary counts what changes in one line.
func (p *Plan) summary() string {
	var gained, lost, hosts, untested int
	for i := range p.Zones {
		z := &p.Zones[i]
		gained, lost, hosts, untested = gained+len(z.Gained), lost+len(z.Lost), hosts+len(z.Hosts), untested+len(z.Untested())
	}
	text := fmt.Sprintf("Plan: %s gained, %d lost, %s to reconfigure, %s missing.", count(gained, "connection"), lost,
		count(hosts, "host"), count(untested, "test"))
	if p.Enrolled != nil && p.Enrolled.Known {
		text += fmt.Sprintf(" %s before, %d after.", count(p.Enrolled.Before, "enrolled node"), p.Enrolled.After)
	}
	return text
}

func count(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

// paint is an ANSI colour.
type paint string

const (
	plain  paint = ""
	bold   paint = "\x1b[1m"
	red    paint = "\x1b[31m"
	green  paint = "\x1b[32m"
	yellow paint = "\x1b[33m"
	faint  paint = "\x1b[2m"
	reset        = "\x1b[0m"
)

type terminal struct {
	out   strings.Builder
	color bool
}

func (t *terminal) linef(c paint, format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	if t.color && c != plain {
		line = string(c) + line + reset
	}
	t.out.WriteString(line + "\n")
}

func (t *terminal) flush(w io.Writer) error {
	_, err := io.WriteString(w, t.out.String())
	return err
}

func mark(k Kind) (string, paint) {
	switch k {
	case Added:
		return "+", green
	case Removed:
		return "-", red
	}
	return "~", yellow
}

func (t *terminal) zone(z *Zone) {
	t.linef(bold, "Zone %s (%s): %s before, %d after", z.Zone, z.Change, count(z.NodesBefore, "node"), z.NodesAfter)
	for _, f := range z.Settings {
		t.linef(yellow, "  ~ %s", field(f))
	}
	t.nodes("Nodes", z.Nodes)
	t.nodes("Member rules", z.MemberRules)
	t.nodes("Policy rules", z.PolicyRules)
	if len(z.Members) > 0 {
		t.linef(bold, "  Enrolled nodes")
		for _, m := range z.Members {
			sign, c := mark(m.Change)
			t.linef(c, "    %s %s (%s)%s", sign, m.Node, m.Who, m.why())
			for _, f := range m.Fields {
				t.linef(faint, "        %s", field(f))
			}
		}
	}
	t.reach("Gained", "+", green, z.Gained)
	t.reach("Lost", "-", red, z.Lost)
	t.reach("End at another time", "~", yellow, z.Limits)
	if len(z.Moves) > 0 {
		t.linef(bold, "  Moves")
		for _, m := range z.Moves {
			t.linef(yellow, "    ~ %s %s: %s", m.What, m.Item, hands(m))
		}
	}
	if len(z.Overlaps) > 0 {
		t.linef(bold, "  New overlaps")
		for _, o := range z.Overlaps {
			t.linef(yellow, "    ! %s and %s: %s", o.A, o.B, o.Note)
		}
	}
	if len(z.Hosts) > 0 {
		t.linef(bold, "  Hosts to reconfigure (%d)", len(z.Hosts))
		t.linef(plain, "    %s", strings.Join(shorten(z.Hosts), ", "))
	}
	if missing := z.Untested(); len(missing) > 0 {
		t.linef(bold, "  Tests missing")
		for _, r := range missing {
			t.linef(yellow, "    ? %s", r.Missing)
		}
	}
}

func (t *terminal) nodes(title string, list []Node) {
	if len(list) == 0 {
		return
	}
	t.linef(bold, "  %s", title)
	for _, n := range list {
		sign, c := mark(n.Change)
		t.linef(c, "    %s %s%s", sign, n.Name, nodeNote(n))
		for _, f := range n.Fields {
			t.linef(faint, "        %s", field(f))
		}
	}
}

// why says why a member leaves.
func (m *Member) why() string {
	if m.Reason == "" {
		return ""
	}
	return " leaves: " + m.Detail
}

func (t *terminal) reach(title, sign string, c paint, list []Reach) {
	if len(list) == 0 {
		return
	}
	t.linef(bold, "  %s", title)
	for _, r := range list {
		end := ""
		if sign == "~" && r.Until == nil {
			end = " without end"
		}
		t.linef(c, "    %s %s → %s  %s%s", sign, r.From.Text, r.To.Text, r.ports(), end)
		if len(r.Apart) > 0 {
			t.linef(faint, "        but not within %s", r.apart())
		}
		t.linef(faint, "        %s", r.note())
	}
}

// ports says which ports, and until when.
func (r *Reach) ports() string {
	out := strings.Join(r.Ports, ", ")
	if out == "all" {
		out = "all ports"
	}
	if len(r.Except) > 0 {
		out += " except " + strings.Join(r.Except, ", ")
	}
	if r.Until != nil {
		out += " until " + r.Until.Format(time.RFC3339)
	}
	return out
}

// apart names the sets within which nothing changes.
func (r *Reach) apart() string {
	names := make([]string, len(r.Apart))
	for i, s := range r.Apart {
		names[i] = s.Text
	}
	return strings.Join(shorten(names), "; ")
}

// note says which rules and whether a test stands behind the line.
func (r *Reach) note() string {
	rules := shorten(r.Rules)
	out := "rule " + strings.Join(rules, ", ")
	if len(r.Rules) > 1 {
		out = "rules " + strings.Join(rules, ", ")
	}
	if r.Tested {
		out += "; tested"
	}
	return out
}

func nodeNote(n Node) string {
	if n.Change == Rekeyed {
		return " (rekeyed)"
	}
	return ""
}

func field(f Field) string {
	show := func(s string) string {
		if s == "" {
			return "(none)"
		}
		return s
	}
	return fmt.Sprintf("%s: %s → %s", f.Field, show(f.Old), show(f.New))
}

func hands(m Move) string {
	show := func(s string) string {
		if s == "" {
			return "(nobody)"
		}
		return s
	}
	return show(m.From) + " → " + show(m.To)
}
