package protocol

import (
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/apex-network/apex/spec/peermap"
)

// ErrMac says that a request does not prove the WireGuard key it names.
var ErrMac = errors.New("the WireGuard key is not proven")

// Labels of the keys and messages of a Mac, so that one made for one purpose is worth nothing for another.
const (
	enrolMacInfo  = "apex-enrol-mac@v1"
	rotateMacInfo = "apex-rotate-mac@v1"
)

// EnrolMac proves a WireGuard key: HMAC-SHA256 over the SHA-256 of the request's encoding with an empty mac, under
// HKDF-SHA256 of the X25519 shared secret. The node gives its private key and the controller's Challenge, the controller
// the challenge's private key and the node's PublicKey: both arrive at the same bytes. Errors: ErrMac for keys of low
// order, with which every secret is zero.
func EnrolMac(private [32]byte, peer peermap.Key, r EnrolRequest) ([]byte, error) {
	r.Mac = nil
	body, err := Encode(r)
	if err != nil {
		return nil, err
	}
	return macOf(private, peer, enrolMacInfo, body)
}

// RotateMac is EnrolMac for a rotation: private or peer belong to the new WireGuard key. It covers the node's path too,
// which the request does not name.
func RotateMac(private [32]byte, peer peermap.Key, network, zone, node string, r RotateRequest) ([]byte, error) {
	r.Mac = nil
	body, err := Encode(r)
	if err != nil {
		return nil, err
	}
	return macOf(private, peer, rotateMacInfo, append([]byte(RotatePath(network, zone, node)+"\n"), body...))
}

func macOf(private [32]byte, peer peermap.Key, info string, message []byte) ([]byte, error) {
	own, err := ecdh.X25519().NewPrivateKey(private[:])
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMac, err)
	}
	other, err := ecdh.X25519().NewPublicKey(peer[:])
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMac, err)
	}
	shared, err := own.ECDH(other)
	if err != nil {
		return nil, fmt.Errorf("%w: a key is of low order", ErrMac)
	}
	key, err := hkdf.Key(sha256.New, shared, nil, info, sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMac, err)
	}
	digest := sha256.Sum256(message)
	mac := hmac.New(sha256.New, key)
	mac.Write(digest[:])
	return mac.Sum(nil), nil
}

// EqualMac compares in constant time.
func EqualMac(a, b []byte) bool { return hmac.Equal(a, b) }

// Compact gives the token as ProofHeader carries it. It holds no secret, but is good for its request until ProofSkew is
// over: archive it, do not log it.
func (t *Token) Compact() string { return t.signed + "." + encodeSegment(t.signature) }

// DecodeEnrol reads an enrolment request for the network and zone of the path, and checks its bounds: names, keys that are
// there, sorted routes, a token of a length that tokens have. It verifies neither proof nor token.
func DecodeEnrol(data []byte, network, zone string) (EnrolRequest, error) {
	var r EnrolRequest
	if err := Decode(data, MaxEnrolBytes, &r); err != nil {
		return EnrolRequest{}, err
	}
	if r.Network != network || r.Zone != zone {
		return EnrolRequest{}, fmt.Errorf("%w: the request is for another network or zone than its path", ErrMalformed)
	}
	if r.Token == "" || len(r.Token) > MaxTokenBytes {
		return EnrolRequest{}, fmt.Errorf("%w: token of %d bytes, want 1 to %d", ErrMalformed, len(r.Token), MaxTokenBytes)
	}
	if err := r.Check(); err != nil {
		return EnrolRequest{}, err
	}
	return r, nil
}

// Check demands the bounds of everything but the token, as DecodeEnrol and readers of evidence do.
func (r EnrolRequest) Check() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
	}
	switch {
	case !isName(r.Network) || !isName(r.Zone):
		return bad("network and zone want names")
	case !isName(r.Node):
		return bad("node %.80q: want a name of 1 to 63 letters a to z, digits and dashes", r.Node)
	case !isName(r.Issuer):
		return bad("issuer %.80q: want the name of an issuer of the network", r.Issuer)
	case r.Routes == nil || len(r.Routes) > MaxEnrolRoutes:
		return bad("routes: want a list of at most %d", MaxEnrolRoutes)
	case r.Address == nil || len(r.Address) > MaxEnrolAddresses:
		return bad("address: want a list of at most %d", MaxEnrolAddresses)
	}
	for i, p := range r.Routes {
		if !p.IsValid() || p.Masked() != p || i > 0 && peermap.ComparePrefixes(r.Routes[i-1], p) >= 0 {
			return bad("routes: want prefixes without host bits, sorted, each once")
		}
	}
	for _, a := range r.Address {
		if !a.IsValid() || a.Zone() != "" || a.Is4In6() {
			return bad("address: want plain addresses")
		}
	}
	return checkKeys(r.PublicKey, r.IdentityKey, r.Mac)
}

// NewEnrol gives the request with what is nil or unsorted put right; Mac and Token are for the caller to set.
func NewEnrol(r EnrolRequest) EnrolRequest {
	r.Routes = append([]netip.Prefix{}, r.Routes...)
	slices.SortFunc(r.Routes, peermap.ComparePrefixes)
	r.Routes = slices.Compact(r.Routes)
	r.Address = append([]netip.Addr{}, r.Address...)
	return r
}

// DecodeRotate reads a rotation and checks its bounds.
func DecodeRotate(data []byte) (RotateRequest, error) {
	var r RotateRequest
	if err := Decode(data, MaxRotateBytes, &r); err != nil {
		return RotateRequest{}, err
	}
	if err := checkKeys(r.PublicKey, r.IdentityKey, r.Mac); err != nil {
		return RotateRequest{}, err
	}
	return r, nil
}

func checkKeys(public, identity peermap.Key, mac []byte) error {
	switch {
	case public == peermap.Key{} || identity == peermap.Key{}:
		return fmt.Errorf("%w: a key is missing", ErrMalformed)
	case public == identity:
		return fmt.Errorf("%w: publicKey and identityKey are the same", ErrMalformed)
	case len(mac) != sha256.Size:
		return fmt.Errorf("%w: mac of %d bytes, want %d", ErrMalformed, len(mac), sha256.Size)
	}
	return nil
}

// isName knows DNS-1123 labels, which all names of the language are.
func isName(s string) bool {
	if s == "" || len(s) > 63 || strings.HasPrefix(s, "-") || strings.HasSuffix(s, "-") {
		return false
	}
	for _, c := range s {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// WaitingID names a request that waits: the same node with the same keys has the same one.
func WaitingID(zone, node string, public, identity peermap.Key) string {
	h := sha256.New()
	h.Write([]byte("apex-enrol-waiting@v1\n" + zone + "\n" + node + "\n"))
	h.Write(public[:])
	h.Write(identity[:])
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// NewEnrolQuery makes the payload to sign for reading the enrolments.
func NewEnrolQuery(network string, now time.Time) ([]byte, error) {
	nonce, err := newNonce()
	if err != nil {
		return nil, err
	}
	return Encode(EnrolQuery{Network: network, Nonce: nonce, Issued: now.Unix()})
}

// ParseEnrolQuery reads a payload whose signature has been verified and checks that it is for this network and recent.
func ParseEnrolQuery(payload []byte, network string, now time.Time) (EnrolQuery, error) {
	var q EnrolQuery
	if err := Decode(payload, MaxApplyBytes, &q); err != nil {
		return EnrolQuery{}, fmt.Errorf("%w: %w", ErrRequest, err)
	}
	if err := checkRequest(q.Network, network, q.Nonce, q.Issued, now); err != nil {
		return EnrolQuery{}, err
	}
	return q, nil
}

// NewDecision makes the payload to sign for approving or denying w.
func NewDecision(network string, w Waiting, approve bool, now time.Time) ([]byte, error) {
	nonce, err := newNonce()
	if err != nil {
		return nil, err
	}
	return Encode(Decision{
		Network: network, Zone: w.Zone, Node: w.Node, PublicKey: w.PublicKey, IdentityKey: w.IdentityKey,
		Issuer: w.Issuer, Subject: w.Subject, Rule: w.Rule, Routes: append([]netip.Prefix{}, w.Routes...), Relay: w.Relay,
		Approve: approve, Nonce: nonce, Issued: now.Unix(),
	})
}

// ParseDecision reads a payload whose signature has been verified and checks that it is for this network and recent.
func ParseDecision(payload []byte, network string, now time.Time) (Decision, error) {
	d, err := DecodeDecision(payload)
	if err != nil {
		return Decision{}, err
	}
	if err := checkRequest(d.Network, network, d.Nonce, d.Issued, now); err != nil {
		return Decision{}, err
	}
	return d, nil
}

// DecodeDecision reads a decision of any age, such as one kept as evidence.
func DecodeDecision(payload []byte) (Decision, error) {
	var d Decision
	if err := Decode(payload, MaxApplyBytes, &d); err != nil {
		return Decision{}, fmt.Errorf("%w: %w", ErrRequest, err)
	}
	if !isName(d.Zone) || !isName(d.Node) {
		return Decision{}, fmt.Errorf("%w: the decision names no node", ErrRequest)
	}
	if d.Routes == nil || len(d.Routes) > MaxEnrolRoutes {
		return Decision{}, fmt.Errorf("%w: the decision names no list of at most %d routes", ErrRequest, MaxEnrolRoutes)
	}
	return d, nil
}
