//go:build linux

package demo

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"

	"github.com/apex-network/apex/agent/status"
	"github.com/apex-network/apex/internal/fleet"
	"github.com/apex-network/apex/internal/lab"
	"github.com/apex-network/apex/internal/protocol"
)

// snapshots are the hosts' states, by node.
func (s *story) snapshots(ctx context.Context) (map[string]lab.Snapshot, error) {
	all := map[string]lab.Snapshot{}
	for _, name := range order {
		snap, err := s.fleet.Nodes[name].Host.Snapshot(ctx)
		if err != nil {
			return nil, err
		}
		all[name] = snap
	}
	return all, nil
}

// untouched fails if any host differs from its snapshot.
func (s *story) untouched(ctx context.Context, before map[string]lab.Snapshot) error {
	now, err := s.snapshots(ctx)
	if err != nil {
		return err
	}
	for name, snap := range before {
		if now[name] != snap {
			return fmt.Errorf("host %s was changed:\n%s", name, snap.Diff(now[name]))
		}
	}
	return nil
}

func (s *story) unsigned(ctx context.Context) (string, error) {
	before, err := s.snapshots(ctx)
	if err != nil {
		return "", err
	}
	good, err := s.fleet.Repo.Head()
	if err != nil {
		return "", err
	}
	if err := s.fleet.Repo.Write(policyPath, fmt.Sprintf(shopPolicy, "tcp/1-65535", "tcp/1-65535")); err != nil {
		return "", err
	}
	bad, err := s.fleet.Repo.CommitAs("Open everything", nil)
	if err != nil {
		return "", err
	}
	if err := s.fleet.Repo.Push(); err != nil {
		return "", err
	}
	_, err = s.admin.Apply(ctx, bad)
	var p *protocol.Problem
	if !errors.As(err, &p) || p.Code != protocol.CodeRefused {
		return "", fmt.Errorf("the controller should refuse the commit, but said: %w", err)
	}
	s.say("%s", p.Detail)
	if err := s.untouched(ctx, before); err != nil {
		return "", err
	}
	if err := s.fleet.Repo.Reset(good); err != nil {
		return "", err
	}
	return "refused, named in the status, and no host changed a byte", s.fleet.Repo.ForcePush()
}

func (s *story) tamper(ctx context.Context) (string, error) {
	thief, err := s.fleet.NewThief(ctx)
	if err != nil {
		return "", err
	}
	before, err := s.snapshots(ctx)
	if err != nil {
		return "", err
	}
	if err := s.fleet.Repo.Write(policyPath, fmt.Sprintf(shopPolicy, "tcp/5432", "tcp/5432")); err != nil {
		return "", err
	}
	commit, err := s.fleet.Merge("Close the cache again")
	if err != nil {
		return "", err
	}
	c, err := s.fleet.Nodes["db"].AwaitCondition(ctx, "shop", status.Refused, true)
	if err != nil {
		return "", err
	}
	s.say("db says: %s: %s", c.Reason, c.Message)
	if err := s.untouched(ctx, before); err != nil {
		return "", err
	}
	forged := thief.Forged()
	if err := thief.Close(ctx); err != nil {
		return "", err
	}
	if err := s.fleet.AwaitEnforced(ctx, commit); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d forged answers, all refused, no host touched; with the thief gone the real change arrives", forged), nil
}

// aRoute finds a route of ours on a node.
func (s *story) aRoute(ctx context.Context, n *fleet.Node) (netip.Prefix, error) {
	var found netip.Prefix
	err := n.Host.Do(ctx, func() error {
		link, err := netlink.LinkByName("apex-shop")
		if err != nil {
			return err
		}
		routes, err := netlink.RouteList(link, netlink.FAMILY_V4)
		if err != nil {
			return err
		}
		for _, r := range routes {
			if r.Dst != nil {
				a, _ := netip.AddrFromSlice(r.Dst.IP)
				ones, _ := r.Dst.Mask.Size()
				found = netip.PrefixFrom(a.Unmap(), ones)
			}
		}
		if !found.IsValid() {
			return errors.New("no route of ours")
		}
		return nil
	})
	return found, err
}
