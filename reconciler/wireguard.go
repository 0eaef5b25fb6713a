package reconciler

import (
	"bytes"
	"context"
	"net/netip"
	"slices"
	"time"
)

// Device is the observed WireGuard device, peers sorted by key.
type Device struct {
	PublicKey  Key // zero: no private key set
	ListenPort uint16
	FwMark     int
	Peers      []DevicePeer
}

// DevicePeer is an observed peer.
type DevicePeer struct {
	PublicKey     Key
	HasPSK        bool
	Endpoint      netip.AddrPort
	Keepalive     time.Duration
	LastHandshake time.Time
	RxBytes       int64
	TxBytes       int64
	AllowedIPs    []netip.Prefix // sorted
}

// DeviceChange changes device attributes; nil or false leaves one alone.
type DeviceChange struct {
	PrivateKey *PrivateKey
	ListenPort *uint16
	ClearMark  bool
}

// IsZero reports whether there is nothing to change.
func (c DeviceChange) IsZero() bool { return c == DeviceChange{} }

// PeerChange changes one peer. With Remove only PublicKey counts.
type PeerChange struct {
	PublicKey Key
	Remove    bool
	// New tells a peer that is not there yet; otherwise it must exist, and one that vanished is not made anew.
	New bool
	// ClearPSK writes the zero preshared key: leaving it out would not clear it.
	ClearPSK bool
	// Endpoint and Keepalive are written when set; a zero Keepalive turns it off.
	Endpoint  netip.AddrPort
	Keepalive *time.Duration
	// Replace puts AllowedIPs in place of the peer's list; otherwise they are added to it.
	Replace    bool
	AllowedIPs []netip.Prefix
}

// endpointAlone: the change writes nothing but where to send.
func (c PeerChange) endpointAlone() bool {
	return c.Endpoint.IsValid() && !c.Remove && !c.New && !c.ClearPSK && c.Keepalive == nil && !c.Replace && len(c.AllowedIPs) == 0
}

// WireGuard configures devices, in the kernel or in this process.
type WireGuard interface {
	// Device reads a device; one that is missing gives an error wrapping fs.ErrNotExist.
	Device(ctx context.Context, name string) (Device, error)
	ConfigureDevice(ctx context.Context, name string, c DeviceChange) error
	// ConfigurePeers applies peer changes in order. It is not atomic: after an error, read again.
	ConfigurePeers(ctx context.Context, name string, c []PeerChange) error
}

// handshakeFresh is how long a session keys may be used (REJECT_AFTER_TIME of the WireGuard paper): a peer with a younger
// handshake is talking from where it is, so an endpoint that differs from ours has roamed and is not drift.
const handshakeFresh = 180 * time.Second

// diffDevice compares device attributes alone; they are sent only when they differ, because a kernel device walks all
// its peers when they are set.
func diffDevice(want Interface, wantPublic Key, got Device) DeviceChange {
	var c DeviceChange
	if got.PublicKey != wantPublic {
		c.PrivateKey = &want.PrivateKey
	}
	if want.ListenPort != 0 && got.ListenPort != want.ListenPort {
		c.ListenPort = &want.ListenPort
	}
	c.ClearMark = got.FwMark != 0
	return c
}

// diffPeers gives the changes that turn got into want, both sorted by key: additions and updates first, removals apart.
// before are the peers that were intended until now, also sorted: an endpoint that differs from the observed one is
// written when the intention changed or no session is fresh.
//
// No order among the additions matters: every allowed IP is wanted by one peer only, and the device moves it to
// whichever peer claimed it last, which is that one.
func diffPeers(want []Peer, got []DevicePeer, before []Peer, now time.Time) (set, remove []PeerChange) {
	b := 0
	intended := func(k Key) *Peer {
		for b < len(before) && bytes.Compare(before[b].PublicKey[:], k[:]) < 0 {
			b++
		}
		if b < len(before) && before[b].PublicKey == k {
			return &before[b]
		}
		return nil
	}
	i, j := 0, 0
	for i < len(want) || j < len(got) {
		order := 0
		switch {
		case j == len(got):
			order = -1
		case i == len(want):
			order = 1
		default:
			order = bytes.Compare(want[i].PublicKey[:], got[j].PublicKey[:])
		}
		switch {
		case order < 0:
			set = append(set, newPeer(&want[i]))
			i++
		case order > 0:
			remove = append(remove, PeerChange{PublicKey: got[j].PublicKey, Remove: true})
			j++
		default:
			if c, changed := updatePeer(&want[i], &got[j], intended, now); changed {
				set = append(set, c)
			}
			i, j = i+1, j+1
		}
	}
	return set, remove
}

func newPeer(w *Peer) PeerChange {
	c := PeerChange{PublicKey: w.PublicKey, New: true, Replace: true, AllowedIPs: w.AllowedIPs, Endpoint: w.Endpoint}
	if w.Keepalive != 0 {
		c.Keepalive = &w.Keepalive
	}
	return c
}

func updatePeer(w *Peer, g *DevicePeer, intended func(Key) *Peer, now time.Time) (PeerChange, bool) {
	c := PeerChange{PublicKey: w.PublicKey}
	changed := false
	if g.HasPSK {
		c.ClearPSK, changed = true, true
	}
	if w.Keepalive != g.Keepalive {
		c.Keepalive, changed = &w.Keepalive, true
	}
	if w.Endpoint.IsValid() && w.Endpoint != g.Endpoint {
		before := intended(w.PublicKey)
		fresh := !g.LastHandshake.IsZero() && now.Sub(g.LastHandshake) < handshakeFresh
		if !fresh || (before != nil && before.Endpoint != w.Endpoint) {
			c.Endpoint, changed = w.Endpoint, true
		}
	}
	if !slices.Equal(w.AllowedIPs, g.AllowedIPs) {
		missing, extra := diffSorted(w.AllowedIPs, g.AllowedIPs, comparePrefix)
		changed = true
		if len(extra) == 0 {
			c.AllowedIPs = missing
		} else {
			c.Replace, c.AllowedIPs = true, w.AllowedIPs
		}
	}
	return c, changed
}

// diffIntended gives the changes from a device that is known to hold before to one that holds want, both sorted by key. It
// does what diffPeers would, without the device's peers being read or made up.
func diffIntended(want, before []Peer, now time.Time) (set, remove []PeerChange) {
	if sameSlice(want, before) {
		return nil, nil
	}
	i, j := 0, 0
	for i < len(want) || j < len(before) {
		order := 0
		switch {
		case j == len(before):
			order = -1
		case i == len(want):
			order = 1
		default:
			order = bytes.Compare(want[i].PublicKey[:], before[j].PublicKey[:])
		}
		switch {
		case order < 0:
			set = append(set, newPeer(&want[i]))
			i++
		case order > 0:
			remove = append(remove, PeerChange{PublicKey: before[j].PublicKey, Remove: true})
			j++
		default:
			if w, b := &want[i], &before[j]; !equalPeers(w, b) {
				g := DevicePeer{PublicKey: b.PublicKey, Endpoint: b.Endpoint, Keepalive: b.Keepalive, AllowedIPs: b.AllowedIPs}
				if c, changed := updatePeer(w, &g, func(Key) *Peer { return b }, now); changed {
					set = append(set, c)
				}
			}
			i, j = i+1, j+1
		}
	}
	return set, remove
}

// sameSlice: the same elements in memory, so that they need not be compared.
func sameSlice[T any](a, b []T) bool { return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0]) }

// diffSorted splits two sorted lists without duplicates into what only want has and what only got has.
func diffSorted[T any](want, got []T, compare func(a, b T) int) (missing, extra []T) {
	i, j := 0, 0
	for i < len(want) || j < len(got) {
		order := 0
		switch {
		case j == len(got):
			order = -1
		case i == len(want):
			order = 1
		default:
			order = compare(want[i], got[j])
		}
		switch {
		case order < 0:
			missing = append(missing, want[i])
			i++
		case order > 0:
			extra = append(extra, got[j])
			j++
		default:
			i, j = i+1, j+1
		}
	}
	return missing, extra
}
