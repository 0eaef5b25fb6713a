package reconciler

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"

	nl "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// linuxEvents subscribes to rtnetlink and nftables.
type linuxEvents struct{}

// group is the bit of a multicast group in the legacy mask.
func group(n uint32) uint32 { return 1 << (n - 1) }

// Subscribe reads two sockets until one of them fails or ctx ends.
func (linuxEvents) Subscribe(ctx context.Context, ready func(), notify func(Event)) error {
	routes, err := nl.Dial(unix.NETLINK_ROUTE, &nl.Config{Groups: group(unix.RTNLGRP_LINK) |
		group(unix.RTNLGRP_IPV4_IFADDR) | group(unix.RTNLGRP_IPV6_IFADDR) |
		group(unix.RTNLGRP_IPV4_ROUTE) | group(unix.RTNLGRP_IPV6_ROUTE)})
	if err != nil {
		return fmt.Errorf("subscribe to rtnetlink: %w", explain(err))
	}
	filter, err := nl.Dial(unix.NETLINK_NETFILTER, &nl.Config{Groups: group(unix.NFNLGRP_NFTABLES)})
	if err != nil {
		return errors.Join(fmt.Errorf("subscribe to nftables: %w", explain(err)), routes.Close())
	}
	ready()

	var (
		readers sync.WaitGroup
		one     sync.Mutex // notify is called from one goroutine at a time
		failed  = make(chan error, 2)
	)
	read := func(c *nl.Conn, what string, parse func(nl.Message) (Event, bool)) {
		readers.Go(func() {
			for {
				messages, err := c.Receive()
				if err != nil {
					failed <- fmt.Errorf("%s events: %w", what, err)
					return
				}
				one.Lock()
				for _, m := range messages {
					if ev, ok := parse(m); ok {
						notify(ev)
					}
				}
				one.Unlock()
			}
		})
	}
	read(routes, "rtnetlink", routeEvent)
	read(filter, "nftables", filterEvent)
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	// Closing a netlink socket makes its Receive return.
	closing := errors.Join(routes.Close(), filter.Close())
	readers.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return errors.Join(err, closing)
}

// filterEvent: each transaction ends with one message that carries the new generation.
func filterEvent(m nl.Message) (Event, bool) {
	return Event{Subsystem: SubsystemFirewall}, m.Header.Type == unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWGEN
}

func routeEvent(m nl.Message) (Event, bool) {
	switch m.Header.Type {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		return linkEvent(m.Data)
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		return addrEvent(m.Data)
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		return tableEvent(m.Data)
	}
	return Event{}, false
}

func linkEvent(b []byte) (Event, bool) {
	ev := Event{Subsystem: SubsystemLink}
	ok := attributes(b, unix.SizeofIfInfomsg, func(typ uint16, v []byte) {
		if typ == unix.IFLA_IFNAME {
			ev.Link = unix.ByteSliceToString(v)
		}
	})
	return ev, ok
}

func addrEvent(b []byte) (Event, bool) {
	if len(b) < unix.SizeofIfAddrmsg {
		return Event{}, false
	}
	ev := Event{Subsystem: SubsystemAddress, Index: int(binary.NativeEndian.Uint32(b[4:8]))}
	ok := attributes(b, unix.SizeofIfAddrmsg, func(typ uint16, v []byte) {
		if a, valid := netip.AddrFromSlice(v); valid && (typ == unix.IFA_LOCAL || (typ == unix.IFA_ADDRESS && !ev.Prefix.IsValid())) {
			ev.Prefix = netip.PrefixFrom(a, a.BitLen())
		}
	})
	return ev, ok
}

func tableEvent(b []byte) (Event, bool) {
	if len(b) < unix.SizeofRtMsg || b[4] != unix.RT_TABLE_MAIN {
		return Event{}, false
	}
	ev := Event{Subsystem: SubsystemRoute}
	zero := netip.IPv4Unspecified()
	if b[0] == unix.AF_INET6 {
		zero = netip.IPv6Unspecified()
	}
	ev.Prefix = netip.PrefixFrom(zero, int(b[1]))
	ok := attributes(b, unix.SizeofRtMsg, func(typ uint16, v []byte) {
		switch {
		case typ == unix.RTA_DST:
			if a, valid := netip.AddrFromSlice(v); valid {
				ev.Prefix = netip.PrefixFrom(a, int(b[1]))
			}
		case typ == unix.RTA_OIF && len(v) == 4:
			ev.Index = int(binary.NativeEndian.Uint32(v))
		}
	})
	return ev, ok
}

// attributes walks the netlink attributes behind a fixed header.
func attributes(b []byte, header int, f func(typ uint16, value []byte)) bool {
	if len(b) < header {
		return false
	}
	ad, err := nl.NewAttributeDecoder(b[header:])
	if err != nil {
		return false
	}
	for ad.Next() {
		f(ad.Type(), ad.Bytes())
	}
	return ad.Err() == nil
}
