// Package claims reads the claims of an ID token and compares them with what rules want. Rules in git, the trust root's
// identities and the witnesses' checks all judge by it, so a pattern means the same everywhere. It is pure, imports the
// standard library only, and never sees a token's signature.
//
// A claim is compared as text. Only strings, booleans and integers have one, and lists of them: what another shape means
// to two readers may differ, so it matches nothing.
package claims

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Limits on what is looked at, in bytes and items. A claim beyond them has no value.
const (
	MaxName    = 256
	MaxPattern = 1024
	MaxValue   = 1024
	MaxValues  = 4096
)

// Errors of CheckPattern and CheckName; what wraps them says where and what to write instead.
var (
	ErrPattern = errors.New("bad pattern")
	ErrName    = errors.New("bad claim name")
)

// Decode reads the payload of a token that was verified: one JSON object, with numbers kept as they are written, which is
// what Lookup needs to tell 9007199254740993 from its neighbours. A claim that stands twice is refused.
func Decode(payload []byte) (map[string]any, error) {
	if !utf8.Valid(payload) {
		return nil, errors.New("the token's claims are not UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(payload))
	dec.UseNumber()
	var out map[string]any
	if err := dec.Decode(&out); err != nil {
		return nil, fmt.Errorf("the token's claims are not a JSON object: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) || out == nil {
		return nil, errors.New("the token's claims are not one JSON object")
	}
	if err := noDuplicates(payload); err != nil {
		return nil, err
	}
	return out, nil
}

// Lookup gives the values of a claim as text: one, or one per item of a list. A name that begins with a slash is a JSON
// Pointer (RFC 6901). It gives false if the claim is missing, of a shape without text, or beyond the limits. Numbers must
// be json.Number, as Decode makes them.
func Lookup(claims map[string]any, name string) ([]string, bool) {
	var v any
	if strings.HasPrefix(name, "/") {
		v = any(claims)
		for step := range strings.SplitSeq(name[1:], "/") {
			v = child(v, unescape(step))
		}
	} else {
		v = claims[name]
	}
	list, isList := v.([]any)
	if !isList {
		list = []any{v}
	}
	if len(list) > MaxValues {
		return nil, false
	}
	out := make([]string, len(list))
	for i, item := range list {
		var ok bool
		if out[i], ok = text(item); !ok {
			return nil, false
		}
	}
	return out, true
}

// child takes one step of a pointer; nil if it leads nowhere.
func child(v any, step string) any {
	switch v := v.(type) {
	case map[string]any:
		return v[step]
	case []any:
		if i, err := strconv.Atoi(step); err == nil && strconv.Itoa(i) == step && i >= 0 && i < len(v) {
			return v[i]
		}
	}
	return nil
}

func unescape(step string) string {
	return strings.ReplaceAll(strings.ReplaceAll(step, "~1", "/"), "~0", "~")
}

// text writes a scalar; false for what has no one spelling: the decoder writes U+FFFD for every lone surrogate, so that
// different names would be one.
func text(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, len(v) <= MaxValue && utf8.ValidString(v) && !strings.ContainsRune(v, utf8.RuneError)
	case bool:
		return strconv.FormatBool(v), true
	case json.Number:
		s := v.String()
		return s, len(s) <= MaxValue && isInteger(s)
	}
	return "", false
}

// isInteger reports decimal digits, perhaps behind a minus, that no other spelling of the number rivals.
func isInteger(s string) bool {
	digits := strings.TrimPrefix(s, "-")
	return digits != "" && strings.Trim(digits, "0123456789") == "" && (digits[0] != '0' || s == "0")
}

// CheckName says what is wrong with the name of a claim, by ErrName.
func CheckName(name string) error {
	switch {
	case name == "" || len(name) > MaxName:
		return fmt.Errorf("%w: want 1 to %d bytes", ErrName, MaxName)
	case !strings.HasPrefix(name, "/"):
		return nil
	}
	for i := 0; i < len(name); i++ {
		if name[i] == '~' && (i+1 == len(name) || name[i+1] != '0' && name[i+1] != '1') {
			return fmt.Errorf("%w: %q is no JSON Pointer: write ~0 for a tilde and ~1 for a slash inside a name", ErrName, name)
		}
	}
	return nil
}

// separators divide values into segments.
const separators = "/:@"

// CheckPattern says what is wrong with a pattern, by ErrPattern.
//
// A pattern is a value, in which a segment between the separators `/`, `:` and `@` may be `*`: any one segment. The last
// may be `**`: one or more. Any other star is refused, since a star that stops inside a segment matches what only looks
// like the name that was meant: `acme*` would let in acme-evil.
func CheckPattern(pattern string) error {
	if pattern == "" || len(pattern) > MaxPattern || !utf8.ValidString(pattern) {
		return fmt.Errorf("%w: want 1 to %d bytes of text", ErrPattern, MaxPattern)
	}
	for rest, more := pattern, true; more; {
		var segment string
		segment, _, rest, more = cut(rest)
		switch {
		case !strings.Contains(segment, "*") || segment == "*":
		case segment == "**" && !more:
		case segment == "**":
			return fmt.Errorf("%w: %q has ** before its end; write one * per segment there", ErrPattern, pattern)
		default:
			return fmt.Errorf("%w: %q has a star inside the segment %q, which would match what only looks like it; "+
				"a star stands for a whole segment between /, : and @, as in acme/*", ErrPattern, pattern, segment)
		}
	}
	return nil
}

// Open reports whether a pattern asks for nothing but a value of some number of segments.
func Open(pattern string) bool {
	return strings.Trim(pattern, "*"+separators) == ""
}

// Narrows reports whether a rule tells some of an issuer's identities from the others: its pattern is not Open, and the claim
// is neither the issuer itself nor the audience, which whoever asks for a token may often choose.
func Narrows(claim, pattern string) bool {
	switch strings.TrimPrefix(claim, "/") {
	case "iss", "aud":
		return false
	}
	return !Open(pattern)
}

// IsEmail reports whether a name leads to the claim email, which counts only if EmailVerified.
func IsEmail(name string) bool { return name == "email" || name == "/email" }

// EmailVerified reports whether the issuer says that the email belongs to the subject (OpenID Connect Core 1.0, section 5.1).
// Without that it is what people say of themselves. Some issuers write the boolean as text.
func EmailVerified(claims map[string]any) bool {
	values, ok := Lookup(claims, "email_verified")
	return ok && len(values) == 1 && values[0] == "true"
}

// Match compares a value with a pattern. A pattern that CheckPattern refuses matches nothing, and no star matches an
// empty segment. Case counts.
func Match(pattern, value string) bool {
	if CheckPattern(pattern) != nil {
		return false
	}
	for {
		want, wantSep, wantRest, wantMore := cut(pattern)
		have, haveSep, haveRest, haveMore := cut(value)
		switch {
		case want == "**":
			return segmentsFull(value)
		case want == "*" && have == "", want != "*" && want != have, wantMore != haveMore, wantSep != haveSep:
			return false
		case !wantMore:
			return true
		}
		pattern, value = wantRest, haveRest
	}
}

// segmentsFull reports whether no segment of the value is empty.
func segmentsFull(value string) bool {
	for more := true; more; {
		var segment string
		if segment, _, value, more = cut(value); segment == "" {
			return false
		}
	}
	return true
}

// cut takes the first segment off, with the separator behind it (0 at the end).
func cut(s string) (segment string, separator byte, rest string, more bool) {
	i := strings.IndexAny(s, separators)
	if i < 0 {
		return s, 0, "", false
	}
	return s[:i], s[i], s[i+1:], true
}
