package reconciler

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
)

// execute carries out the work in the one order that keeps the promises: rules before the interface can carry a packet,
// additions before removals, a role's forwarding last on and first off.
func (e *Engine) execute(ctx context.Context, w *work, r *Report) error {
	for _, step := range []func(context.Context, *work, *Report) error{
		e.applyFirewall, e.applyLink, e.applyDevice, e.addAddresses, e.setPeers, e.raiseLink, e.addRoutes, e.applySysctl,
		e.removeRoutes, e.removePeers, e.removeAddresses,
	} {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if err := step(ctx, w, r); err != nil {
			return err
		}
	}
	return nil
}

// do runs one step on the host and notes it in the report.
func (e *Engine) do(r *Report, c Change, f func() error) error {
	if e.beforeStep != nil {
		e.beforeStep(c)
	}
	if err := f(); err != nil {
		return fmt.Errorf("%s: %w", c, err)
	}
	r.note(c)
	if e.afterStep != nil {
		e.afterStep(c)
	}
	return nil
}

func (r *Report) note(c Change) {
	r.Total += max(1, c.Count)
	if len(r.Changes) < MaxReportChanges {
		r.Changes = append(r.Changes, c)
	}
}

func (e *Engine) applyFirewall(ctx context.Context, w *work, r *Report) error {
	fw := e.opt.Backends.Firewall
	if w.firewall.isZero() {
		if w.readTables {
			e.table = knownTable{w.rules, w.form, w.generation}
		}
		return nil
	}
	known := e.table.rules != nil && e.table.generation == w.generation
	e.table = knownTable{}
	if w.firewall.replace {
		c := Change{SubsystemFirewall, Update, fmt.Sprintf("table %s (%s)", w.rules.Table, w.firewall.reason), 1}
		return e.do(r, c, func() error { return fw.Replace(ctx, *w.rules) })
	}
	c := Change{SubsystemFirewall, Update, "set elements of table " + w.rules.Table, w.firewall.elements()}
	if err := e.do(r, c, func() error { return fw.UpdateSets(ctx, w.rules.Table, w.firewall.sets) }); err != nil {
		return err
	}
	// If ours was the only transaction since the table was known, its outcome is known too and need not be read back.
	if gen, err := fw.Generation(ctx); err == nil && (known || w.readTables) && gen == w.generation+1 {
		e.table = knownTable{w.rules, w.form, gen}
	}
	return nil
}

func (e *Engine) applyLink(ctx context.Context, w *work, r *Report) error {
	links, i := e.opt.Backends.Links, w.want.Interface
	if w.createLink {
		if err := e.do(r, Change{SubsystemLink, Add, i.Name, 1}, func() error { return links.Create(ctx, i.Name, e.alias, i.MTU) }); err != nil {
			return err
		}
	}
	if w.setAlias {
		if err := e.do(r, Change{SubsystemLink, Update, i.Name + " alias", 1}, func() error { return links.SetAlias(ctx, i.Name, e.alias) }); err != nil {
			return err
		}
	}
	if w.setMTU {
		c := Change{SubsystemLink, Update, fmt.Sprintf("%s MTU %d", i.Name, i.MTU), 1}
		return e.do(r, c, func() error { return links.SetMTU(ctx, i.Name, i.MTU) })
	}
	return nil
}

func (e *Engine) applyDevice(ctx context.Context, w *work, r *Report) error {
	if w.device.IsZero() {
		return nil
	}
	c := Change{SubsystemWireGuard, Update, "device " + w.want.Interface.Name, 1}
	return e.do(r, c, func() error {
		return e.opt.Backends.WireGuard.ConfigureDevice(ctx, w.want.Interface.Name, w.device)
	})
}

func (e *Engine) setPeers(ctx context.Context, w *work, r *Report) error {
	return e.configurePeers(ctx, w, w.setPeers, r)
}

func (e *Engine) removePeers(ctx context.Context, w *work, r *Report) error {
	return e.configurePeers(ctx, w, w.removePeers, r)
}

// peerBatch bounds how many peers one step sends, so that a cancelled apply of thousands stops soon.
const peerBatch = 1024

func (e *Engine) configurePeers(ctx context.Context, w *work, changes []PeerChange, r *Report) error {
	name := w.want.Interface.Name
	for batch := range slices.Chunk(changes, peerBatch) {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		c := Change{SubsystemWireGuard, peerAction(batch[0]), e.peerLabel(w.want, batch[0].PublicKey), len(batch)}
		if len(batch) > 1 {
			c.Object += " and others"
		}
		if err := e.do(r, c, func() error { return e.opt.Backends.WireGuard.ConfigurePeers(ctx, name, batch) }); err != nil {
			return err
		}
	}
	return nil
}

func peerAction(c PeerChange) Action {
	switch {
	case c.Remove:
		return Remove
	case c.New:
		return Add
	}
	return Update
}

// peerLabel finds a name for a peer among the wanted and the confirmed ones.
func (e *Engine) peerLabel(want *State, k Key) string {
	for _, s := range []*State{want, e.confirmed} {
		if s == nil {
			continue
		}
		i, ok := slices.BinarySearchFunc(s.Peers, k, func(p Peer, k Key) int { return bytes.Compare(p.PublicKey[:], k[:]) })
		if ok {
			return "peer " + s.Peers[i].label()
		}
	}
	return "peer " + k.String()
}

func (e *Engine) addAddresses(ctx context.Context, w *work, r *Report) error {
	return e.each(w.addAddrs, SubsystemAddress, Add, r, func(p netip.Prefix) error {
		return e.opt.Backends.Links.AddAddress(ctx, w.want.Interface.Name, p)
	})
}

func (e *Engine) removeAddresses(ctx context.Context, w *work, r *Report) error {
	return e.each(w.removeAddrs, SubsystemAddress, Remove, r, func(p netip.Prefix) error {
		return e.opt.Backends.Links.RemoveAddress(ctx, w.want.Interface.Name, p)
	})
}

func (e *Engine) addRoutes(ctx context.Context, w *work, r *Report) error {
	return e.each(w.addRoutes, SubsystemRoute, Add, r, func(p netip.Prefix) error {
		return e.opt.Backends.Routes.Add(ctx, w.want.Interface.Name, p)
	})
}

func (e *Engine) removeRoutes(ctx context.Context, w *work, r *Report) error {
	return e.each(w.removeRoutes, SubsystemRoute, Remove, r, func(p netip.Prefix) error {
		return e.opt.Backends.Routes.Remove(ctx, w.want.Interface.Name, p)
	})
}

func (e *Engine) each(list []netip.Prefix, s Subsystem, a Action, r *Report, f func(netip.Prefix) error) error {
	for _, p := range list {
		if err := e.do(r, Change{s, a, p.String(), 1}, func() error { return f(p) }); err != nil {
			return err
		}
	}
	return nil
}

func (e *Engine) raiseLink(ctx context.Context, w *work, r *Report) error {
	if !w.setUp {
		return nil
	}
	name := w.want.Interface.Name
	return e.do(r, Change{SubsystemLink, Update, name + " up", 1}, func() error { return e.opt.Backends.Links.SetUp(ctx, name) })
}

func (e *Engine) applySysctl(ctx context.Context, w *work, r *Report) error {
	if len(w.setSettings)+len(w.restore) == 0 {
		return nil
	}
	d, err := diffSysctl(ctx, w.settings, e.saved, e.opt.Backends.Sysctl)
	if err != nil {
		return fmt.Errorf("forwarding: %w", err)
	}
	if len(d.save) > 0 {
		saved := maps.Clone(e.saved)
		maps.Copy(saved, d.save)
		if err := e.store.saveSysctls(saved); err != nil {
			return err
		}
		e.saved = saved
	}
	if err := e.writeSettings(ctx, d.restore, r); err != nil {
		return err
	}
	if err := e.writeSettings(ctx, d.set, r); err != nil {
		return err
	}
	return e.forgetSysctls(w.settings)
}

func (e *Engine) writeSettings(ctx context.Context, list []setting, r *Report) error {
	for _, s := range list {
		c := Change{SubsystemSysctl, Update, s.name + "=" + s.value, 1}
		if err := e.do(r, c, func() error { return e.opt.Backends.Sysctl.Set(ctx, s.name, s.value) }); err != nil {
			return err
		}
	}
	return nil
}

// forgetSysctls drops the saved values of parameters that are no longer ours.
func (e *Engine) forgetSysctls(wanted []setting) error {
	saved := maps.Clone(e.saved)
	maps.DeleteFunc(saved, func(name string, _ savedSysctl) bool {
		return !slices.ContainsFunc(wanted, func(s setting) bool { return s.name == name })
	})
	if len(saved) == len(e.saved) {
		return nil
	}
	e.saved = saved
	return e.store.saveSysctls(saved)
}
