package verify

import (
	"slices"

	"github.com/apex-network/apex/internal/gitobject"
	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/diag"
)

// trailerShrink names a zone that a change may empty or shrink beyond the network's limit.
const trailerShrink = "Apex-Allow-Shrink"

// SpecZones reads a file with the loader of package spec and names the zones of its documents: of a Zone its own name,
// "" for documents without a zone.
func SpecZones(f spec.File) ([]string, error) {
	repo, problems := spec.Assemble([]spec.Parsed{spec.Parse(f)})
	problems = slices.DeleteFunc(problems, func(d diag.Diagnostic) bool { return d.Code == diag.NoNetwork })
	if err := problems.Err(); err != nil {
		return nil, err
	}
	var zones []string
	if repo.Network != nil || repo.TrustRoot != nil {
		zones = append(zones, "")
	}
	for _, d := range repo.Zones {
		zones = append(zones, d.Value.Metadata.Name)
	}
	for _, d := range repo.Nodes {
		zones = append(zones, d.Value.Metadata.Zone)
	}
	for _, d := range repo.Policies {
		zones = append(zones, d.Value.Metadata.Zone)
	}
	for _, d := range repo.Tests {
		zones = append(zones, d.Value.Metadata.Zone)
	}
	slices.Sort(zones)
	return slices.Compact(zones), nil
}

type zoneKey struct{ path, blob string }

type zoneAnswer struct {
	zones []string
	err   error
}

// zonesOf names the zones of one file of a commit; err is a failure to read, a file that does not parse is in the answer.
func (s *session) zonesOf(f gitobject.File) (zoneAnswer, error) {
	key := zoneKey{f.Path, f.ID}
	if answer, ok := s.zones[key]; ok {
		return answer, nil
	}
	data, err := gitobject.Read(s.ctx, s.src, gitobject.KindBlob, f.ID)
	if err != nil {
		return zoneAnswer{}, err
	}
	var answer zoneAnswer
	answer.zones, answer.err = s.trust.Zones(spec.File{Path: f.Path, Data: data})
	s.zones[key] = answer
	return answer, nil
}

// authoriseZones checks the zones that a change's old and new documents name, where the rule that lets the key change the
// path limits them, and notes the rules used.
func (s *session) authoriseZones(root *signer.Root, ch change, id, name string, used map[string]bool) error {
	rule, _ := root.MayChange(id, ch.Path)
	if !limitsZones(root, rule) || !spec.IsSource(ch.Path) {
		used[rule] = true
		return nil
	}
	for _, f := range ch.files() {
		answer, err := s.zonesOf(f)
		if err != nil {
			return err
		}
		if answer.err != nil {
			return refuseZone(ch.Path, "rule %q limits %s to some zones, and %q cannot be read to see which it names: %v. Fix the file, or let a maintainer without that limit sign", rule, name, ch.Path, answer.err)
		}
		for _, zone := range answer.zones {
			granted, ok := root.MayName(id, ch.Path, zone)
			if !ok && zone == "" {
				return refuseZone(ch.Path, "rule %q limits %s to some zones, and %q holds a document of the whole network. Let a maintainer without that limit sign", rule, name, ch.Path)
			}
			if !ok {
				return refuseZone(ch.Path, "%s may change %q, but not documents of zone %q. Let a maintainer of that zone sign", name, ch.Path, zone)
			}
			used[granted] = true
		}
		if len(answer.zones) == 0 {
			used[rule] = true
		}
	}
	return nil
}

func refuseZone(path, format string, args ...any) *refusal {
	r := refusef(CodeZone, format, args...)
	r.paths = []string{path}
	return r
}

func limitsZones(root *signer.Root, rule string) bool {
	for _, m := range root.Maintainers {
		if m.Name == rule {
			return len(m.Zones) > 0
		}
	}
	return true
}

// allowShrink gives the zones named by the commit's shrink trailers that its signer may speak for: a rule names the zone,
// or covers every path (`**`) without limiting zones, or the commit changes a document of the zone, which was just
// authorised. Others are left out: the shrink guard then refuses the change and says so.
func (s *session) allowShrink(c *gitobject.Commit, changes []change, by authority, id string) ([]string, error) {
	var zones []string
	for _, zone := range c.Trailers(trailerShrink) {
		allowed := zone != ""
		for _, root := range by.roots {
			ok, err := s.speaksFor(root, changes, id, zone)
			if err != nil {
				return nil, err
			}
			allowed = allowed && ok
		}
		if allowed {
			zones = union(zones, []string{zone})
		}
	}
	return zones, nil
}

func (s *session) speaksFor(root *signer.Root, changes []change, id, zone string) (bool, error) {
	name, _, ok := root.KeyByID(id)
	if !ok || root.HasRole(id, signer.RoleForge) {
		return false, nil
	}
	for _, m := range root.Maintainers {
		everywhere := len(m.Zones) == 0 && slices.Contains(m.Paths, "**")
		if slices.Contains(m.Keys, name) && (everywhere || slices.Contains(m.Zones, zone)) {
			return true, nil
		}
	}
	for _, ch := range changes {
		if signer.IsTrustPath(ch.Path) || !spec.IsSource(ch.Path) {
			continue
		}
		for _, f := range ch.files() {
			answer, err := s.zonesOf(f)
			if err != nil {
				return false, err
			}
			if _, ok := root.MayName(id, ch.Path, zone); ok && slices.Contains(answer.zones, zone) {
				return true, nil
			}
		}
	}
	return false, nil
}
