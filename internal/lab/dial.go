//go:build linux

package lab

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
)

// keep remembers a socket so that Close can close what the caller forgot.
func (h *Host) keep(c io.Closer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sockets = append(h.sockets, c)
}

// DialContext connects from inside the host; network is one of net.Dial's. IP networks take addresses, not names: a
// resolver would look outside the host. With "unix", paths are the host's. The signature suits http.Transport and grpc.
func (h *Host) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if network != "unix" {
		if _, err := netip.ParseAddrPort(address); err != nil {
			return nil, fmt.Errorf("host %s: dial: the lab has no DNS: %w", h.name, err)
		}
	}
	var conn net.Conn
	err := h.Do(ctx, func() (err error) {
		var d net.Dialer
		conn, err = d.DialContext(ctx, network, address)
		return err
	})
	if err != nil {
		return nil, err
	}
	h.keep(conn)
	return conn, nil
}

// Listen accepts connections inside the host, as net.Listen does. The lab closes the listener, not what it accepted.
func (h *Host) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	var listener net.Listener
	err := h.Do(ctx, func() (err error) {
		var c net.ListenConfig
		listener, err = c.Listen(ctx, network, address)
		return err
	})
	if err != nil {
		return nil, err
	}
	h.keep(listener)
	return listener, nil
}

// ListenPacket receives datagrams inside the host, as net.ListenPacket does.
func (h *Host) ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error) {
	var conn net.PacketConn
	err := h.Do(ctx, func() (err error) {
		var c net.ListenConfig
		conn, err = c.ListenPacket(ctx, network, address)
		return err
	})
	if err != nil {
		return nil, err
	}
	h.keep(conn)
	return conn, nil
}

// HTTPClient gives a client whose connections leave from the host. URLs name addresses. The caller may change its
// transport (an *http.Transport) before the first request, to trust a certificate for example.
func (h *Host) HTTPClient() *http.Client {
	t := &http.Transport{DialContext: h.DialContext, ForceAttemptHTTP2: true}
	h.mu.Lock()
	h.transports = append(h.transports, t)
	h.mu.Unlock()
	return &http.Client{Transport: t}
}
