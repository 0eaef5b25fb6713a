//go:build linux

package fleet

import (
	"context"
	"fmt"
	"net"
	"net/http"

	"github.com/apex-network/apex/internal/protocol"
)

// Status asks the controller about the network over its admin socket.
func (f *Fleet) Status(ctx context.Context) (protocol.FleetStatus, error) {
	return f.StatusOf(ctx, f.Controller)
}

// StatusOf asks one of the replicas.
func (f *Fleet) StatusOf(ctx context.Context, c *Controller) (protocol.FleetStatus, error) {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", c.adminSocket())
	}
	client := &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://admin"+protocol.FleetPath(f.Network), nil)
	if err != nil {
		return protocol.FleetStatus{}, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return protocol.FleetStatus{}, fmt.Errorf("ask the controller: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return protocol.FleetStatus{}, protocol.ReadProblem(resp)
	}
	var s protocol.FleetStatus
	return s, protocol.Read(resp.Body, protocol.MaxFleetBytes, &s)
}

// AwaitStatus waits until the controller says what holds asks for, and gives what it said. holds gives nil, or what is
// not so yet.
func (f *Fleet) AwaitStatus(ctx context.Context, what string, holds func(protocol.FleetStatus) error) (protocol.FleetStatus, error) {
	var last protocol.FleetStatus
	err := f.Controller.Process.Await(ctx, what, func(ctx context.Context) (err error) {
		if last, err = f.Status(ctx); err != nil {
			return err
		}
		return holds(last)
	})
	return last, err
}
