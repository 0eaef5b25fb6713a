package main

import (
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/apex-network/apex/internal/cli"
	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/compile"
	"github.com/apex-network/apex/spec/peermap"
)

func newMap(s cli.Streams) *cobra.Command {
	c := &cobra.Command{Use: "map", Short: "Look at what nodes are told, and check what a controller serves"}
	c.AddCommand(newMapShow(s), newMapVerify(s))
	return c
}

func newMapShow(s cli.Streams) *cobra.Command {
	var zone, node, format string
	c := &cobra.Command{
		Use:   "show --node NODE [--zone ZONE] [DIR]",
		Short: "Compile one node's view from a clone, offline",
		Long: `Show compiles the network below DIR (default: this folder) and prints everything that one node would be told: its own
addresses, its peers, the prefixes it reaches through them, and its firewall rules.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return mapShow(s, folderArg(args, 0), zone, node, format, time.Now())
		},
	}
	c.Flags().StringVar(&zone, "zone", "", "zone; needed only if the node is in several")
	c.Flags().StringVar(&node, "node", "", "node")
	c.Flags().StringVarP(&format, "output", "o", "text", "how to print it: text, json or yaml")
	if err := c.MarkFlagRequired("node"); err != nil {
		panic(err) // the flag is defined three lines above
	}
	return c
}

func mapShow(s cli.Streams, dir, zone, node, format string, now time.Time) error {
	w, err := validWorkspace(s, dir, now)
	if err != nil {
		return err
	}
	if zone, err = w.zoneOf(zone, node); err != nil {
		return err
	}
	m, err := compileView(w.repo, zone, node, now)
	if err != nil {
		return err
	}
	if format != "text" {
		return cli.Print(s.Out, format, newMapView(m))
	}
	return newMapView(m).text(s)
}

// compileView compiles the network and assembles one node's map from the artefacts, as the node itself would.
func compileView(repo *spec.Repository, zone, node string, now time.Time) (*peermap.Map, error) {
	zones, err := compile.Compile(compile.Input{Repo: repo, Facts: compile.Facts{AsOf: now.Truncate(time.Second)}})
	if err != nil {
		return nil, cli.WithCode(cli.Invalid, err)
	}
	z := zones[zone]
	view, ok := z.View(node)
	if !ok {
		return nil, cli.WithCode(cli.Invalid, fmt.Errorf("node %q is not in zone %q", node, zone))
	}
	return peermap.Assemble(z.Network, zone, node, view.Leaf, z.Artefact)
}

// mapView is a map for people and programs: what `apex map show -o json` prints.
type mapView struct {
	Network   string     `json:"network"`
	Zone      string     `json:"zone"`
	Node      string     `json:"node"`
	Addresses []string   `json:"addresses"`
	Carries   []string   `json:"carries,omitempty"`
	Peers     []peerView `json:"peers"`
	Rules     []ruleView `json:"rules"`
}

type peerView struct {
	Name       string   `json:"name"`
	PublicKey  string   `json:"publicKey"`
	AllowedIPs []string `json:"allowedIPs"`
	Endpoints  []string `json:"endpoints,omitempty"`
}

type ruleView struct {
	Hook     string   `json:"hook"`
	Rule     string   `json:"rule"`
	From     []string `json:"from"`
	To       []string `json:"to"`
	Ports    []string `json:"ports,omitempty"`
	NotAfter string   `json:"notAfter,omitempty"`
}

func newMapView(m *peermap.Map) mapView {
	v := mapView{Network: m.View.Network, Zone: m.View.Zone, Node: m.View.Node, Addresses: texts(m.View.Addresses),
		Carries: texts(m.View.Routes), Peers: []peerView{}, Rules: []ruleView{}}
	groups := make(map[uint32][]string)
	for _, p := range m.Peers {
		groups[p.Group] = append(groups[p.Group], p.Name)
		v.Peers = append(v.Peers, peerView{Name: p.Name, PublicKey: spec.Key(p.PublicKey).String(),
			AllowedIPs: append(texts(p.Addresses), texts(p.Routes)...), Endpoints: p.Endpoints})
	}
	for _, r := range m.Class.Rules {
		rv := ruleView{Hook: r.Hook.String(), Rule: r.ID, From: side(r.From, groups), To: side(r.To, groups)}
		for _, p := range r.Ports {
			rv.Ports = append(rv.Ports, spec.Port{Protocol: p.Protocol, First: p.First, Last: p.Last}.String())
		}
		if r.NotAfter != 0 {
			rv.NotAfter = time.Unix(r.NotAfter, 0).UTC().Format(time.RFC3339)
		}
		v.Rules = append(v.Rules, rv)
	}
	return v
}

// side names what a rule's set stands for; an empty set is the node itself.
func side(set peermap.Set, groups map[uint32][]string) []string {
	var out []string
	for _, g := range set.Groups {
		out = append(out, groups[g]...)
	}
	out = append(out, texts(set.Prefixes)...)
	if len(set.Groups) == 0 && len(set.Prefixes) == 0 {
		return []string{"self"}
	}
	return out
}

func texts[T fmt.Stringer](list []T) []string {
	out := make([]string, 0, len(list))
	for _, v := range list {
		out = append(out, v.String())
	}
	return out
}

func (v mapView) text(s cli.Streams) error {
	fmt.Fprintf(s.Out, "%s in zone %s of network %s: %s\n", v.Node, v.Zone, v.Network, joined(v.Addresses))
	if len(v.Carries) > 0 {
		fmt.Fprintf(s.Out, "carries %s\n", joined(v.Carries))
	}
	w := tabwriter.NewWriter(s.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\nPEER\tALLOWED IPS\tENDPOINTS\tPUBLIC KEY")
	for _, p := range v.Peers {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", p.Name, joined(p.AllowedIPs), joined(p.Endpoints), p.PublicKey)
	}
	fmt.Fprintln(w, "\nHOOK\tFROM\tTO\tPORTS\tRULE\tUNTIL")
	for _, r := range v.Rules {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", r.Hook, joined(r.From), joined(r.To), joined(r.Ports), r.Rule, r.NotAfter)
	}
	return w.Flush()
}
