package plan

import (
	"fmt"
	"io"
	"strings"
)

// Markdown writes the plan for a pull request. Names and values that came from the repository stand in code spans, so
// that they cannot format the page.
func (p *Plan) Markdown(w io.Writer) error {
	var b strings.Builder
	b.WriteString("## Apex plan\n\n")
	if p.Empty() {
		b.WriteString("No changes: the network is what it was.\n")
	} else {
		b.WriteString(p.summary() + "\n")
	}
	for _, problem := range p.Problems {
		b.WriteString("\n> **Does not compile:** " + code(problem) + "\n")
	}
	if p.TrustRoot != "" {
		b.WriteString("\n> **Trust root:** " + p.TrustRoot + "\n")
	}
	if note := p.Enrolled.note(); note != "" && !p.Empty() {
		b.WriteString("\n> **Enrolled nodes:** " + note + "\n")
	}
	if len(p.Network) > 0 {
		b.WriteString("\n**Network**\n\n")
		for _, f := range p.Network {
			fmt.Fprintf(&b, "- %s\n", code(field(f)))
		}
	}
	for i := range p.Zones {
		markZone(&b, &p.Zones[i])
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// code puts text into a code span that it cannot end, on one line, and that does not break a table.
func code(s string) string {
	s = strings.NewReplacer("\n", " ", "\r", " ", "`", "'", "|", "\\|").Replace(s)
	if s == "" {
		return ""
	}
	return "`" + s + "`"
}

func codes(items []string) string {
	out := make([]string, len(items))
	for i, s := range items {
		out[i] = code(s)
	}
	return strings.Join(out, ", ")
}

func markZone(b *strings.Builder, z *Zone) {
	fmt.Fprintf(b, "\n### Zone %s (%s): %s before, %d after\n", code(z.Zone), z.Change, count(z.NodesBefore, "node"), z.NodesAfter)
	if len(z.Gained)+len(z.Lost)+len(z.Limits) > 0 {
		b.WriteString("\n| | from | to | ports | rules | tested |\n|---|---|---|---|---|---|\n")
		markReach(b, "gained", z.Gained)
		markReach(b, "lost", z.Lost)
		markReach(b, "ends at another time", z.Limits)
	}
	if len(z.Settings) > 0 {
		b.WriteString("\n**Settings**\n\n")
		for _, f := range z.Settings {
			fmt.Fprintf(b, "- %s\n", code(field(f)))
		}
	}
	markNodes(b, "node", z.Nodes)
	markNodes(b, "member rule", z.MemberRules)
	markNodes(b, "policy document", z.PolicyRules)
	if len(z.Members) > 0 {
		b.WriteString("\n**Enrolled nodes**\n\n")
		for _, m := range z.Members {
			fmt.Fprintf(b, "- %s %s (%s)", m.Change, code(m.Node), code(m.Who))
			if m.Reason != "" {
				b.WriteString(": " + code(m.Detail))
			}
			b.WriteByte('\n')
			for _, f := range m.Fields {
				fmt.Fprintf(b, "  - %s\n", code(field(f)))
			}
		}
	}
	for _, m := range z.Moves {
		fmt.Fprintf(b, "\n- %s %s moves: %s\n", m.What, code(m.Item), code(hands(m)))
	}
	for _, o := range z.Overlaps {
		fmt.Fprintf(b, "\n> **Overlap:** %s and %s: %s\n", code(o.A), code(o.B), code(o.Note))
	}
	if len(z.Hosts) > 0 {
		fmt.Fprintf(b, "\n<details><summary>%s to reconfigure</summary>\n\n%s\n\n</details>\n", count(len(z.Hosts), "host"), codes(z.Hosts))
	}
	if missing := z.Untested(); len(missing) > 0 {
		b.WriteString("\n**No test covers** what changes here. Proposed:\n\n```yaml\n")
		for _, r := range missing {
			b.WriteString(strings.ReplaceAll(r.Missing, "`", "'") + "\n")
		}
		b.WriteString("```\n")
	}
}

func markNodes(b *strings.Builder, what string, list []Node) {
	if len(list) == 0 {
		return
	}
	fmt.Fprintf(b, "\n<details><summary>%s differ</summary>\n\n", count(len(list), what))
	for _, n := range list {
		fmt.Fprintf(b, "- %s %s\n", n.Change, code(n.Name))
		for _, f := range n.Fields {
			fmt.Fprintf(b, "  - %s\n", code(field(f)))
		}
	}
	b.WriteString("\n</details>\n")
}

func markReach(b *strings.Builder, what string, list []Reach) {
	for _, r := range list {
		tested, to := "", r.To.Text
		if len(r.Apart) > 0 {
			to += ", but not within " + r.apart()
		}
		if r.Tested {
			tested = "yes"
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s | %s | %s |\n", what, code(r.From.Text), code(to), code(r.ports()), codes(shorten(r.Rules)), tested)
	}
}
