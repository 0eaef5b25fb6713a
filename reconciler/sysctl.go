package reconciler

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
)

// Sysctl reads and writes kernel parameters by slash-separated name: "net/ipv4/conf/eth0/forwarding".
type Sysctl interface {
	Get(ctx context.Context, name string) (string, error) // wraps fs.ErrNotExist
	Set(ctx context.Context, name, value string) error
}

// setting is a kernel parameter a role asks for.
type setting struct{ name, value string }

// forwardingSettings are the parameters that let the host route between iface and the prefixes in forward, in the
// order they must be set.
//
// IPv4 forwards per receiving interface, so only ours and those towards the prefixes are switched. IPv6 does too since
// Linux 6.17 (force_forwarding); before that only the switch for all interfaces works, and because it makes an
// interface stop listening to router advertisements, those that listened (accept_ra 1) are told to go on (2) first.
func forwardingSettings(ctx context.Context, iface string, forward []netip.Prefix, r Routes, sys Sysctl) ([]setting, error) {
	var v4, v6 []string
	for _, p := range forward {
		list := &v4
		if p.Addr().Is6() {
			list = &v6
		}
		egress, err := r.Egress(ctx, p.Addr())
		if err != nil {
			return nil, fmt.Errorf("find the interface towards %s: %w", p, err)
		}
		for _, name := range []string{iface, egress} {
			if name != "" && !slices.Contains(*list, name) {
				*list = append(*list, name)
			}
		}
	}
	var out []setting
	for _, name := range v4 {
		out = append(out, setting{"net/ipv4/conf/" + name + "/forwarding", "1"})
	}
	if len(v6) == 0 {
		return out, nil
	}
	six, err := forwardingV6(ctx, iface, v6, sys)
	return append(out, six...), err
}

func forwardingV6(ctx context.Context, iface string, links []string, sys Sysctl) ([]setting, error) {
	var out []setting
	_, err := sys.Get(ctx, "net/ipv6/conf/all/force_forwarding")
	switch {
	case err == nil:
		for _, name := range links {
			out = append(out, setting{"net/ipv6/conf/" + name + "/force_forwarding", "1"})
		}
		return out, nil
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	for _, name := range links {
		if name == iface {
			continue
		}
		key := "net/ipv6/conf/" + name + "/accept_ra"
		ra, err := sys.Get(ctx, key)
		if err != nil {
			return nil, err
		}
		if ra != "0" {
			out = append(out, setting{key, "2"})
		}
	}
	return append(out, setting{"net/ipv6/conf/all/forwarding", "1"}), nil
}

// sysctlDiff is what to set, and what to put back because no role asks for it any more.
type sysctlDiff struct {
	set     []setting
	restore []setting
	// save are the values found before we first changed them, to be on disk before set is carried out.
	save map[string]savedSysctl
}

// diffSysctl compares settings with what the host has. saved are the original values of what we changed before; such a
// parameter is put back only while it still has the value we gave it, for else somebody else has taken it over.
func diffSysctl(ctx context.Context, want []setting, saved map[string]savedSysctl, sys Sysctl) (sysctlDiff, error) {
	d := sysctlDiff{save: make(map[string]savedSysctl)}
	for _, s := range want {
		got, err := sys.Get(ctx, s.name)
		if err != nil {
			return d, err
		}
		if got == s.value {
			continue
		}
		d.set = append(d.set, s)
		if _, known := saved[s.name]; !known {
			d.save[s.name] = savedSysctl{Was: got, Set: s.value}
		}
	}
	for name, old := range saved {
		if slices.ContainsFunc(want, func(s setting) bool { return s.name == name }) {
			continue
		}
		got, err := sys.Get(ctx, name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return d, err
		case got == old.Set:
			d.restore = append(d.restore, setting{name, old.Was})
		}
	}
	slices.SortFunc(d.restore, func(a, b setting) int { return -compareSetting(a, b) })
	return d, nil
}

func compareSetting(a, b setting) int {
	switch {
	case a.name < b.name:
		return -1
	case a.name > b.name:
		return 1
	}
	return 0
}

// savedSysctl is a parameter we changed: what it was, and what we set.
type savedSysctl struct {
	Was string `json:"was"`
	Set string `json:"set"`
}
