package binding

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/apex-network/apex/spec/peermap"
)

// Check reports what is wrong with b by itself, wrapping peermap.ErrInvalid: unset fields, bad names, lists that are nil,
// out of order or too long, an end before the beginning. Whether anybody granted it is not judged here.
func (b Binding) Check() error {
	if b.Type != Type {
		return invalid("type %.80q, want %q", b.Type, Type)
	}
	for _, n := range [][2]string{{"network", b.Network}, {"zone", b.Zone}, {"node", b.Node}, {"rule", b.Rule.Name}} {
		if err := peermap.CheckName(n[0], n[1]); err != nil {
			return err
		}
	}
	if err := b.Identity.Check(); err != nil {
		return err
	}
	if b.PublicKey == (peermap.Key{}) || b.IdentityKey == (peermap.Key{}) || b.PublicKey == b.IdentityKey {
		return invalid("want a public key and another identity key")
	}
	if b.Routes == nil || b.Labels == nil {
		return invalid("a list is null")
	}
	peer := peermap.Peer{Name: b.Node, PublicKey: b.PublicKey, Addresses: b.Addresses, NotAfter: b.Expires}
	if err := peer.Check(); err != nil {
		return err
	}
	if err := b.checkRoutes(); err != nil {
		return err
	}
	if err := b.checkLabels(); err != nil {
		return err
	}
	return b.checkOrigin()
}

// checkRoutes wants plain prefixes, ascending, none inside another.
func (b Binding) checkRoutes() error {
	if len(b.Routes) > MaxRoutes {
		return invalid("%d routes, limit %d", len(b.Routes), MaxRoutes)
	}
	for i, p := range b.Routes {
		if !p.IsValid() || p.Addr().Is4In6() || p != p.Masked() {
			return invalid("route %s: want a plain IPv4 or IPv6 prefix without host bits", p)
		}
		if i > 0 && (peermap.ComparePrefixes(b.Routes[i-1], p) >= 0 || b.Routes[i-1].Overlaps(p)) {
			return invalid("route %s is out of order or overlaps %s", p, b.Routes[i-1])
		}
	}
	return nil
}

func (b Binding) checkLabels() error {
	if len(b.Labels) > MaxLabels {
		return invalid("%d labels, limit %d", len(b.Labels), MaxLabels)
	}
	for i, l := range b.Labels {
		if i > 0 && strings.Compare(b.Labels[i-1].Key, l.Key) >= 0 {
			return invalid("label %.80q is out of order or twice", l.Key)
		}
		if err := checkText("label", l.Key, 1, peermap.MaxName); err != nil {
			return err
		}
		if err := checkText("label value", l.Value, 0, peermap.MaxName); err != nil {
			return err
		}
	}
	return nil
}

// checkOrigin judges the rule's place, the commit and the instants.
func (b Binding) checkOrigin() error {
	if err := checkText("rule's file", b.Rule.File, 1, MaxFile); err != nil {
		return err
	}
	if b.Rule.Line < 1 {
		return invalid("rule's line %d: lines count from 1", b.Rule.Line)
	}
	if len(b.Commit) != 40 && len(b.Commit) != 64 || strings.Trim(b.Commit, "0123456789abcdef") != "" {
		return invalid("commit %.80q: want 40 or 64 lower-case hex digits", b.Commit)
	}
	if b.Issued <= 0 || b.Expires <= b.Issued {
		return invalid("issued %d and expires %d: want two instants in order", b.Issued, b.Expires)
	}
	if b.Evidence.IsZero() {
		return invalid("the digest of the evidence is unset")
	}
	return nil
}

// Check reports what is wrong with an identity by itself, wrapping peermap.ErrInvalid.
func (id Identity) Check() error {
	if err := peermap.CheckName("issuer", id.Issuer); err != nil {
		return err
	}
	if id.Groups == nil || id.Claims == nil {
		return invalid("a list is null")
	}
	for _, c := range []struct {
		what, text string
		least, max int
	}{{"issuer URL", id.URL, 1, MaxURL}, {"subject", id.Subject, 1, MaxSubject}, {"username", id.Username, 0, MaxName}} {
		if err := checkText(c.what, c.text, c.least, c.max); err != nil {
			return err
		}
	}
	if err := checkSorted("group", id.Groups, MaxGroups, MaxName); err != nil {
		return err
	}
	if len(id.Claims) > MaxClaims {
		return invalid("%d claims, limit %d", len(id.Claims), MaxClaims)
	}
	for i, c := range id.Claims {
		if i > 0 && id.Claims[i-1].Name >= c.Name {
			return invalid("claim %.80q is out of order or twice", c.Name)
		}
		if err := checkText("claim name", c.Name, 1, MaxName); err != nil {
			return err
		}
		if c.Values == nil {
			return invalid("the values of claim %q are null", c.Name)
		}
		if err := checkSorted("value of claim "+c.Name, c.Values, MaxValues, MaxValue); err != nil {
			return err
		}
	}
	return nil
}

// checkSorted wants distinct texts in order.
func checkSorted(what string, list []string, most, longest int) error {
	if len(list) > most {
		return invalid("%s: %d of them, limit %d", what, len(list), most)
	}
	for i, s := range list {
		if i > 0 && list[i-1] >= s {
			return invalid("%s %.80q is out of order or twice", what, s)
		}
		if err := checkText(what, s, 0, longest); err != nil {
			return err
		}
	}
	return nil
}

// Printable reports UTF-8 in which every character shows and no space is other than the plain one, so that a terminal or
// a reviewer sees what there is.
func Printable(s string) bool {
	return utf8.ValidString(s) && strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
}

// checkText wants printable text.
func checkText(what, s string, least, most int) error {
	if len(s) < least || len(s) > most {
		return invalid("%s of %d bytes: want %d to %d", what, len(s), least, most)
	}
	if !Printable(s) {
		return invalid("%s %.80q is not printable text", what, s)
	}
	return nil
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", peermap.ErrInvalid, fmt.Sprintf(format, args...))
}

// SortRoutes gives routes as a binding holds them: sorted, without those inside another, never nil.
func SortRoutes(routes []netip.Prefix) []netip.Prefix {
	out := make([]netip.Prefix, 0, len(routes))
	for _, p := range slices.SortedFunc(slices.Values(routes), peermap.ComparePrefixes) {
		if n := len(out); n == 0 || !out[n-1].Overlaps(p) {
			out = append(out, p)
		}
	}
	return out
}
