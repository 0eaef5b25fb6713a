package twin

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/apex-network/apex/reconciler"
)

type links struct{ h *Host }

func (s links) Link(_ context.Context, name string) (reconciler.Link, error) {
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	l := s.h.links[name]
	if l == nil {
		return reconciler.Link{}, nil
	}
	out := reconciler.Link{Exists: true, Index: l.index, Alias: l.alias, WireGuard: l.wireguard, Up: l.up, MTU: l.mtu, Addresses: slices.Clone(l.addrs)}
	out.Unmarked = l.wireguard && l.alias == ""
	slices.SortFunc(out.Addresses, comparePrefix)
	return out, nil
}

func comparePrefix(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return a.Bits() - b.Bits()
}

// on runs a write on an interface that must exist.
func (s links) on(operation, name, object string, f func(*link) error) error {
	return s.h.write(operation, object, linkEvent(name), func() error {
		l := s.h.links[name]
		if l == nil {
			return missing(name)
		}
		return f(l)
	})
}

func (s links) Create(ctx context.Context, name, alias string, mtu int) error {
	err := s.h.write("link create", name, linkEvent(name), func() error {
		if s.h.links[name] != nil {
			return fmt.Errorf("interface %s exists", name)
		}
		s.h.nextIndex++
		s.h.links[name] = &link{index: s.h.nextIndex, wireguard: true, mtu: mtu, device: device{peers: make(map[reconciler.Key]*reconciler.DevicePeer), claims: make(map[netip.Prefix]reconciler.Key)}}
		for _, family := range []string{"ipv4", "ipv6"} {
			s.h.sysctls["net/"+family+"/conf/"+name+"/forwarding"] = "0"
		}
		return nil
	})
	if err != nil {
		return err
	}
	return s.SetAlias(ctx, name, alias)
}

func (s links) Delete(_ context.Context, name string) error {
	return s.h.write("link delete", name, linkEvent(name), func() error {
		s.h.deleteLink(name)
		return nil
	})
}

func (s links) SetMTU(_ context.Context, name string, mtu int) error {
	return s.on("link mtu", name, name, func(l *link) error { l.mtu = mtu; return nil })
}

func (s links) SetAlias(_ context.Context, name, alias string) error {
	return s.on("link alias", name, name, func(l *link) error { l.alias = alias; return nil })
}

func (s links) SetUp(_ context.Context, name string) error {
	return s.on("link up", name, name, func(l *link) error { l.up = true; return nil })
}

func (s links) AddAddress(_ context.Context, name string, p netip.Prefix) error {
	return s.on("address add", name, p.String(), func(l *link) error {
		if !slices.Contains(l.addrs, p) {
			l.addrs = append(l.addrs, p)
		}
		return nil
	})
}

func (s links) RemoveAddress(_ context.Context, name string, p netip.Prefix) error {
	return s.on("address remove", name, p.String(), func(l *link) error { l.addrs = without(l.addrs, p); return nil })
}

func (s links) Holders(_ context.Context, name string, addrs []netip.Addr) (map[netip.Addr]string, error) {
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	out := make(map[netip.Addr]string)
	for n, l := range s.h.links {
		for _, p := range l.addrs {
			if n != name && slices.Contains(addrs, p.Addr()) {
				out[p.Addr()] = n
			}
		}
	}
	return out, nil
}

type wireguard struct{ h *Host }

func (s wireguard) Device(_ context.Context, name string) (reconciler.Device, error) {
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	l := s.h.links[name]
	if l == nil || !l.wireguard {
		return reconciler.Device{}, missing(name)
	}
	out := reconciler.Device{ListenPort: l.device.port, FwMark: l.device.mark}
	if !l.device.key.IsZero() {
		pub, err := l.device.key.Public()
		if err != nil {
			return out, err
		}
		out.PublicKey = pub
	}
	for _, p := range l.device.peers {
		q := *p
		q.AllowedIPs = slices.Clone(p.AllowedIPs)
		slices.SortFunc(q.AllowedIPs, comparePrefix)
		out.Peers = append(out.Peers, q)
	}
	slices.SortFunc(out.Peers, func(a, b reconciler.DevicePeer) int { return bytes.Compare(a.PublicKey[:], b.PublicKey[:]) })
	return out, nil
}

func (s wireguard) on(operation, name, object string, f func(*device) error) error {
	return s.h.write(operation, object, reconciler.Event{}, func() error {
		l := s.h.links[name]
		if l == nil || !l.wireguard {
			return missing(name)
		}
		return f(&l.device)
	})
}

func (s wireguard) ConfigureDevice(_ context.Context, name string, c reconciler.DeviceChange) error {
	return s.on("wireguard device", name, name, func(d *device) error {
		if c.PrivateKey != nil {
			d.key = *c.PrivateKey
		}
		if c.ListenPort != nil {
			d.port = *c.ListenPort
		}
		if c.ClearMark {
			d.mark = 0
		}
		return nil
	})
}

// ConfigurePeers can fail between two peers, as a kernel can.
func (s wireguard) ConfigurePeers(_ context.Context, name string, changes []reconciler.PeerChange) error {
	for _, c := range changes {
		if err := s.on("wireguard peer", name, c.PublicKey.String(), func(d *device) error { d.change(c); return nil }); err != nil {
			return err
		}
	}
	return nil
}

func (d *device) change(c reconciler.PeerChange) {
	if c.Remove {
		delete(d.peers, c.PublicKey)
		return
	}
	p := d.peers[c.PublicKey]
	if p == nil {
		if !c.New {
			return
		}
		p = &reconciler.DevicePeer{PublicKey: c.PublicKey}
		d.peers[c.PublicKey] = p
	}
	if c.ClearPSK {
		p.HasPSK = false
	}
	if c.Endpoint.IsValid() {
		p.Endpoint = c.Endpoint
	}
	if c.Keepalive != nil {
		p.Keepalive = *c.Keepalive
	}
	if c.Replace {
		p.AllowedIPs = nil
	}
	for _, a := range c.AllowedIPs {
		if other := d.peers[d.claims[a]]; other != nil {
			other.AllowedIPs = without(other.AllowedIPs, a)
		}
		d.claims[a] = c.PublicKey
		p.AllowedIPs = append(p.AllowedIPs, a)
	}
}

type routes struct{ h *Host }

func (s routes) Routes(context.Context) ([]reconciler.HostRoute, error) {
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	return slices.Clone(s.h.routes), nil
}

func (s routes) event(p netip.Prefix) reconciler.Event {
	return reconciler.Event{Subsystem: reconciler.SubsystemRoute, Prefix: p}
}

func (s routes) Add(_ context.Context, name string, p netip.Prefix) error {
	return s.h.write("route add", p.String(), s.event(p), func() error {
		l := s.h.links[name]
		if l == nil {
			return missing(name)
		}
		if !l.up {
			return fmt.Errorf("interface %s is down", name)
		}
		clash := func(r reconciler.HostRoute) bool { return r.Prefix == p && r.Metric == reconciler.RouteMetric }
		if !slices.ContainsFunc(s.h.routes, clash) {
			s.h.routes = append(s.h.routes, reconciler.HostRoute{Prefix: p, Link: name, Ours: true, Metric: reconciler.RouteMetric})
		}
		return nil
	})
}

func (s routes) Remove(_ context.Context, name string, p netip.Prefix) error {
	return s.h.write("route remove", p.String(), s.event(p), func() error {
		s.h.routes = slices.DeleteFunc(s.h.routes, func(r reconciler.HostRoute) bool { return r.Ours && r.Link == name && r.Prefix == p })
		return nil
	})
}

func (s routes) Egress(_ context.Context, a netip.Addr) (string, error) {
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	return s.h.egress(a), nil
}

type firewall struct{ h *Host }

func (s firewall) Generation(context.Context) (uint32, error) {
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	return s.h.generation, nil
}

func (s firewall) Table(_ context.Context, name string) (reconciler.Table, error) {
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	t := s.h.tables[name]
	if t == nil {
		return reconciler.Table{}, nil
	}
	return reconciler.Table{Exists: true, Foreign: t.foreign, Form: t.shape, Sets: maps.Clone(t.sets)}, nil
}

func (s firewall) Form(r reconciler.Ruleset) (string, error) { return r.Shape(), nil }

func (s firewall) Replace(_ context.Context, r reconciler.Ruleset) error {
	return s.h.write("firewall replace", r.Table, filterEvent(), func() error {
		t := &table{rules: r, sets: make(map[string][]reconciler.Range), shape: r.Shape()}
		for _, set := range r.Sets {
			t.sets[set.Name] = set.Elements
		}
		s.h.generation++
		s.h.tables[r.Table] = t
		return nil
	})
}

func (s firewall) UpdateSets(_ context.Context, name string, updates []reconciler.SetUpdate) error {
	return s.h.write("firewall update", name, filterEvent(), func() error {
		t := s.h.tables[name]
		if t == nil {
			return fmt.Errorf("no table %s", name)
		}
		for _, u := range updates {
			set := slices.DeleteFunc(slices.Clone(t.sets[u.Set]), func(r reconciler.Range) bool { return slices.Contains(u.Remove, r) })
			set = append(set, u.Add...)
			slices.SortFunc(set, func(a, b reconciler.Range) int { return a.First.Compare(b.First) })
			t.sets[u.Set] = set
		}
		s.h.generation++
		return nil
	})
}

func (s firewall) Delete(_ context.Context, name string) error {
	return s.h.write("firewall delete", name, filterEvent(), func() error {
		s.h.generation++
		delete(s.h.tables, name)
		return nil
	})
}

func (s firewall) Counters(_ context.Context, name string) ([]reconciler.RuleCounter, error) {
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	var out []reconciler.RuleCounter
	if t := s.h.tables[name]; t != nil {
		for _, r := range t.rules.Rules {
			out = append(out, reconciler.RuleCounter{ID: r.ID})
		}
	}
	return out, nil
}
