package spec

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"gopkg.in/yaml.v3"

	"github.com/apex-network/apex/spec/diag"
)

// Caps on text, in bytes.
const (
	maxText     = 4 << 10
	maxLongText = 256 << 10 // of a multiline field: an armoured OpenPGP key
	maxLabel    = 63
)

// readScalar reads a scalar node into v.
func readScalar(n *yaml.Node, v reflect.Value, s *shape, b *bounds) *fault {
	switch s.form {
	case intForm:
		return readInt(n, v, b)
	case boolForm:
		return readBool(n, v)
	case textForm:
		if len(n.Value) > maxText {
			return faultf(diag.BadScalar, "", "%d bytes of text; at most %d are allowed", len(n.Value), maxText)
		}
		return s.read(n.Value, b, v)
	}
	if f := stringFault(n, b); f != nil {
		return f
	}
	v.SetString(n.Value)
	return nil
}

// readInt takes plain decimal digits.
func readInt(n *yaml.Node, v reflect.Value, b *bounds) *fault {
	if n.Style != 0 {
		return faultf(diag.WrongType, "remove the quotes", "a string where an integer is wanted")
	}
	i, err := strconv.ParseInt(n.Value, 10, 64)
	switch {
	case err == nil && strconv.FormatInt(i, 10) == n.Value:
	case n.Tag == "!!int" || err == nil:
		return faultf(diag.NonCanonicalInt, "write plain decimal digits; "+readings(n.Value), "integer %q is not in canonical form", clip(n.Value))
	default:
		return faultf(diag.WrongType, "", "%q where an integer is wanted", clip(n.Value))
	}
	if b.hasMin && i < b.min || b.hasMax && i > b.max || v.CanInt() && v.OverflowInt(i) || v.CanUint() && (i < 0 || v.OverflowUint(uint64(i))) {
		return faultf(diag.OutOfRange, rangeHint(b), "%d is out of range", i)
	}
	if v.CanInt() {
		v.SetInt(i)
	} else {
		v.SetUint(uint64(i))
	}
	return nil
}

func rangeHint(b *bounds) string {
	switch {
	case b.hasMin && b.hasMax:
		return fmt.Sprintf("write a number from %d to %d", b.min, b.max)
	case b.hasMin:
		return fmt.Sprintf("write a number of at least %d", b.min)
	case b.hasMax:
		return fmt.Sprintf("write a number of at most %d", b.max)
	}
	return ""
}

// readings says what different readers may take a non-canonical integer for.
func readings(text string) string {
	if octal, err := strconv.ParseInt(text, 8, 64); err == nil && strings.HasPrefix(text, "0") {
		decimal, err := strconv.ParseInt(text, 10, 64)
		if err == nil {
			return fmt.Sprintf("some parsers read %d here, others %d", octal, decimal)
		}
	}
	if any, err := strconv.ParseInt(text, 0, 64); err == nil {
		return fmt.Sprintf("perhaps %d", any)
	}
	return "parsers read it differently"
}

// readBool takes true and false.
func readBool(n *yaml.Node, v reflect.Value) *fault {
	if n.Style != 0 {
		return faultf(diag.WrongType, "remove the quotes", "a string where true or false is wanted")
	}
	switch strings.ToLower(n.Value) {
	case "true", "on", "yes", "y":
		if n.Value == "true" {
			v.SetBool(true)
			return nil
		}
		return faultf(diag.NonCanonicalBool, "write true", "boolean %q is not in canonical form", n.Value)
	case "false", "off", "no", "n":
		if n.Value == "false" {
			v.SetBool(false)
			return nil
		}
		return faultf(diag.NonCanonicalBool, "write false", "boolean %q is not in canonical form", n.Value)
	}
	return faultf(diag.WrongType, "", "%q where true or false is wanted", clip(n.Value))
}

// isAmbiguous reports plain text that some YAML parser takes for something other than a string.
func isAmbiguous(n *yaml.Node) bool {
	if n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) != 0 {
		return false
	}
	if n.Tag != "!!str" {
		return true
	}
	switch strings.ToLower(n.Value) {
	case "y", "n", "yes", "no", "on", "off":
		return true
	}
	return false
}

// stringFault says what is wrong with a scalar as a string within b.
func stringFault(n *yaml.Node, b *bounds) *fault {
	if isAmbiguous(n) {
		return faultf(diag.Unquoted, fmt.Sprintf("write %q", clip(n.Value)), "%s is a string here, and needs quotes", clip(n.Value))
	}
	return textFault(n.Value, b)
}

// textFault says what is wrong with s as text within b.
func textFault(s string, b *bounds) *fault {
	most := maxText
	if b.syntax == "multiline" {
		most = maxLongText
	}
	switch {
	case len(s) > most:
		return faultf(diag.BadScalar, "", "%d bytes of text; at most %d are allowed", len(s), most)
	case !utf8.ValidString(s) || hasControl(s, b.syntax == "multiline"):
		return faultf(diag.ControlCharacter, "remove it", "%q has a control character", clip(s))
	case len(b.enum) > 0 && !slices.Contains(b.enum, s):
		return faultf(diag.OutOfRange, didYouMeanOr(s, b.enum, "write "+strings.Join(b.enum, " or ")), "unknown value %q", clip(s))
	}
	switch b.syntax {
	case "name":
		return nameFault(s)
	case "labelKey":
		return labelFault(s, true)
	case "labels":
		return labelFault(s, false)
	case "endpoint":
		return endpointFault(s)
	case "glob":
		return globFault(s)
	case "identity":
		if !ValidIdentity(s) {
			return faultf(diag.BadName, "", "%q is not the name of a group or user: 1 to 256 bytes without spaces around", clip(s))
		}
	}
	return nil
}

// ValidName reports whether s is a DNS-1123 label, as all names are.
func ValidName(s string) bool {
	if len(s) == 0 || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for _, c := range []byte(s) {
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-') {
			return false
		}
	}
	return true
}

// ValidIdentity reports whether s can be the name of a user or group: 1 to 256 bytes of text without spaces around it.
func ValidIdentity(s string) bool {
	return s != "" && len(s) <= 256 && strings.TrimSpace(s) == s && utf8.ValidString(s) && !hasControl(s, false)
}

func nameFault(s string) *fault {
	if ValidName(s) {
		return nil
	}
	hint := "names are 1 to 63 of a-z, 0-9 and '-', with a letter or digit at both ends"
	fixed := strings.Trim(strings.Map(func(r rune) rune {
		if r == '_' || r == '.' || r == ' ' {
			return '-'
		}
		return r
	}, strings.ToLower(s)), "-")
	if ValidName(fixed) {
		hint = fmt.Sprintf("write %s; %s", fixed, hint)
	}
	return faultf(diag.BadName, hint, "%q is not a name", clip(s))
}

// labelFault judges a label's key or value. Keys may have prefixes with '/'; values may be empty.
func labelFault(s string, key bool) *fault {
	if s == "" && !key {
		return nil
	}
	alnum := func(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' }
	ok := len(s) > 0 && len(s) <= maxLabel && alnum(s[0]) && alnum(s[len(s)-1])
	for _, c := range []byte(s) {
		ok = ok && (alnum(c) || c == '-' || c == '_' || c == '.' || c == '/')
	}
	if ok {
		return nil
	}
	return faultf(diag.BadLabel, "use up to 63 letters, digits, '-', '_', '.' and '/', with a letter or digit at both ends",
		"%q is not a label", clip(s))
}

// endpointFault judges host:port.
func endpointFault(s string) *fault {
	const hint = "write host:port, such as 203.0.113.7:51820, [2001:db8::7]:51820 or gw.example.com:51820"
	if ap, err := netip.ParseAddrPort(s); err == nil {
		switch a := ap.Addr(); {
		case checkAddr(diag.BadEndpoint, a, s) != nil:
			return checkAddr(diag.BadEndpoint, a, s)
		case ap.Port() == 0 || ap.String() != s:
			return faultf(diag.BadEndpoint, hint, "endpoint %q is not in canonical form", clip(s))
		case a.IsUnspecified() || a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
			return faultf(diag.BadEndpoint, hint, "no peer can be reached at %q", clip(s))
		}
		return nil
	}
	host, port, ok := strings.Cut(s, ":")
	if _, err := portNumber(port); !ok || err != nil || !validHost(host) {
		return faultf(diag.BadEndpoint, hint, "%q is not an endpoint", clip(s))
	}
	return nil
}

// validHost reports a DNS name in lower case whose last label is not a number (RFC 1123, RFC 3696).
func validHost(s string) bool {
	labels := strings.Split(s, ".")
	for _, l := range labels {
		if !ValidName(l) {
			return false
		}
	}
	last := labels[len(labels)-1]
	return len(s) <= 253 && strings.Trim(last, "0123456789") != ""
}

// globFault judges a path pattern.
func globFault(s string) *fault {
	if strings.HasPrefix(s, "/") {
		return faultf(diag.BadPath, "paths are relative to the repository; remove the leading /", "path %q is absolute", clip(s))
	}
	for name := range strings.SplitSeq(s, "/") {
		switch {
		case name == "" || name == "." || name == "..":
			return faultf(diag.BadPath, "write a clean relative path such as zones/prod/**", "path %q is not clean", clip(s))
		case name != "**" && strings.Contains(name, "**"):
			return faultf(diag.BadPath, "write ** as a name of its own, such as zones/**", "path %q has ** beside other characters", clip(s))
		case strings.ContainsAny(name, `[]{}\`):
			return faultf(diag.BadPath, "only *, ? and ** are special", "path %q has a character that other globs give a meaning", clip(s))
		}
	}
	return nil
}

// didYouMean gives a hint with the candidate nearest to s, or "" if none is near.
func didYouMean(s string, candidates []string) string {
	if len(s) > 64 {
		return ""
	}
	best, distance := "", max(len(s)/3, 1)+1
	for _, c := range candidates {
		if strings.EqualFold(c, s) {
			return fmt.Sprintf("did you mean %s?", c)
		}
		if d := editDistance(strings.ToLower(s), strings.ToLower(c), distance); d < distance {
			best, distance = c, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("did you mean %s?", best)
}

func didYouMeanOr(s string, candidates []string, otherwise string) string {
	if hint := didYouMean(s, candidates); hint != "" {
		return hint
	}
	return otherwise
}

// editDistance counts the insertions, deletions, replacements and swaps of neighbours that turn a into b (optimal
// string alignment). What reaches limit may be given as any number from limit up.
func editDistance(a, b string, limit int) int {
	if len(a)-len(b) >= limit || len(b)-len(a) >= limit {
		return limit
	}
	before, above, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range above {
		above[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			replace := above[j-1]
			if a[i-1] != b[j-1] {
				replace++
			}
			row[j] = min(replace, above[j]+1, row[j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, above, row = above, row, before
	}
	return above[len(b)]
}
