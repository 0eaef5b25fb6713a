package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/apex-network/apex/internal/cli"
	"github.com/apex-network/apex/spec"
)

// nodeFlags describe a node on the command line.
type nodeFlags struct {
	file, zone             string
	publicKey, identityKey string
	labels                 []string
	endpoints              []string
	routes                 []string
	addresses              []string
}

func newNodeAdd(s cli.Streams) *cobra.Command {
	var f nodeFlags
	c := &cobra.Command{
		Use:   "add [NAME] [DIR]",
		Short: "Write a Node document with a free address into a clone",
		Long: `Add writes nodes/ZONE/NAME.yaml below DIR (default: this folder). The node comes from the document that
"apex node init" printed on the host (-f FILE, or - for standard input) or from flags; flags win. An address is
picked in every range of the zone unless --address is given. Nothing is written if the result would not be valid.`,
		Example: "  ssh db-1 apex node init db-1 --zone prod | apex node add -f - --label role=db\n" +
			"  apex node add db-1 --zone prod --public-key … --identity-key … --endpoint db-1.example.com:51820",
		Args: cobra.MaximumNArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			name := ""
			if len(args) > 0 {
				name = args[0]
			}
			return addNode(s, folderArg(args, 1), name, f, time.Now())
		},
	}
	c.Flags().StringVarP(&f.file, "file", "f", "", "Node document to start from; - reads standard input")
	c.Flags().StringVar(&f.zone, "zone", "", "zone to join; needed only if there are several")
	c.Flags().StringVar(&f.publicKey, "public-key", "", "WireGuard public key, base64")
	c.Flags().StringVar(&f.identityKey, "identity-key", "", "Ed25519 identity key, base64")
	c.Flags().StringArrayVar(&f.labels, "label", nil, "label as key=value; repeatable")
	c.Flags().StringArrayVar(&f.endpoints, "endpoint", nil, "host:port where peers may reach the node; repeatable")
	c.Flags().StringArrayVar(&f.routes, "route", nil, "prefix behind the node; repeatable")
	c.Flags().StringArrayVar(&f.addresses, "address", nil, "address in the zone; repeatable (default: a free one per range)")
	return c
}

func addNode(s cli.Streams, dir, name string, f nodeFlags, now time.Time) error {
	w, err := validWorkspace(s, dir, now)
	if err != nil {
		return err
	}
	node, err := f.document(s.In, name)
	if err != nil {
		return cli.WithCode(cli.Invalid, err)
	}
	zone, err := w.zoneForNode(node.Metadata.Zone)
	if err != nil {
		return err
	}
	node.Metadata.Zone = zone.Metadata.Name
	if node.Metadata.Name == "" {
		return cli.WithCode(cli.Invalid, errors.New("the node needs a name: apex node add NAME"))
	}
	if len(node.Spec.Addresses) == 0 {
		if node.Spec.Addresses, err = freeAddresses(w.repo, zone); err != nil {
			return err
		}
	}
	text, err := spec.Marshal(node)
	if err != nil {
		return fmt.Errorf("write node %s: %w", node.Metadata.Name, err)
	}
	rel := "nodes/" + node.Metadata.Zone + "/" + node.Metadata.Name + ".yaml"
	if err := w.accept(s, spec.File{Path: rel, Data: text}, now); err != nil {
		return err
	}
	if err := createFile(filepath.Join(dir, filepath.FromSlash(rel)), text); err != nil {
		return err
	}
	fmt.Fprintln(s.Out, rel)
	fmt.Fprintf(s.Err, "added %s to zone %s at %v; review it with apex plan, then git commit -S\n", node.Metadata.Name, node.Metadata.Zone, node.Spec.Addresses)
	return nil
}

// accept checks that the network stays valid with one more file, and prints what is wrong if it does not.
func (w *workspace) accept(s cli.Streams, f spec.File, now time.Time) error {
	next := &workspace{dir: w.dir, files: append(w.files[:len(w.files):len(w.files)], f)}
	next.repo, next.found = spec.Load(next.files)
	if !next.found.HasErrors() {
		next.found = append(next.found, next.repo.Validate(now)...)
	}
	if !next.found.HasErrors() {
		return nil
	}
	next.found.Sort()
	if err := next.render(s, "human"); err != nil {
		return err
	}
	return cli.WithCode(cli.Invalid, fmt.Errorf("%s would not be valid; nothing was written", f.Path))
}

// document is the node as the file and the flags describe it.
func (f nodeFlags) document(stdin io.Reader, name string) (spec.Node, error) {
	var n spec.Node
	if f.file != "" {
		data, err := readInput(f.file, stdin)
		if err != nil {
			return n, err
		}
		if n, err = readDraft(f.file, data); err != nil {
			return n, err
		}
	}
	if name != "" {
		n.Metadata.Name = name
	}
	if f.zone != "" {
		n.Metadata.Zone = f.zone
	}
	return n, f.apply(&n)
}

// apply lets the flags overrule what the document says.
func (f nodeFlags) apply(n *spec.Node) error {
	for flag, key := range map[string]*spec.Key{f.publicKey: &n.Spec.PublicKey, f.identityKey: &n.Spec.IdentityKey} {
		if flag == "" {
			continue
		}
		k, err := spec.ParseKey(flag)
		if err != nil {
			return err
		}
		*key = k
	}
	for _, l := range f.labels {
		k, v, ok := strings.Cut(l, "=")
		if !ok {
			return fmt.Errorf("--label %q: want key=value", l)
		}
		if n.Metadata.Labels == nil {
			n.Metadata.Labels = map[string]string{}
		}
		n.Metadata.Labels[k] = v
	}
	if len(f.endpoints) > 0 {
		n.Spec.Endpoints = f.endpoints
	}
	for _, r := range f.routes {
		p, err := netip.ParsePrefix(r)
		if err != nil {
			return fmt.Errorf("--route %q: want a prefix such as 10.1.0.0/16", r)
		}
		n.Spec.Routes = append(n.Spec.Routes, spec.NodeRoute{Prefix: p})
	}
	for _, a := range f.addresses {
		addr, err := netip.ParseAddr(a)
		if err != nil {
			return fmt.Errorf("--address %q: want an IP address", a)
		}
		n.Spec.Addresses = append(n.Spec.Addresses, addr)
	}
	return nil
}

// zoneForNode finds the zone by name, or the only one there is.
func (w *workspace) zoneForNode(name string) (*spec.Zone, error) {
	var names []string
	for _, z := range w.repo.Zones {
		if z.Value.Metadata.Name == name || name == "" && len(w.repo.Zones) == 1 {
			return &z.Value, nil
		}
		names = append(names, z.Value.Metadata.Name)
	}
	if name == "" {
		return nil, cli.WithCode(cli.Invalid, fmt.Errorf("choose a zone with --zone; there are %q", names))
	}
	return nil, cli.WithCode(cli.Invalid, fmt.Errorf("zone %q is not in %s; there are %q", name, w.dir, names))
}

// freeAddresses picks the lowest unused address of each of the zone's ranges, outside its dynamic parts.
func freeAddresses(repo *spec.Repository, zone *spec.Zone) ([]netip.Addr, error) {
	used := map[netip.Addr]bool{}
	for _, n := range repo.Nodes {
		if n.Value.Metadata.Zone == zone.Metadata.Name {
			for _, a := range n.Value.Spec.Addresses {
				used[a] = true
			}
		}
	}
	var picked []netip.Addr
	families := map[bool]bool{}
	for _, r := range zone.Spec.Ranges {
		if families[r.Addr().Is4()] {
			continue
		}
		if a, ok := freeAddress(r, zone.Spec.Dynamic, used); ok {
			picked = append(picked, a)
			families[r.Addr().Is4()] = true
		}
	}
	if len(picked) == 0 {
		return nil, cli.WithCode(cli.Invalid, fmt.Errorf("zone %s has no free address left in %v; widen spec.ranges", zone.Metadata.Name, zone.Spec.Ranges))
	}
	return picked, nil
}

// freeAddress walks r upwards past its first (network) address, skipping dynamic parts whole, and stops before the last.
func freeAddress(r netip.Prefix, dynamic []netip.Prefix, used map[netip.Addr]bool) (netip.Addr, bool) {
	for a := r.Addr().Next(); a.IsValid() && r.Contains(a.Next()); a = a.Next() {
		if d, ok := containing(dynamic, a); ok {
			a = lastAddr(d)
			continue
		}
		if !used[a] {
			return a, true
		}
	}
	return netip.Addr{}, false
}

func containing(prefixes []netip.Prefix, a netip.Addr) (netip.Prefix, bool) {
	for _, p := range prefixes {
		if p.Contains(a) {
			return p, true
		}
	}
	return netip.Prefix{}, false
}

// lastAddr is the highest address of p.
func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}
