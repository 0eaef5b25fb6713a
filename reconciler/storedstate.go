package reconciler

import (
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// storeState and (storedState).state translate between a normalised State and its form on disk. The private key stays
// out: the public key stands for it.
func storeState(s *State) storedState {
	return storedState{ID: s.ID, Rest: storeRest(s), Peers: storePeers(s.Peers), Sets: s.Firewall.Sets}
}

func (d *storedState) state() State {
	s := State{ID: d.ID, Peers: make([]Peer, len(d.Peers))}
	d.Rest.into(&s)
	for i := range d.Peers {
		s.Peers[i] = d.Peers[i].peer()
	}
	s.Firewall.Sets = d.Sets
	return s
}

func storeRest(s *State) storedRest {
	r := storedRest{
		Interface: storedInterface{Name: s.Interface.Name, PublicKey: s.publicKey, ListenPort: s.Interface.ListenPort, MTU: s.Interface.MTU},
		Addresses: s.Addresses, Forward: s.Forward,
	}
	for _, route := range s.Routes {
		r.Routes = append(r.Routes, route.Prefix)
	}
	for _, rule := range s.Firewall.Rules {
		stored := storedRule{ID: rule.ID, Hook: rule.Hook, From: rule.From, To: rule.To, NotAfter: rule.NotAfter}
		for _, p := range rule.Ports {
			stored.Ports = append(stored.Ports, storedPort(p))
		}
		r.Rules = append(r.Rules, stored)
	}
	return r
}

func (r *storedRest) into(s *State) {
	s.Interface = Interface{Name: r.Interface.Name, ListenPort: r.Interface.ListenPort, MTU: r.Interface.MTU}
	s.publicKey = r.Interface.PublicKey
	s.Addresses, s.Forward = r.Addresses, r.Forward
	s.Routes, s.Firewall.Rules = nil, nil
	for _, p := range r.Routes {
		s.Routes = append(s.Routes, Route{p})
	}
	for _, rule := range r.Rules {
		out := Rule{ID: rule.ID, Hook: rule.Hook, From: rule.From, To: rule.To, NotAfter: rule.NotAfter}
		for _, p := range rule.Ports {
			out.Ports = append(out.Ports, Port(p))
		}
		s.Firewall.Rules = append(s.Firewall.Rules, out)
	}
}

func storePeer(p *Peer) storedPeer {
	return storedPeer{p.Name, p.PublicKey, p.AllowedIPs, p.Endpoint, int64(p.Keepalive / time.Second), p.NotAfter}
}

func storePeers(in []Peer) []storedPeer {
	out := make([]storedPeer, len(in))
	for i := range in {
		out[i] = storePeer(&in[i])
	}
	return out
}

func (p *storedPeer) peer() Peer {
	return Peer{p.Name, p.PublicKey, p.AllowedIPs, p.Endpoint, time.Duration(p.Keepalive) * time.Second, p.NotAfter}
}

// changeBetween is what the log keeps of a step from before to next, two normalised states with equally many sets.
func changeBetween(before, next *State) storedChange {
	c := storedChange{ID: next.ID}
	if !equalRest(before, next) {
		rest := storeRest(next)
		c.Rest = &rest
	}
	i, j := 0, 0
	for i < len(next.Peers) || j < len(before.Peers) {
		order := 0
		switch {
		case j == len(before.Peers):
			order = -1
		case i == len(next.Peers):
			order = 1
		default:
			order = comparePeer(next.Peers[i], before.Peers[j])
		}
		switch {
		case order < 0:
			c.Set = append(c.Set, storePeer(&next.Peers[i]))
			i++
		case order > 0:
			c.Remove = append(c.Remove, before.Peers[j].PublicKey)
			j++
		default:
			if p := &next.Peers[i]; !equalRecords(p, &before.Peers[j]) || p.Name != before.Peers[j].Name {
				c.Set = append(c.Set, storePeer(p))
			}
			i, j = i+1, j+1
		}
	}
	for i := range next.Firewall.Sets {
		if sameSlice(next.Firewall.Sets[i], before.Firewall.Sets[i]) {
			continue
		}
		add, remove := diffSorted(next.Firewall.Sets[i], before.Firewall.Sets[i], comparePrefix)
		if len(add)+len(remove) > 0 {
			c.Members = append(c.Members, storedSet{i, add, remove})
		}
	}
	return c
}

func equalRest(a, b *State) bool {
	return a.Interface.Name == b.Interface.Name && a.publicKey == b.publicKey &&
		a.Interface.ListenPort == b.Interface.ListenPort && a.Interface.MTU == b.Interface.MTU &&
		slices.Equal(a.Addresses, b.Addresses) && slices.Equal(a.Routes, b.Routes) && slices.Equal(a.Forward, b.Forward) &&
		slices.EqualFunc(a.Firewall.Rules, b.Firewall.Rules, equalRules)
}

func (c *storedChange) apply(s *State) error {
	s.ID = c.ID
	if c.Rest != nil {
		c.Rest.into(s)
	}
	find := func(k Key) (int, bool) {
		return slices.BinarySearchFunc(s.Peers, Peer{PublicKey: k}, comparePeer)
	}
	for _, k := range c.Remove {
		if i, ok := find(k); ok {
			s.Peers = slices.Delete(s.Peers, i, i+1)
		}
	}
	for i := range c.Set {
		p := c.Set[i].peer()
		at, ok := find(p.PublicKey)
		if ok {
			s.Peers[at] = p
		} else {
			s.Peers = slices.Insert(s.Peers, at, p)
		}
	}
	for _, m := range c.Members {
		if m.Index < 0 || m.Index >= len(s.Firewall.Sets) {
			return fmt.Errorf("there is no set %d", m.Index)
		}
		s.Firewall.Sets[m.Index] = editSorted(s.Firewall.Sets[m.Index], m.Add, m.Remove)
	}
	return nil
}

// editSorted returns the sorted list with add put in and remove taken out.
func editSorted(list, add, remove []netip.Prefix) []netip.Prefix {
	kept, _ := diffSorted(list, remove, comparePrefix)
	return sortedUnique(append(kept, add...), comparePrefix)
}
