package reconciler

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"slices"

	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// kernelChunk is how many peers go to a kernel device in one call: with more, wgctrl falls back to one message per peer
// and repeats the device's attributes in each. kernelChunkIPs is the same for allowed IPs. A userspace device takes
// text over a socket; the larger chunk only bounds memory.
const (
	kernelChunk    = 32
	kernelChunkIPs = 256
	userChunk      = 512
	userChunkIPs   = 8192
)

// client opens wgctrl anew when asked to: it looks for the kernel's WireGuard only when it is opened, and making the
// first interface may have loaded the module since.
func (h *linuxHost) client(anew bool) (*wgctrl.Client, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.wg != nil && !anew {
		return h.wg, nil
	}
	c, err := wgctrl.New()
	if err != nil {
		return nil, explain(err)
	}
	if h.wg != nil {
		_ = h.wg.Close()
	}
	h.wg = c
	return c, nil
}

// onDevice runs f with a client that knows the device.
func (h *linuxHost) onDevice(f func(*wgctrl.Client) error) error {
	c, err := h.client(false)
	if err != nil {
		return err
	}
	if err = f(c); errors.Is(err, fs.ErrNotExist) {
		if c, err = h.client(true); err != nil {
			return err
		}
		err = f(c)
	}
	return explain(err)
}

func (h *linuxHost) Device(_ context.Context, name string) (Device, error) {
	var d *wgtypes.Device
	err := h.onDevice(func(c *wgctrl.Client) (err error) {
		d, err = c.Device(name)
		return err
	})
	if err != nil {
		return Device{}, err
	}
	out := Device{ListenPort: uint16(d.ListenPort), FwMark: d.FirewallMark, Peers: make([]DevicePeer, len(d.Peers))}
	if d.PrivateKey != (wgtypes.Key{}) {
		out.PublicKey = Key(d.PublicKey)
	}
	for i := range d.Peers {
		out.Peers[i] = devicePeer(&d.Peers[i])
	}
	slices.SortFunc(out.Peers, func(a, b DevicePeer) int { return bytes.Compare(a.PublicKey[:], b.PublicKey[:]) })
	return out, nil
}

func devicePeer(p *wgtypes.Peer) DevicePeer {
	out := DevicePeer{
		PublicKey: Key(p.PublicKey), HasPSK: p.PresharedKey != (wgtypes.Key{}), Keepalive: p.PersistentKeepaliveInterval,
		RxBytes: p.ReceiveBytes, TxBytes: p.TransmitBytes,
		AllowedIPs: make([]netip.Prefix, 0, len(p.AllowedIPs)),
	}
	if p.LastHandshakeTime.Unix() > 0 { // "never" comes as the Unix epoch
		out.LastHandshake = p.LastHandshakeTime
	}
	if p.Endpoint != nil {
		ap := p.Endpoint.AddrPort()
		out.Endpoint = netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	for i := range p.AllowedIPs {
		if a, ok := prefixOf(&p.AllowedIPs[i]); ok {
			out.AllowedIPs = append(out.AllowedIPs, a)
		}
	}
	slices.SortFunc(out.AllowedIPs, comparePrefix)
	return out
}

func (h *linuxHost) ConfigureDevice(_ context.Context, name string, c DeviceChange) error {
	var cfg wgtypes.Config
	if c.PrivateKey != nil {
		key := wgtypes.Key(*c.PrivateKey)
		cfg.PrivateKey = &key
	}
	if c.ListenPort != nil {
		port := int(*c.ListenPort)
		cfg.ListenPort = &port
	}
	if c.ClearMark {
		cfg.FirewallMark = new(int)
	}
	return h.onDevice(func(cl *wgctrl.Client) error { return cl.ConfigureDevice(name, cfg) })
}

func (h *linuxHost) ConfigurePeers(ctx context.Context, name string, changes []PeerChange) error {
	peers, ips := kernelChunk, kernelChunkIPs
	if h.embedded(name) != nil {
		peers, ips = userChunk, userChunkIPs
	}
	for len(changes) > 0 {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n := chunkLength(changes, peers, ips)
		cfg := wgtypes.Config{Peers: make([]wgtypes.PeerConfig, n)}
		for i := range n {
			cfg.Peers[i] = peerConfig(&changes[i])
		}
		if err := h.onDevice(func(c *wgctrl.Client) error { return c.ConfigureDevice(name, cfg) }); err != nil {
			return err
		}
		changes = changes[n:]
	}
	return nil
}

// chunkLength is how many of the changes fit into one call: at least one.
func chunkLength(changes []PeerChange, peers, ips int) int {
	total := 0
	for i := range changes {
		total += len(changes[i].AllowedIPs)
		if i > 0 && (i == peers || total > ips) {
			return i
		}
	}
	return len(changes)
}

func peerConfig(c *PeerChange) wgtypes.PeerConfig {
	if c.Remove {
		return wgtypes.PeerConfig{PublicKey: wgtypes.Key(c.PublicKey), Remove: true}
	}
	out := wgtypes.PeerConfig{
		PublicKey: wgtypes.Key(c.PublicKey), UpdateOnly: !c.New, PersistentKeepaliveInterval: c.Keepalive, ReplaceAllowedIPs: c.Replace,
	}
	if c.ClearPSK {
		out.PresharedKey = new(wgtypes.Key)
	}
	if c.Endpoint.IsValid() {
		out.Endpoint = net.UDPAddrFromAddrPort(c.Endpoint)
	}
	if len(c.AllowedIPs) > 0 {
		out.AllowedIPs = make([]net.IPNet, len(c.AllowedIPs))
		for i, p := range c.AllowedIPs {
			out.AllowedIPs[i] = *ipNet(p)
		}
	}
	return out
}
