package signer

import (
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"
)

// TrustFolder is the folder of a repository that holds the trust root. No maintainer rule reaches into it: only a chain
// that VerifyNextRoot accepts changes it.
const TrustFolder = "trust"

// IsTrustPath reports whether a repository path is the trust folder or lies in it, in any letter case, because some file
// systems do not tell cases apart.
func IsTrustPath(p string) bool {
	first, _, _ := strings.Cut(p, "/")
	return strings.EqualFold(first, TrustFolder)
}

// MayChange says whether the key with this ID may change the file at a repository path (slash-separated, relative, no
// "." or ".." in it), and by which maintainer rule. A rule that holds for every zone is preferred over one that limits
// zones; then the first by name. Paths in TrustFolder are never covered. Where the rule limits zones, MayName decides
// about each zone that the file's documents name.
func (r *Root) MayChange(keyID, p string) (rule string, ok bool) {
	return r.firstRule(keyID, p, func(m MaintainerRule) bool { return len(m.Zones) == 0 }, func(MaintainerRule) bool { return true })
}

// MayName says whether the key with this ID may put a document of the zone ("" for documents without one, such as
// Network) into the file at path p, and by which rule. A rule that limits zones covers no document without a zone.
func (r *Root) MayName(keyID, p, zone string) (rule string, ok bool) {
	return r.firstRule(keyID, p, func(m MaintainerRule) bool {
		return len(m.Zones) == 0 || (zone != "" && slices.Contains(m.Zones, zone))
	})
}

// firstRule gives the first maintainer rule that covers key and path, trying the conditions in order of preference.
func (r *Root) firstRule(keyID, p string, conditions ...func(MaintainerRule) bool) (string, bool) {
	name, _, known := r.KeyByID(keyID)
	if !known || !isCleanPath(p) || IsTrustPath(p) {
		return "", false
	}
	for _, cond := range conditions {
		for _, m := range r.Maintainers {
			covers := func(pattern string) bool { return matchPath(pattern, p) }
			if cond(m) && slices.Contains(m.Keys, name) && slices.ContainsFunc(m.Paths, covers) {
				return m.Name, true
			}
		}
	}
	return "", false
}

// MayClaim says whether nodes of the zone may carry a route to prefix although it lies outside the zone's ranges.
func (r *Root) MayClaim(zone string, prefix netip.Prefix) bool {
	for _, claim := range r.Routes {
		for _, p := range claim.Prefixes {
			if claim.Zone == zone && p.Bits() <= prefix.Bits() && p.Contains(prefix.Addr()) {
				return true
			}
		}
	}
	return false
}

// isCleanPath takes relative slash-separated paths that name one thing in one way only.
func isCleanPath(p string) bool {
	return p != "" && len(p) <= 4*MaxPattern && !strings.HasPrefix(p, "/") && !strings.ContainsAny(p, "\x00\\") &&
		path.Clean(p) == p && p != "." && p != ".." && !strings.HasPrefix(p, "../")
}

// checkPattern refuses globs that would not mean what they seem to.
func checkPattern(pattern string) error {
	if len(pattern) > MaxPattern {
		return fmt.Errorf("path glob %.80q…: longer than %d bytes", pattern, MaxPattern)
	}
	if !isCleanPath(pattern) {
		return fmt.Errorf("path glob %.80q: want a relative path with single slashes and without dot segments", pattern)
	}
	for segment := range strings.SplitSeq(pattern, "/") {
		if segment != "**" && strings.Contains(segment, "**") {
			return fmt.Errorf("path glob %.80q: ** must stand alone between slashes", pattern)
		}
		if _, err := path.Match(segment, ""); err != nil {
			return fmt.Errorf("path glob %.80q: %w", pattern, err)
		}
	}
	if IsTrustPath(pattern) {
		return fmt.Errorf("path glob %.80q: %s/ changes by the root threshold alone; remove the path", pattern, TrustFolder)
	}
	return nil
}

// matchPath matches segment by segment with path.Match; `**` stands for any number of folders, at the end for everything
// below (at least one name). Each (segment, segment) pair is looked at once, so no pattern is slow.
func matchPath(pattern, p string) bool {
	want, have := strings.Split(pattern, "/"), strings.Split(p, "/")
	// reach[j]: the pattern's segments so far match the first j names.
	reach := make([]bool, len(have)+1)
	reach[0] = true
	for i, segment := range want {
		next := make([]bool, len(have)+1)
		for j := range reach {
			switch {
			case segment == "**" && i == len(want)-1:
				next[j] = j > 0 && (reach[j-1] || next[j-1])
			case segment == "**":
				next[j] = reach[j] || (j > 0 && next[j-1])
			case j > 0 && reach[j-1]:
				ok, err := path.Match(segment, have[j-1])
				next[j] = ok && err == nil
			}
		}
		reach = next
	}
	return reach[len(have)]
}
