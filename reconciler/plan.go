package reconciler

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
)

// trust says which observations may be left out because the host is known to be as the last confirmed state asks.
type trust struct{ wireguard, firewall bool }

// work is what brings the host from what was observed to what is wanted: the outcome of every subsystem's diff.
type work struct {
	want *State
	link Link

	createLink, setAlias, setMTU, setUp bool

	device                    DeviceChange
	setPeers, removePeers     []PeerChange
	addAddrs, removeAddrs     []netip.Prefix
	self                      []netip.Addr // wanted addresses that no other interface carries
	addRoutes, removeRoutes   []netip.Prefix
	firewall                  firewallChange
	rules                     *Ruleset
	form                      string
	generation                uint32 // of the packet filter when it was read
	settings                  []setting
	restore                   []setting
	setSettings               []setting
	conflicts                 []Conflict
	readWireGuard, readTables bool
}

func (w *work) isZero() bool {
	return !w.createLink && !w.setAlias && !w.setMTU && !w.setUp && w.device.IsZero() &&
		len(w.setPeers)+len(w.removePeers)+len(w.addAddrs)+len(w.removeAddrs)+len(w.addRoutes)+len(w.removeRoutes) == 0 &&
		w.firewall.isZero() && len(w.setSettings)+len(w.restore) == 0
}

// remaining names the first thing that still differs, for the error when a re-read does not show what was applied.
func (w *work) remaining() string {
	switch {
	case w.createLink:
		return "the interface is missing"
	case w.setAlias:
		return "the interface lost its alias"
	case w.setMTU:
		return fmt.Sprintf("the MTU is %d", w.link.MTU)
	case w.setUp:
		return "the interface is down"
	case !w.device.IsZero():
		return "the device has other attributes (key, listen port or fwmark)"
	case len(w.setPeers) > 0:
		return fmt.Sprintf("%d peers differ, the first is %s", len(w.setPeers), w.setPeers[0].PublicKey)
	case len(w.removePeers) > 0:
		return fmt.Sprintf("%d peers are too many, the first is %s", len(w.removePeers), w.removePeers[0].PublicKey)
	case len(w.addAddrs)+len(w.removeAddrs) > 0:
		return fmt.Sprintf("addresses differ: missing %v, too many %v", w.addAddrs, w.removeAddrs)
	case len(w.addRoutes)+len(w.removeRoutes) > 0:
		return fmt.Sprintf("%d routes are missing and %d too many", len(w.addRoutes), len(w.removeRoutes))
	case !w.firewall.isZero():
		if w.firewall.replace {
			return "the firewall table differs: " + w.firewall.reason
		}
		return fmt.Sprintf("%d firewall set elements differ", w.firewall.elements())
	}
	return "kernel parameters differ"
}

// plan observes the host and compares it with want. before is what was intended until now; nil if nothing was. It
// changes nothing; a foreign object of our name is an error here, before anything was touched. What was planned until an
// error comes with it, for guard alone.
func (e *Engine) plan(ctx context.Context, want, before *State, t trust) (*work, error) {
	w := &work{want: want}
	name := want.Interface.Name
	var err error
	if w.link, err = e.opt.Backends.Links.Link(ctx, name); err != nil {
		return nil, fmt.Errorf("read interface %s: %w", name, err)
	}
	if err := checkOwner(name, e.alias, w.link); err != nil {
		return nil, err
	}
	w.createLink = !w.link.Exists
	w.setAlias = w.link.Exists && w.link.Alias != e.alias
	w.setMTU = w.link.Exists && w.link.MTU != want.Interface.MTU
	w.setUp = !w.link.Up
	steps := []func(context.Context, *work, *State, trust) error{
		e.planAddresses, e.planFirewall, e.planDevice, e.planRoutes, e.planSysctl,
	}
	for _, step := range steps {
		if err := step(ctx, w, before, t); err != nil {
			return w, err
		}
	}
	return w, nil
}

func (e *Engine) planFirewall(ctx context.Context, w *work, before *State, t trust) error {
	fw := e.opt.Backends.Firewall
	gen, err := fw.Generation(ctx)
	if err != nil {
		return fmt.Errorf("read the packet filter's generation: %w", err)
	}
	w.generation = gen
	known := e.table.rules != nil && e.table.generation == gen
	if known && before != nil && equalFirewalls(&before.Firewall, &w.want.Firewall) && slices.Equal(e.table.rules.Self, w.self) {
		w.rules, w.form = e.table.rules, e.table.form
		return nil
	}
	rules := newRuleset(w.want, w.self)
	w.rules = &rules
	if known && t.firewall {
		if w.firewall = diffRulesets(e.table.rules, w.rules); !w.firewall.replace {
			w.form = e.table.form
			return nil
		}
	}
	if w.form, err = fw.Form(rules); err != nil {
		return fmt.Errorf("compile the firewall: %w", err)
	}
	w.readTables = true
	got, err := fw.Table(ctx, rules.Table)
	if err != nil {
		return fmt.Errorf("read firewall table %s: %w", rules.Table, err)
	}
	if err := checkTable(rules.Table, got); err != nil {
		return err
	}
	w.firewall = diffTable(w.rules, w.form, got)
	return nil
}

func (e *Engine) planDevice(ctx context.Context, w *work, before *State, t trust) error {
	var got Device
	var intended []Peer
	if before != nil {
		intended = before.Peers
	}
	known := t.wireguard && before != nil && w.link.Index == e.linkIndex
	switch {
	case w.createLink:
	case known:
		got = Device{PublicKey: before.publicKey, ListenPort: before.Interface.ListenPort}
	default:
		var err error
		w.readWireGuard = true
		got, err = e.opt.Backends.WireGuard.Device(ctx, w.want.Interface.Name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("read WireGuard device %s: %w", w.want.Interface.Name, err)
		}
	}
	w.device = diffDevice(w.want.Interface, w.want.publicKey, got)
	if w.device.PrivateKey != nil && w.device.PrivateKey.IsZero() {
		key, ok := e.privateKey(w.want.publicKey)
		if !ok {
			return fmt.Errorf("%w: public key %s", ErrNoKey, w.want.publicKey)
		}
		w.device.PrivateKey = &key
	}
	if known && !w.createLink {
		w.setPeers, w.removePeers = diffIntended(w.want.Peers, intended, e.now())
	} else {
		w.setPeers, w.removePeers = diffPeers(w.want.Peers, got.Peers, intended, e.now())
	}
	return nil
}

func (e *Engine) planAddresses(ctx context.Context, w *work, _ *State, _ trust) error {
	want := w.want.Addresses
	missing, _ := diffSorted(want, w.link.Addresses, comparePrefix)
	var holders map[netip.Addr]string
	if len(missing) > 0 {
		addrs := make([]netip.Addr, len(missing))
		for i, p := range missing {
			addrs[i] = p.Addr()
		}
		var err error
		if holders, err = e.opt.Backends.Links.Holders(ctx, w.want.Interface.Name, addrs); err != nil {
			return fmt.Errorf("look for the addresses on other interfaces: %w", err)
		}
	}
	var conflicts []Conflict
	w.addAddrs, w.removeAddrs, conflicts = diffAddresses(want, w.link.Addresses, holders)
	w.conflicts = append(w.conflicts, conflicts...)
	for _, p := range want {
		if _, taken := holders[p.Addr()]; !taken {
			w.self = append(w.self, p.Addr())
		}
	}
	return nil
}

func (e *Engine) planRoutes(ctx context.Context, w *work, _ *State, _ trust) error {
	got, err := e.opt.Backends.Routes.Routes(ctx)
	if err != nil {
		return fmt.Errorf("read routes: %w", err)
	}
	var conflicts []Conflict
	w.addRoutes, w.removeRoutes, conflicts = diffRoutes(w.want.Interface.Name, w.want.Routes, got)
	w.conflicts = append(w.conflicts, conflicts...)
	if e.loopsOf != w.want {
		e.loopsOf, e.loops = w.want, loops(w.want.Peers, w.want.Routes)
	}
	w.conflicts = append(w.conflicts, e.loops...)
	if !w.link.Up {
		// The kernel drops the routes of an interface that is down, so what a dump shows may be about to vanish.
		w.addRoutes = nil
		for _, r := range w.want.Routes {
			w.addRoutes = append(w.addRoutes, r.Prefix)
		}
		w.addRoutes = withoutConflicts(w.addRoutes, conflicts)
	}
	return nil
}

func withoutConflicts(list []netip.Prefix, conflicts []Conflict) []netip.Prefix {
	taken := make(map[string]bool, len(conflicts))
	for _, c := range conflicts {
		taken[c.Object] = true
	}
	out := list[:0]
	for _, p := range list {
		if !taken[p.String()] {
			out = append(out, p)
		}
	}
	return out
}

func (e *Engine) planSysctl(ctx context.Context, w *work, _ *State, _ trust) error {
	if len(w.want.Forward) == 0 && len(e.saved) == 0 {
		return nil
	}
	b := e.opt.Backends
	var err error
	if w.settings, err = forwardingSettings(ctx, w.want.Interface.Name, w.want.Forward, b.Routes, b.Sysctl); err != nil {
		return fmt.Errorf("forwarding: %w", err)
	}
	if w.createLink {
		// Our own interface has no parameters yet; execute asks again once it stands.
		w.setSettings = w.settings
		return nil
	}
	d, err := diffSysctl(ctx, w.settings, e.saved, b.Sysctl)
	if err != nil {
		return fmt.Errorf("forwarding: %w", err)
	}
	w.setSettings, w.restore = d.set, d.restore
	return nil
}
