package spec

import (
	"encoding"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"time"

	"github.com/apex-network/apex/spec/diag"
)

// A reader sets v, which is addressable and of the type it reads, from a scalar's text, or says what is wrong with it
// and leaves v unset.
type reader func(text string, b *bounds, v reflect.Value) *fault

// fault is a diagnostic that does not know its place yet.
type fault struct{ code, message, hint string }

func faultf(code, hint, format string, args ...any) *fault {
	return &fault{code, fmt.Sprintf(format, args...), hint}
}

// readAddr takes an address in the one form that netip writes.
func readAddr(text string, _ *bounds, v reflect.Value) *fault {
	a, err := netip.ParseAddr(text)
	if err != nil {
		if p, err := netip.ParsePrefix(text); err == nil {
			return faultf(diag.BadAddress, fmt.Sprintf("write %s", p.Addr()), "%q is a prefix; an address is wanted", text)
		}
		return faultf(diag.BadAddress, "write an address such as 10.0.0.1 or fd00::1", "%q is not an IP address", clip(text))
	}
	if f := checkAddr(diag.BadAddress, a, text); f != nil {
		return f
	}
	if a.String() != text {
		return faultf(diag.BadAddress, fmt.Sprintf("write %s", a), "address %q is not in canonical form", text)
	}
	*v.Addr().Interface().(*netip.Addr) = a
	return nil
}

// checkAddr refuses what only looks like an address of another kind.
func checkAddr(code string, a netip.Addr, text string) *fault {
	switch {
	case a.Zone() != "":
		return faultf(code, fmt.Sprintf("write %s", a.WithZone("")), "%q has a zone id, which means nothing on another host", clip(text))
	case a.Is4In6():
		return faultf(code, fmt.Sprintf("write %s", a.Unmap()), "%q is an IPv4 address dressed as IPv6", text)
	}
	return nil
}

// readPrefix takes a prefix in the one form that netip writes, without host bits.
func readPrefix(text string, _ *bounds, v reflect.Value) *fault {
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return badPrefix(text)
	}
	if p.Addr().Is4In6() {
		return faultf(diag.BadPrefix, "write the IPv4 prefix", "%q is an IPv4 prefix dressed as IPv6", text)
	}
	if m := p.Masked(); m != p {
		return faultf(diag.HostBits, fmt.Sprintf("write %s for the network, or %s for the one address", m,
			netip.PrefixFrom(p.Addr(), p.Addr().BitLen())), "%q has bits set beyond its length of %d", text, p.Bits())
	}
	if p.String() != text {
		return faultf(diag.BadPrefix, fmt.Sprintf("write %s", p), "prefix %q is not in canonical form", text)
	}
	*v.Addr().Interface().(*netip.Prefix) = p
	return nil
}

func badPrefix(text string) *fault {
	hint := "write a prefix such as 10.1.0.0/16 or fd00:1::/64"
	if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" {
		hint = fmt.Sprintf("write %s for the one address", netip.PrefixFrom(a, a.BitLen()))
	}
	return faultf(diag.BadPrefix, hint, "%q is not a prefix", clip(text))
}

// Times outside these years cannot be told from "never" or are slips.
const minYear, maxYear = 2000, 9999

// readTime takes an RFC 3339 instant in whole seconds and gives it in UTC.
func readTime(text string, _ *bounds, v reflect.Value) *fault {
	const hint = "write an instant such as 2030-01-31T12:00:00Z"
	t, err := time.Parse(time.RFC3339, text)
	switch {
	case err != nil:
		return faultf(diag.BadTime, hint, "%q is not an RFC 3339 instant", clip(text))
	case t.Nanosecond() != 0:
		return faultf(diag.BadTime, hint, "%q has fractions of a second", clip(text))
	case t.Format(time.RFC3339) != text && t.Format("2006-01-02T15:04:05-07:00") != text:
		return faultf(diag.BadTime, fmt.Sprintf("write %s", t.Format(time.RFC3339)), "%q is not in canonical form", clip(text))
	}
	if t = t.UTC(); t.Year() < minYear || t.Year() > maxYear {
		return faultf(diag.BadTime, hint, "%q is not between the years %d and %d", clip(text), minYear, maxYear)
	}
	*v.Addr().Interface().(*time.Time) = t
	return nil
}

func readKey(text string, _ *bounds, v reflect.Value) *fault {
	const hint = "`apex node init` prints the keys of a node; a key has 44 characters and ends in ="
	k, err := ParseKey(text)
	if err != nil {
		return faultf(diag.BadKey, hint, "%s", err)
	}
	if k.IsZero() {
		return faultf(diag.WeakKey, hint, "the key is all zero")
	}
	*v.Addr().Interface().(*Key) = k
	return nil
}

func readDuration(text string, b *bounds, v reflect.Value) *fault {
	d, err := time.ParseDuration(text)
	if err != nil || text == "0" {
		return faultf(diag.BadDuration, "write a number with a unit, such as 25s, 10m or 168h", "%q is not a duration", clip(text))
	}
	low, high := Duration(b.min), Duration(b.max)
	switch {
	case b.hasMin && d < time.Duration(low) || b.hasMax && d > time.Duration(high):
		return faultf(diag.BadDuration, fmt.Sprintf("write a duration from %s to %s", low, high), "%q is out of range", clip(text))
	case b.seconds && d%time.Second != 0:
		return faultf(diag.BadDuration, fmt.Sprintf("write %s", Duration(d.Round(time.Second))), "%q is not whole seconds", clip(text))
	}
	*v.Addr().Interface().(*Duration) = Duration(d)
	return nil
}

func readPort(text string, _ *bounds, v reflect.Value) *fault {
	p, err := ParsePort(text)
	if err != nil {
		hint := "write a port such as tcp/5432, udp/53, tcp/8000-8099 or icmp"
		if lower := strings.ToLower(strings.ReplaceAll(text, " ", "")); lower != text {
			if _, err := ParsePort(lower); err == nil {
				hint = "write " + lower
			}
		} else if _, err := ParsePort("tcp/" + text); err == nil {
			hint = fmt.Sprintf("write tcp/%s or udp/%s", text, text)
		}
		return faultf(diag.BadPort, hint, "%s", err)
	}
	*v.Addr().Interface().(*Port) = p
	return nil
}

// readText reads any other type that unmarshals itself from text.
func readText(text string, _ *bounds, v reflect.Value) *fault {
	if err := v.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(text)); err != nil {
		v.SetZero()
		return faultf(diag.BadScalar, "", "%s", err)
	}
	return nil
}

// clip keeps hostile text from filling a message.
func clip(s string) string {
	const most = 80
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}
