//go:build linux

package lab

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Verdict is what became of a probe.
type Verdict int

// The verdicts.
const (
	// Reached: the answer came back.
	Reached Verdict = iota + 1
	// Refused: somebody answered no: a TCP reset or an ICMP error.
	Refused
	// TimedOut: nobody answered. This is what a dropping firewall looks like.
	TimedOut
	// Blocked: the sender's own kernel would not send: no route, no WireGuard peer, or its output policy.
	Blocked
)

func (v Verdict) String() string {
	switch v {
	case Reached:
		return "reached"
	case Refused:
		return "refused"
	case TimedOut:
		return "timed out"
	case Blocked:
		return "blocked"
	}
	return fmt.Sprintf("verdict(%d)", int(v))
}

// Outcome is the result of one probe.
type Outcome struct {
	Verdict Verdict
	Latency time.Duration // from the packet that was answered to its answer; 0 unless Reached
	Err     error         // why not Reached
}

func (o Outcome) String() string {
	if o.Verdict == Reached {
		return o.Latency.Round(10 * time.Microsecond).String()
	}
	return o.Verdict.String()
}

// Protocol is what a probe speaks.
type Protocol int

// The protocols. ICMP is an echo request; TCP and UDP send a nonce and expect it back (see Host.Echo).
const (
	ICMP Protocol = iota + 1
	TCP
	UDP
)

// Probe is a kind of packet: a protocol and, but for ICMP, a port.
type Probe struct {
	Protocol Protocol
	Port     uint16
	Timeout  time.Duration // how long to wait for an answer; 0: a second
}

func (p Probe) String() string {
	switch p.Protocol {
	case ICMP:
		return "icmp"
	case TCP:
		return fmt.Sprintf("tcp/%d", p.Port)
	case UDP:
		return fmt.Sprintf("udp/%d", p.Port)
	}
	return fmt.Sprintf("protocol(%d)", int(p.Protocol))
}

// probeTimeout is the default of Probe.Timeout; probeRepeat is how often ICMP and UDP send again.
const (
	probeTimeout = time.Second
	probeRepeat  = 200 * time.Millisecond
)

// Probe sends real packets from the host to an address until one is answered or the probe's time is over. The source
// address is the one the host's routes choose.
func (h *Host) Probe(ctx context.Context, to netip.Addr, p Probe) Outcome {
	timeout := p.Timeout
	if timeout == 0 {
		timeout = probeTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var latency time.Duration
	err := h.Do(ctx, func() (err error) {
		switch p.Protocol {
		case ICMP:
			latency, err = probeICMP(ctx, to)
		case TCP:
			latency, err = probeTCP(ctx, netip.AddrPortFrom(to, p.Port))
		case UDP:
			latency, err = probeUDP(ctx, netip.AddrPortFrom(to, p.Port))
		default:
			err = fmt.Errorf("no such %s", p)
		}
		return err
	})
	if err != nil {
		return Outcome{Verdict: classify(err), Err: fmt.Errorf("%s to %s: %w", p, to, err)}
	}
	return Outcome{Verdict: Reached, Latency: latency}
}

// Ping is Probe with ICMP.
func (h *Host) Ping(ctx context.Context, to netip.Addr) Outcome {
	return h.Probe(ctx, to, Probe{Protocol: ICMP})
}

// classify tells an answer from silence and from the own kernel's refusal. EHOSTUNREACH is an answer: the kernel's own,
// for a neighbour that does not exist, comes after three seconds only.
func classify(err error) Verdict {
	for _, e := range []error{unix.ECONNREFUSED, unix.ECONNRESET, unix.EHOSTUNREACH, io.EOF} {
		if errors.Is(err, e) {
			return Refused
		}
	}
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, unix.ETIMEDOUT) {
		return TimedOut
	}
	return Blocked
}

func probeTCP(ctx context.Context, to netip.AddrPort) (time.Duration, error) {
	started := time.Now()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", to.String())
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	latency := time.Since(started)
	nonce := newNonce()
	if err := setDeadline(ctx, conn); err != nil {
		return 0, err
	}
	if _, err := conn.Write(nonce); err != nil {
		return 0, err
	}
	answer := make([]byte, len(nonce))
	if _, err := io.ReadFull(conn, answer); err != nil {
		return 0, err
	}
	if !bytes.Equal(nonce, answer) {
		return 0, errors.New("connected, but to something that is no echo server")
	}
	return latency, nil
}

func probeUDP(ctx context.Context, to netip.AddrPort) (time.Duration, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "udp", to.String())
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	nonce := newNonce()
	return exchange(ctx, conn, func(seq uint16) []byte {
		return binary.BigEndian.AppendUint16(bytes.Clone(nonce), seq)
	}, func(b []byte) (uint16, bool) {
		n := len(nonce)
		if len(b) != n+2 || !bytes.Equal(b[:n], nonce) {
			return 0, false
		}
		return binary.BigEndian.Uint16(b[n:]), true
	})
}

// probeICMP uses a ping socket: the kernel fills in identifier and checksum and hands over only the answers to it.
func probeICMP(ctx context.Context, to netip.Addr) (time.Duration, error) {
	const request4, reply4, request6, reply6 = 8, 0, 128, 129
	conn, err := pingSocket(to)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	request, reply := byte(request4), byte(reply4)
	if to.Is6() {
		request, reply = request6, reply6
	}
	nonce := newNonce()
	return exchange(ctx, conn, func(seq uint16) []byte {
		b := []byte{request, 0, 0, 0, 0, 0, byte(seq >> 8), byte(seq)}
		return append(b, nonce...)
	}, func(b []byte) (uint16, bool) {
		if len(b) < 8 || b[0] != reply || !bytes.Equal(b[8:], nonce) {
			return 0, false
		}
		return binary.BigEndian.Uint16(b[6:8]), true
	})
}

func pingSocket(to netip.Addr) (net.Conn, error) {
	domain, protocol := unix.AF_INET, unix.IPPROTO_ICMP
	var sa unix.Sockaddr
	if to.Is4() {
		sa = &unix.SockaddrInet4{Addr: to.As4()}
	} else {
		domain, protocol, sa = unix.AF_INET6, unix.IPPROTO_ICMPV6, &unix.SockaddrInet6{Addr: to.As16()}
	}
	fd, err := unix.Socket(domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return nil, fmt.Errorf("open ping socket: %w", err)
	}
	f := os.NewFile(uintptr(fd), "ping")
	defer f.Close()
	if err := unix.Connect(fd, sa); err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	return net.FileConn(f)
}

// exchange sends numbered packets every probeRepeat until one of them is answered.
func exchange(ctx context.Context, conn net.Conn, packet func(seq uint16) []byte, parse func([]byte) (uint16, bool)) (time.Duration, error) {
	deadline, _ := ctx.Deadline()
	var sent []time.Time
	buf := make([]byte, 1500)
	for {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		sent = append(sent, time.Now())
		// ENOBUFS: the neighbour table is full, which passes.
		if _, err := conn.Write(packet(uint16(len(sent) - 1))); err != nil && !errors.Is(err, unix.ENOBUFS) {
			return 0, err
		}
		next := sent[len(sent)-1].Add(probeRepeat)
		if deadline.Before(next) {
			next = deadline
		}
		if err := conn.SetReadDeadline(next); err != nil {
			return 0, err
		}
		for {
			n, err := conn.Read(buf)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				if !time.Now().Before(deadline) {
					return 0, err
				}
				break
			}
			if err != nil {
				return 0, err
			}
			if seq, ok := parse(buf[:n]); ok && int(seq) < len(sent) {
				return time.Since(sent[seq]), nil
			}
		}
	}
}

func setDeadline(ctx context.Context, conn net.Conn) error {
	deadline, _ := ctx.Deadline()
	return conn.SetDeadline(deadline)
}

func newNonce() []byte {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails, by its documentation
	return b
}
