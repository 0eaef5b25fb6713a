//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

// Echo answers TCP and UDP probes on a port of every address of a host, present and future.
type Echo struct {
	tcp net.Listener
	udp net.PacketConn
	wg  sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]bool // nil once closed
}

// Echo starts an echo server; Lab.Close ends it. Port 0 is not allowed: TCP and UDP share the port.
func (h *Host) Echo(ctx context.Context, port uint16) (*Echo, error) {
	if port == 0 {
		return nil, fmt.Errorf("host %s: echo server: a port is needed", h.name)
	}
	address := fmt.Sprintf("[::]:%d", port)
	tcp, err := h.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("echo server: %w", err)
	}
	udp, err := h.ListenPacket(ctx, "udp", address)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("echo server: %w", err), tcp.Close())
	}
	e := &Echo{tcp: tcp, udp: udp, conns: map[net.Conn]bool{}}
	h.keep(e)
	e.wg.Go(e.serveTCP)
	e.wg.Go(e.serveUDP)
	return e, nil
}

func (e *Echo) serveTCP() {
	for {
		conn, err := e.tcp.Accept()
		if err != nil {
			return // closed
		}
		e.mu.Lock()
		open := e.conns != nil
		if open {
			e.conns[conn] = true
		}
		e.mu.Unlock()
		if !open {
			_ = conn.Close()
			return
		}
		e.wg.Go(func() {
			_, _ = io.Copy(conn, conn) // ends with the connection, for whatever reason
			_ = conn.Close()
			e.mu.Lock()
			delete(e.conns, conn)
			e.mu.Unlock()
		})
	}
}

func (e *Echo) serveUDP() {
	buf := make([]byte, 64<<10)
	for {
		n, from, err := e.udp.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			_, _ = e.udp.WriteTo(buf[:n], from) // a lost answer is the prober's to notice
		}
	}
}

// Close ends the server and its connections. It is idempotent.
func (e *Echo) Close() error {
	e.mu.Lock()
	conns := e.conns
	e.conns = nil
	e.mu.Unlock()
	if conns == nil {
		return nil
	}
	err := errors.Join(ignoreClosed(e.tcp.Close()), ignoreClosed(e.udp.Close()))
	for conn := range conns {
		_ = conn.Close()
	}
	e.wg.Wait()
	return err
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
