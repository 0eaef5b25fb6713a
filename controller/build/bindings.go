package build

import (
	"cmp"
	"slices"
	"time"

	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec/binding"
	"github.com/apex-network/apex/spec/compile"
	"github.com/apex-network/apex/spec/identity"
	"github.com/apex-network/apex/spec/peermap"
)

// Bindings is where a network's bindings come from: *enrol.Service, or a list in memory.
type Bindings interface {
	// Snapshot gives the bindings whose signature counts, in any order, and a number that is another one whenever the list
	// is. The list must not be changed.
	Snapshot() (list []*binding.Signed, version uint64)
}

// Outcome is a commit compiled with the bindings of one moment.
type Outcome struct {
	Zones    map[string]*compile.Zone
	Stats    compile.Stats
	Admitted *identity.Admitted
	// Faulty are bindings that were admitted but that the zones do not compile with: they are left out, for no node may
	// keep a commit from being published.
	Faulty []Faulty
	// Next is the first instant after the compile's at which a rule or a binding ends; zero if none does.
	Next time.Time
}

// Faulty is a binding that breaks the compile, which is a fault of Apex.
type Faulty struct {
	Zone, Node string
	Binding    peermap.Digest
	Err        error
}

// Admit picks those bindings that are members at this commit and instant. It never fails.
func (b *Builder) Admit(l *Loaded, list []*binding.Signed, asOf time.Time) *identity.Admitted {
	return b.admitter.Admit(l.Repo, list, asOf)
}

// Join compiles a commit with the bindings that it admits. A binding never keeps a commit from being compiled: if one
// breaks the compile of a commit that is good without, it is left out until another commit is compiled. The error is a
// *Refusal of the commit.
func (b *Builder) Join(l *Loaded, list []*binding.Signed, root *signer.Root, asOf time.Time) (*Outcome, error) {
	if b.faultyAt != l.Commit {
		b.faulty, b.faultyAt = map[peermap.Digest]Faulty{}, l.Commit
	}
	list = slices.DeleteFunc(slices.Clone(list), func(s *binding.Signed) bool {
		_, bad := b.faulty[s.Digest]
		return bad
	})
	out, err := b.try(l, list, root, asOf)
	if err != nil && len(list) > 0 {
		if _, own := b.try(l, nil, root, asOf); own != nil {
			return nil, own
		}
		// The oldest first: if the tries run out, the newest stay out.
		slices.SortFunc(list, func(x, y *binding.Signed) int {
			return cmp.Or(cmp.Compare(x.Binding.Issued, y.Binding.Issued), cmp.Compare(x.Digest.String(), y.Digest.String()))
		})
		tries := maxTries
		list = b.sift(nil, list, func(list []*binding.Signed) error {
			if tries--; tries < 0 {
				return err
			}
			_, err := b.try(l, list, root, asOf)
			return err
		})
		out, err = b.try(l, list, root, asOf)
	}
	if err != nil {
		return nil, err
	}
	for _, f := range b.faulty {
		out.Faulty = append(out.Faulty, f)
	}
	slices.SortFunc(out.Faulty, func(x, y Faulty) int {
		return cmp.Or(cmp.Compare(x.Zone, y.Zone), cmp.Compare(x.Node, y.Node))
	})
	return out, nil
}

// maxTries bounds the search for bindings that break the compile.
const maxTries = 200

// sift gives good and what of more compiles with it; it halves more until it finds the culprits, and remembers them.
func (b *Builder) sift(good, more []*binding.Signed, try func([]*binding.Signed) error) []*binding.Signed {
	both := slices.Concat(good, more)
	err := try(both)
	if err == nil {
		return both
	}
	if len(more) == 1 {
		s := more[0]
		b.faulty[s.Digest] = Faulty{Zone: s.Binding.Zone, Node: s.Binding.Node, Binding: s.Digest, Err: err}
		return good
	}
	half := len(more) / 2
	return b.sift(b.sift(good, more[:half], try), more[half:], try)
}

// try compiles with all of list that the commit admits.
func (b *Builder) try(l *Loaded, list []*binding.Signed, root *signer.Root, asOf time.Time) (out *Outcome, err error) {
	defer b.contain(StageCompile, &err)
	admitted := b.Admit(l, list, asOf)
	zones, stats, err := b.Compile(l, admitted, root, asOf)
	if err != nil {
		return nil, err
	}
	return &Outcome{Zones: zones, Stats: stats, Admitted: admitted, Next: earlier(l.NextExpiry(asOf), admitted.NextExpiry)}, nil
}

// earlier is the earlier of two instants of which the zero one is none.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
