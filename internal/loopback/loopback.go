// Package loopback finds addresses for servers that programs and tests start on this machine.
package loopback

import (
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"syscall"
)

// Address gives an address and a port that stay free until somebody who was told of them listens there. A free port of
// 127.0.0.1 need not: what connects meanwhile, or listens at whatever port, may be given the same. So the address is a random
// one of 127.0.0.0/8, which nobody connects from, and the port lies below those that systems give away.
func Address() (at netip.AddrPort, err error) {
	const attempts = 100 // what some program has at every address is another port the next time
	for range attempts {
		at = netip.AddrPortFrom(random(), 10000+uint16(rand.IntN(20000)))
		if err = try(at); errors.Is(err, syscall.EADDRNOTAVAIL) { // elsewhere than on Linux 127.0.0.1 may be all there is
			at = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), at.Port())
			err = try(at)
		}
		if err == nil {
			return at, nil
		}
	}
	return netip.AddrPort{}, err
}

func random() netip.Addr {
	octet := func() byte { return byte(1 + rand.IntN(254)) }
	return netip.AddrFrom4([4]byte{127, octet(), octet(), octet()})
}

func try(at netip.AddrPort) error {
	l, err := net.Listen("tcp", at.String())
	if err != nil {
		return err
	}
	return l.Close()
}
