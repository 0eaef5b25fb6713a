// Package claims reads the claims of an ID token (RFC 7519) as text and compares them with patterns. It is pure, imports
// the standard library alone, and is the one place that says what a pattern matches: member rules, appliers, witnesses and
// agents all ask it.
package claims

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// MaxPattern is the longest pattern or claim name, in bytes.
const MaxPattern = 1 << 10

// ErrPattern says that a pattern, or a claim's name, cannot be used.
var ErrPattern = errors.New("bad pattern")

// Lookup gives the values of a claim as text: one for a string, a bool or a whole number, all for a list of those. It is
// false if there is no such claim or it holds anything else, an object say. A name that begins with a slash is a JSON
// Pointer (RFC 6901). Numbers must be json.Number (decode with UseNumber) or they are not found.
func Lookup(all map[string]any, name string) ([]string, bool) {
	value, ok := find(all, name)
	if !ok {
		return nil, false
	}
	items, list := value.([]any)
	if !list {
		s, ok := text(value)
		return []string{s}, ok
	}
	out := make([]string, 0, len(items))
	for _, item := range items {
		s, ok := text(item)
		if !ok {
			return nil, false
		}
		out = append(out, s)
	}
	return out, true
}

func find(all map[string]any, name string) (any, bool) {
	if !strings.HasPrefix(name, "/") {
		v, ok := all[name]
		return v, ok
	}
	var at any = all
	for _, part := range strings.Split(name[1:], "/") {
		object, ok := at.(map[string]any)
		if !ok {
			return nil, false
		}
		if at, ok = object[strings.NewReplacer("~1", "/", "~0", "~").Replace(part)]; !ok {
			return nil, false
		}
	}
	return at, true
}

func text(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case bool:
		return strconv.FormatBool(v), true
	case json.Number:
		s := v.String()
		return s, !strings.ContainsAny(s, ".eE")
	}
	return "", false
}

// separators end a segment. They match only themselves.
const separators = "/:@"

// Match reports whether pattern matches the whole value: literally, but for `*`, which stands for one whole segment between
// separators that is not empty, and `**` as the last segment, which stands for one or more. A pattern that CheckPattern
// refuses matches nothing but itself.
func Match(pattern, value string) bool {
	if CheckPattern(pattern) != nil {
		return pattern == value
	}
	for {
		p, pSep, pRest := cut(pattern)
		if p == "**" && pSep == "" {
			return value != ""
		}
		v, vSep, vRest := cut(value)
		if pSep != vSep || p == "*" && v == "" || p != "*" && p != v {
			return false
		}
		if pSep == "" {
			return true
		}
		pattern, value = pRest, vRest
	}
}

// MatchAny reports whether pattern matches any of the values.
func MatchAny(pattern string, values []string) bool {
	for _, v := range values {
		if Match(pattern, v) {
			return true
		}
	}
	return false
}

// cut takes the first segment off s, and the separator behind it; the separator is empty at the end.
func cut(s string) (segment, separator, rest string) {
	i := strings.IndexAny(s, separators)
	if i < 0 {
		return s, "", ""
	}
	return s[:i], s[i : i+1], s[i+1:]
}

// CheckPattern refuses what looks like a pattern but would match more than people expect. Errors: ErrPattern.
func CheckPattern(pattern string) error {
	if pattern == "" || len(pattern) > MaxPattern {
		return fmt.Errorf("%w: want 1 to %d bytes", ErrPattern, MaxPattern)
	}
	for rest, more := pattern, true; more; {
		segment, sep, next := cut(rest)
		switch {
		case !strings.Contains(segment, "*"), segment == "*", segment == "**" && sep == "":
		case segment == "**":
			return fmt.Errorf("%w %q: ** stands only at the end", ErrPattern, pattern)
		default:
			return fmt.Errorf("%w %q: * stands for one whole segment between / : and @; %q would match names that only look alike",
				ErrPattern, pattern, segment)
		}
		rest, more = next, sep != ""
	}
	return nil
}

// CheckName refuses a claim name that can name nothing. Errors: ErrPattern.
func CheckName(name string) error {
	if name == "" || len(name) > MaxPattern || name == "/" {
		return fmt.Errorf("%w: a claim's name has 1 to %d bytes", ErrPattern, MaxPattern)
	}
	if strings.HasPrefix(name, "/") && strings.Contains(strings.NewReplacer("~0", "", "~1", "").Replace(name), "~") {
		return fmt.Errorf("%w: %.80q is no JSON Pointer: write ~0 for ~ and ~1 for /", ErrPattern, name)
	}
	return nil
}
