package spec

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/apex-network/apex/spec/peermap"
)

// Key is a 32-byte public key: WireGuard (Curve25519) or Ed25519. Its text form is canonical standard base64 (44
// characters); the zero value means unset and has the empty text.
type Key [32]byte

// IsZero reports whether k is unset.
func (k Key) IsZero() bool { return k == Key{} }

// String gives the base64 form, or "" for the unset key.
func (k Key) String() string {
	if k.IsZero() {
		return ""
	}
	return base64.StdEncoding.EncodeToString(k[:])
}

// MarshalText gives the form of String.
func (k Key) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText takes canonical standard base64 of exactly 32 bytes, or nothing for the unset key.
func (k *Key) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*k = Key{}
		return nil
	}
	key, err := ParseKey(string(b))
	if err != nil {
		return err
	}
	*k = key
	return nil
}

// ParseKey reads the text form of a key. It does not judge the key: low-order points are Validate's business.
func ParseKey(s string) (Key, error) {
	var k Key
	if len(s) != base64.StdEncoding.EncodedLen(len(k)) {
		return k, fmt.Errorf("key has %d characters; want the 44 of 32 bytes in standard base64", len(s))
	}
	raw, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || len(raw) != len(k) {
		return k, errors.New("key is not canonical standard base64 of 32 bytes")
	}
	return Key(raw), nil
}

// Duration is a time.Duration whose text is Go's, such as "25s" or "168h0m0s".
type Duration time.Duration

// String gives the shortest Go form: "168h" rather than "168h0m0s".
func (d Duration) String() string {
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// MarshalText gives the form of String.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText takes a Go duration.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil {
		return fmt.Errorf("duration %.40q: want a number with a unit, such as 25s, 10m or 168h", b)
	}
	*d = Duration(v)
	return nil
}

// Port is a protocol with an inclusive range of ports: "tcp/5432", "tcp/8000-8099", "icmp"; "tcp" and "udp" alone mean
// every port (0-65535). ICMP stands for ICMP and ICMPv6 and has no ports (First and Last are 0).
type Port struct {
	Protocol peermap.Protocol
	First    uint16
	Last     uint16
}

// String gives the canonical text form.
func (p Port) String() string {
	name := ""
	switch p.Protocol {
	case peermap.ICMP:
		return "icmp"
	case peermap.TCP:
		name = "tcp"
	case peermap.UDP:
		name = "udp"
	default:
		return fmt.Sprintf("protocol(%d)", p.Protocol)
	}
	switch {
	case p.First == 0 && p.Last == 65535:
		return name
	case p.First == p.Last:
		return name + "/" + strconv.Itoa(int(p.First))
	}
	return fmt.Sprintf("%s/%d-%d", name, p.First, p.Last)
}

// Covers reports whether every flow of q is also one of p.
func (p Port) Covers(q Port) bool {
	return p.Protocol == q.Protocol && p.First <= q.First && q.Last <= p.Last
}

// MarshalText gives the form of String.
func (p Port) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText takes the canonical text form only.
func (p *Port) UnmarshalText(b []byte) error {
	port, err := ParsePort(string(b))
	if err != nil {
		return err
	}
	*p = port
	return nil
}

// ParsePort reads the text form of a port. Ports run from 1 to 65535, without leading zeros; a range goes upwards.
func ParsePort(s string) (Port, error) {
	proto, ports, hasPorts := strings.Cut(s, "/")
	var p Port
	switch proto {
	case "icmp":
		if hasPorts {
			return Port{}, errors.New("icmp has no ports")
		}
		return Port{Protocol: peermap.ICMP}, nil
	case "tcp":
		p.Protocol = peermap.TCP
	case "udp":
		p.Protocol = peermap.UDP
	default:
		return Port{}, fmt.Errorf("port %.40q: want tcp/PORT, udp/PORT, tcp/FIRST-LAST, tcp, udp or icmp", s)
	}
	if !hasPorts {
		p.Last = 65535
		return p, nil
	}
	first, last, isRange := strings.Cut(ports, "-")
	var err error
	if p.First, err = portNumber(first); err != nil {
		return Port{}, fmt.Errorf("port %.40q: %w", s, err)
	}
	if p.Last = p.First; !isRange {
		return p, nil
	}
	if p.Last, err = portNumber(last); err != nil {
		return Port{}, fmt.Errorf("port %.40q: %w", s, err)
	}
	if p.Last <= p.First {
		return Port{}, fmt.Errorf("port %.40q: a range goes from a lower to a higher port", s)
	}
	return p, nil
}

// portNumber reads a decimal port between 1 and 65535 that has no leading zero.
func portNumber(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 || s[0] == '0' || s[0] == '+' {
		return 0, fmt.Errorf("%.20q is not a port between 1 and 65535", s)
	}
	return uint16(n), nil
}
