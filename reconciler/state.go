package reconciler

import (
	"crypto/ecdh"
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// State is what the host should be, now, for one zone. Expiry (notAfter) is the caller's: when a peer or rule runs out
// it applies a State without it. A State handed to the Engine must not be changed afterwards. The order of its slices
// means nothing, except that Rule refers to Sets by index.
type State struct {
	// ID names the state for the caller, for example the digest of the view it was made from. It comes back in
	// Report.ID and is what a caller quarantines. It takes no part in comparing states. At most 256 bytes.
	ID        string
	Interface Interface
	// Addresses of the interface, with the length of the on-link prefix: 10.0.0.5/32 makes no connected route.
	Addresses []netip.Prefix
	Peers     []Peer
	// Routes are the prefixes sent into the interface. Each must be covered by some peer's AllowedIPs to be of use.
	Routes []Route
	// Forward are the prefixes behind this node for which it routes. Empty: the host forwards nothing for the zone.
	Forward  []netip.Prefix
	Firewall Firewall

	// publicKey belongs to Interface.PrivateKey; normalise fills it in, and a stored state has it alone.
	publicKey Key
}

// Interface is the WireGuard device.
type Interface struct {
	// Name is at most 15 bytes; see InterfaceName. It cannot change between states: call Down first.
	Name       string
	PrivateKey PrivateKey
	// ListenPort is the UDP port; 0 lets the system choose and any observed port is then right.
	ListenPort uint16
	// MTU in bytes, 1280 to 65535 (IPv4-only zones may go down to 576).
	MTU int
}

// Peer is one WireGuard peer.
type Peer struct {
	Name      string // for reports only; may be empty
	PublicKey Key
	// AllowedIPs are masked prefixes; no two peers of a State may claim the same one.
	AllowedIPs []netip.Prefix
	// Endpoint is where to send first, already resolved; the zero value leaves it to the peer to speak first.
	Endpoint netip.AddrPort
	// Keepalive is rounded down to whole seconds, at most 65535 s; 0 is off.
	Keepalive time.Duration
	// NotAfter is when the peer runs out (Unix seconds, 0: never). Apply takes what it is given; it is Recover that leaves
	// out what ran out while nobody looked, when there may be nobody to say so.
	NotAfter int64
}

// Route sends Prefix into the interface.
type Route struct {
	Prefix netip.Prefix
}

// Firewall is what new flows may pass. Everything else through the interface is dropped, in and out and forwarded;
// the zero value therefore lets nothing through.
type Firewall struct {
	// Sets are address sets that rules share by index. Prefixes may overlap.
	Sets  [][]netip.Prefix
	Rules []Rule
}

// Hook is where a rule is enforced.
type Hook uint8

// The hooks, as in the compiled map: Input is from the zone to this host, Output from this host into the zone, Forward
// between the zone and the prefixes behind this host, in the direction of the flow's first packet.
const (
	Input Hook = iota + 1
	Output
	Forward
)

func (h Hook) String() string {
	switch h {
	case Input:
		return "input"
	case Output:
		return "output"
	case Forward:
		return "forward"
	}
	return fmt.Sprintf("hook(%d)", uint8(h))
}

// Rule lets new flows through when source and destination match.
type Rule struct {
	ID   string // names the rule in reports, counters and `nft list`; at most 128 bytes
	Hook Hook
	// From and To are indexes into Firewall.Sets; the union counts. Empty means any address, so a selector that matches
	// nobody must be no rule at all, or an index of an empty set.
	From, To []int
	// Ports: empty means every protocol and port.
	Ports []Port
	// NotAfter is as for a Peer.
	NotAfter int64
}

// Port is a protocol with an inclusive port range. Protocol is the IANA number: 1 stands for ICMP and ICMPv6 and
// ignores the ports; 6 and 17 are TCP and UDP.
type Port struct {
	Protocol    uint8
	First, Last uint16
}

// Key is a Curve25519 public key.
type Key [32]byte

func (k Key) String() string { return base64.StdEncoding.EncodeToString(k[:]) }

// MarshalText gives standard base64.
func (k Key) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText takes canonical standard base64 of exactly 32 bytes.
func (k *Key) UnmarshalText(b []byte) error {
	raw, err := base64.StdEncoding.Strict().DecodeString(string(b))
	if err != nil || len(raw) != len(k) {
		return fmt.Errorf("key %.60q: want 32 bytes of standard base64", b)
	}
	copy(k[:], raw)
	return nil
}

// PrivateKey is a Curve25519 private key. It prints, logs and marshals as a placeholder, so that it cannot leak by
// accident; slog uses MarshalText and String too.
type PrivateKey [32]byte

const redacted = "(private key)"

func (PrivateKey) String() string { return redacted }

// GoString keeps %#v quiet too.
func (PrivateKey) GoString() string { return redacted }

// Format answers every verb, %x and %d included, with the placeholder.
func (PrivateKey) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// MarshalText refuses: a private key is never encoded.
func (PrivateKey) MarshalText() ([]byte, error) {
	return nil, errors.New("a private key is not encoded; keep it in its key file")
}

// IsZero reports whether the key is unset.
func (k PrivateKey) IsZero() bool { return k == PrivateKey{} }

// Public is the public key that belongs to k.
func (k PrivateKey) Public() (Key, error) {
	priv, err := ecdh.X25519().NewPrivateKey(k[:])
	if err != nil {
		return Key{}, fmt.Errorf("private key: %w", err)
	}
	return Key(priv.PublicKey().Bytes()), nil
}
