package reconciler

import (
	"context"
	"errors"
	"fmt"
)

// Recover must be called once before Apply, Repair or Watch, and again after ErrRollbackFailed. It finishes what a crash
// left: an unfinished change is rolled back to the last confirmed state, and the Report carries RolledBack and the ID of
// the unfinished state. Otherwise it brings the host to the last confirmed state (after a reboot: makes everything anew),
// with Drift set if there was something to do. On a fresh host it does nothing. Peers and rules of that state whose NotAfter
// has come are left out, on the host and on disk.
//
// A damaged state folder is set aside and the host left as it is, with Report.Reason saying so; the next Apply brings it
// to where it should be.
func (e *Engine) Recover(ctx context.Context) (Report, error) {
	e.mu.Lock()
	defer e.publish()
	started := e.now()
	r, err := e.recover(ctx)
	if err == nil {
		err = e.forgetRanOut()
	}
	r.Duration = e.now().Sub(started)
	return r, err
}

func (e *Engine) recover(ctx context.Context) (Report, error) {
	var r Report
	confirmed, cp, err := e.loadStore()
	if err != nil {
		aside := e.store.setAside(len(e.saved) > 0)
		if aside != nil {
			return r, fmt.Errorf("%w; setting it aside failed too: %w", err, aside)
		}
		e.log.Error("the stored state is damaged and was set aside", "error", err)
		r.Reason = err.Error()
		e.setConfirmed(nil)
		e.ready = true
		return r, nil
	}
	if e.confirmed == nil {
		e.setConfirmed(confirmed)
	}
	if c := e.confirmed; c != nil {
		if left := c.inForce(e.now()); left != c {
			e.setConfirmed(left)
		}
	}
	if c := e.confirmed; c != nil && c.Interface.Name != e.opt.Interface {
		return r, fmt.Errorf("the state folder %s belongs to interface %s, not %s: run `apex-agent down` once, or configure the old name",
			e.opt.StateDir, c.Interface.Name, e.opt.Interface)
	}
	if cp != nil {
		return e.recoverUnfinished(ctx, cp)
	}
	if e.confirmed == nil {
		e.ready = true
		return r, nil
	}
	r.ID = e.confirmed.ID
	if err := e.restore(ctx, nil, &r); err != nil {
		return r, fmt.Errorf("restore %s: %w", r.ID, err)
	}
	r.Drift = r.Total > 0
	e.ready = true
	return r, nil
}

// forgetRanOut makes the state on disk the one in force, if something was left out.
func (e *Engine) forgetRanOut() error {
	if e.confirmed == nil {
		return nil
	}
	stored, err := e.store.load()
	if err != nil || stored == nil || equalStates(stored, e.confirmed) {
		return err
	}
	return e.store.rewrite(e.confirmed)
}

// loadStore reads the state folder. Kernel parameters come first: they can be put back whatever else is damaged.
func (e *Engine) loadStore() (*State, *checkpoint, error) {
	saved, sysctlErr := e.store.sysctls()
	if e.saved = saved; sysctlErr != nil {
		e.saved = map[string]savedSysctl{}
	}
	confirmed, err := e.store.load()
	if err = errors.Join(err, sysctlErr); err != nil {
		return nil, nil, err
	}
	cp, err := e.store.unfinished()
	return confirmed, cp, err
}

func (e *Engine) recoverUnfinished(ctx context.Context, cp *checkpoint) (Report, error) {
	r := Report{ID: cp.ID, RolledBack: true,
		Reason: fmt.Sprintf("a change begun %s was never finished", cp.Started.Format("2006-01-02 15:04:05 MST"))}
	e.log.Warn("rolling back an unfinished change", "id", cp.ID, "started", cp.Started)
	if err := e.restore(ctx, nil, &r); err != nil {
		return r, fmt.Errorf("%w: %w", ErrRollbackFailed, err)
	}
	e.stats.RolledBack++
	e.ready = true
	return r, nil
}

// Down removes everything of ours from the host and the state folder, and nothing else. It works without Recover and
// with a damaged state folder. What carries our name but is not ours stays and is reported as a conflict. Afterwards the
// Engine is as on a fresh host.
func (e *Engine) Down(ctx context.Context) (Report, error) {
	e.mu.Lock()
	defer e.publish()
	started := e.now()
	var r Report
	names := []string{e.opt.Interface}
	confirmed, _, err := e.loadStore()
	if err != nil {
		e.log.Warn("the stored state is damaged; taking down what is known", "error", err)
	} else if confirmed != nil && confirmed.Interface.Name != e.opt.Interface {
		names = append(names, confirmed.Interface.Name)
	}
	for _, name := range names {
		if err := e.removeAll(ctx, name, &r); err != nil {
			return r, err
		}
	}
	e.setConfirmed(nil)
	e.conflicts, e.table, e.ready = nil, knownTable{}, true
	r.Duration = e.now().Sub(started)
	return r, e.store.clear()
}

// removeAll takes our objects from the host: forwarding first, then the interface with its addresses and routes, and
// the rules last, so that nothing passes in between.
func (e *Engine) removeAll(ctx context.Context, name string, r *Report) error {
	b := e.opt.Backends
	d, err := diffSysctl(ctx, nil, e.saved, b.Sysctl)
	if err != nil {
		return fmt.Errorf("restore kernel parameters: %w", err)
	}
	if err := e.writeSettings(ctx, d.restore, r); err != nil {
		return err
	}
	if err := e.forgetSysctls(nil); err != nil {
		return err
	}
	link, err := b.Links.Link(ctx, name)
	if err != nil {
		return fmt.Errorf("read interface %s: %w", name, err)
	}
	if link.Exists {
		if err := checkOwner(name, e.alias, link); err != nil {
			r.Conflicts = append(r.Conflicts, Conflict{SubsystemLink, name, err.Error()})
		} else if err := e.do(r, Change{SubsystemLink, Remove, name, 1}, func() error { return b.Links.Delete(ctx, name) }); err != nil {
			return err
		}
	}
	table := TableName(name)
	t, err := b.Firewall.Table(ctx, table)
	if err != nil {
		return fmt.Errorf("read firewall table %s: %w", table, err)
	}
	if !t.Exists {
		return nil
	}
	if err := checkTable(table, t); err != nil {
		r.Conflicts = append(r.Conflicts, Conflict{SubsystemFirewall, table, err.Error()})
		return nil
	}
	return e.do(r, Change{SubsystemFirewall, Remove, "table " + table, 1}, func() error { return b.Firewall.Delete(ctx, table) })
}
