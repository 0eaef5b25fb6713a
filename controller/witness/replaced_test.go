package witness

import (
	"crypto/rand"
	"net/netip"
	"strings"
	"testing"

	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec/binding"
	"github.com/apex-network/apex/spec/peermap"
)

// of makes a binding of a laptop with the n-th keys.
func of(n byte, issued int64) *binding.Signed {
	return &binding.Signed{Digest: peermap.Digest{n, byte(issued)}, Binding: binding.Binding{
		Zone: "prod", Node: "laptop", PublicKey: peermap.Key{n, 1}, IdentityKey: peermap.Key{n, 2}, Issued: issued, Expires: 100 + issued,
	}}
}

// Who has keys that a node rotated away from, and a stolen controller, go another way from the binding that they were in.
// The witness sees that by what it signed since.
func TestForksFromReplacedKeysAreRefused(t *testing.T) {
	type step struct {
		now  int64
		list []*judged // a list to be signed
		bad  bool
	}
	leaning := func(past ...*binding.Signed) *judged { return &judged{past[len(past)-1], past[:len(past)-1]} }
	signing := func(now int64, past ...*binding.Signed) step {
		return step{now: now, list: []*judged{leaning(past...)}}
	}
	refused := func(now int64, past ...*binding.Signed) step {
		return step{now: now, list: []*judged{leaning(past...)}, bad: true}
	}
	none := func(now int64) step { return step{now: now} }
	for name, steps := range map[string][]step{
		"another successor":              {signing(1, of(0, 1)), signing(5, of(0, 1), of(1, 5)), refused(7, of(0, 1), of(2, 7))},
		"after a list without it":        {signing(1, of(0, 1)), signing(5, of(0, 1), of(1, 5)), none(6), refused(7, of(0, 1), of(2, 7))},
		"backdated":                      {signing(1, of(0, 1)), signing(5, of(0, 1), of(1, 5)), none(6), refused(7, of(0, 1), of(2, 4))},
		"backdated and rotated on":       {signing(1, of(0, 1)), signing(5, of(0, 1), of(1, 5)), none(6), refused(7, of(0, 1), of(2, 4), of(3, 7))},
		"renewed with the old keys":      {signing(1, of(0, 1)), signing(5, of(0, 1), of(1, 5)), refused(7, of(0, 1), of(0, 7))},
		"when the old one has ended":     {signing(1, of(0, 1)), signing(5, of(0, 1), of(1, 5)), refused(103, of(0, 1), of(0, 103))},
		"from before another enrolment":  {signing(1, of(0, 1)), signing(5, of(4, 5)), none(6), refused(7, of(0, 1), of(2, 7))},
		"rotated on":                     {signing(1, of(0, 1)), signing(5, of(0, 1), of(1, 5)), signing(7, of(0, 1), of(1, 5), of(2, 7))},
		"renewed and rotated on":         {signing(1, of(0, 1)), signing(5, of(0, 1), of(1, 5)), signing(6, of(0, 1), of(1, 5), of(1, 6)), signing(7, of(0, 1), of(1, 5), of(2, 7))},
		"rotated twice before a look":    {signing(1, of(0, 1)), signing(7, of(0, 1), of(1, 5), of(2, 7)), signing(9, of(0, 1), of(1, 5), of(2, 7), of(3, 9))},
		"enrolled anew":                  {signing(1, of(0, 1)), signing(5, of(0, 1), of(1, 5)), signing(7, of(4, 7)), signing(9, of(4, 7), of(5, 9))},
		"enrolled anew, rotated at once": {signing(1, of(0, 1)), signing(9, of(4, 7), of(5, 9))},
		"the old keys with a new token":  {signing(1, of(0, 1)), signing(5, of(0, 1), of(1, 5)), signing(7, of(0, 7)), signing(8, of(0, 7), of(0, 8)), signing(9, of(0, 7), of(6, 9))},
	} {
		t.Run(name, func(t *testing.T) {
			w := &witness{memory: &memory{judged: map[peermap.Digest]*judged{}}}
			last := &signed{}
			for i, s := range steps {
				var list []*binding.Signed
				var entries []binding.Entry
				for _, j := range s.list {
					w.memory.judged[j.Digest] = j
					list = append(list, j.Signed)
					entries = append(entries, binding.Entry{Digest: j.Digest, Node: j.Binding.Node})
				}
				next, err := w.rotate(list, last, s.now)
				if (err != nil) != s.bad {
					t.Fatalf("step %d: %v", i+1, err)
				}
				last = &signed{List: string(binding.List(entries)), Replaced: next}
			}
		})
	}
}

// What a binding leans on outlives a restart.
func TestMemoryKeepsWhatABindingLeansOn(t *testing.T) {
	key, err := signer.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sign := func(n byte) *binding.Signed {
		b := of(n, 1).Binding
		b.Type, b.Network, b.Rule, b.Evidence = binding.Type, "acme", binding.Rule{Name: "staff", File: "zone.yaml", Line: 1}, peermap.Digest{1}
		b.Identity = binding.Identity{Issuer: "corp", URL: "https://login.example", Subject: "1", Groups: []string{}, Claims: []binding.Claim{}}
		b.Addresses, b.Labels, b.Routes = []netip.Addr{netip.MustParseAddr("10.1.0.1")}, []binding.Pair{}, []netip.Prefix{}
		b.Commit = strings.Repeat("a", 40)
		payload, err := b.Encode()
		if err != nil {
			t.Fatal(err)
		}
		env, err := signer.SignEd25519(binding.Type, payload, key)
		if err != nil {
			t.Fatal(err)
		}
		envelope, err := env.Encode()
		if err != nil {
			t.Fatal(err)
		}
		s, err := binding.NewSigned(payload, envelope)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	want := &judged{sign(2), []*binding.Signed{sign(0), sign(1)}}
	dir := t.TempDir()
	m, err := openMemory(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.keep(want); err != nil {
		t.Fatal(err)
	}
	if m, err = openMemory(dir); err != nil {
		t.Fatal(err)
	}
	got := m.judged[want.Digest]
	if got == nil || len(got.past) != 2 || got.past[0].Digest != want.past[0].Digest || got.past[1].Digest != want.past[1].Digest {
		t.Fatalf("%+v", got)
	}
}
