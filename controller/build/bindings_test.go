package build

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/apex-network/apex/controller/gitsource"
	"github.com/apex-network/apex/internal/gitobject"
	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/binding"
	"github.com/apex-network/apex/spec/compile"
	"github.com/apex-network/apex/spec/identity"
	"github.com/apex-network/apex/spec/peermap"
)

// commits is a Source of files by commit, in memory.
type commits struct {
	gitobject.Objects
	files map[string]map[string]string
}

func (c *commits) Fetch(context.Context) (string, error) { return "", nil }
func (c *commits) Close() error                          { return nil }

func (c *commits) Files(_ context.Context, commit string) ([]gitsource.File, error) {
	var out []gitsource.File
	for _, path := range slices.Sorted(maps.Keys(c.files[commit])) {
		out = append(out, gitsource.File{Path: path, ID: c.files[commit][path]})
	}
	return out, nil
}

// Read gives the content, which stands for its own ID.
func (c *commits) Read(_ context.Context, f gitsource.File) (spec.File, error) {
	return spec.File{Path: f.Path, Data: []byte(f.ID)}, nil
}

var start = time.Date(2027, 1, 15, 12, 0, 0, 0, time.UTC)

func key(n int) peermap.Key {
	seed := sha256.Sum256(fmt.Append(nil, n))
	return peermap.Key(ed25519.NewKeyFromSeed(seed[:]).Public().(ed25519.PublicKey))
}

// network gives the files of a commit with three servers, where whoever is in one of the groups may enrol.
func network(servers int, groups ...string) map[string]string {
	files := map[string]string{
		"net.yaml": "apiVersion: apex/v1alpha1\nkind: Network\nmetadata: {name: acme}\nspec: {issuers: [{name: corp, url: \"https://login.example\"}]}\n",
		"zone.yaml": "apiVersion: apex/v1alpha1\nkind: Zone\nmetadata: {name: prod}\nspec:\n  ranges: [10.0.0.0/16]\n  dynamic: [10.0.128.0/17]\n  members:\n" +
			"    - {name: staff, issuer: corp, groups: [" + strings.Join(append(groups, "nobody"), ", ") + "], ttl: 1h, maxNodes: 1000}\n",
		"policy.yaml": "apiVersion: apex/v1alpha1\nkind: Policy\nmetadata: {name: all, zone: prod}\nspec:\n  allow:\n    - {from: [{groups: [ops]}], to: [{any: true}]}\n",
	}
	for i := range servers {
		files[fmt.Sprintf("s%d.yaml", i)] = fmt.Sprintf("apiVersion: apex/v1alpha1\nkind: Node\nmetadata: {name: s%d, zone: prod}\nspec: {addresses: [10.0.0.%d], publicKey: %s, identityKey: %s}\n",
			i, i+1, spec.Key(key(2*i)), spec.Key(key(2*i+1)))
	}
	return files
}

// host is the binding of node hN, issued that long after the start for half an hour.
func host(t testing.TB, n int, group string, after time.Duration) *binding.Signed {
	t.Helper()
	b := binding.Binding{
		Type: binding.Type, Network: "acme", Zone: "prod", Node: fmt.Sprintf("h%d", n),
		Identity:  binding.Identity{Issuer: "corp", URL: "https://login.example", Subject: fmt.Sprint(n), Groups: []string{group}, Claims: []binding.Claim{}},
		PublicKey: key(10_000 + 2*n), IdentityKey: key(10_001 + 2*n), Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 128 + byte(n/250), 1 + byte(n%250)})},
		Labels: []binding.Pair{}, Routes: []netip.Prefix{}, Rule: binding.Rule{Name: "staff", File: "zone.yaml", Line: 1}, Commit: strings.Repeat("a", 40),
		Issued: start.Add(after).Unix(), Expires: start.Add(after + 30*time.Minute).Unix(), Evidence: peermap.Digest{1},
	}
	payload, err := b.Encode()
	if err != nil {
		t.Fatal(err)
	}
	s, err := binding.NewSigned(payload, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newBuilder(files ...map[string]string) (*Builder, *commits) {
	src := &commits{files: map[string]map[string]string{}}
	for i, f := range files {
		src.files[commitName(i)] = f
	}
	return New(src, "acme", peermap.Digest{}), src
}

func commitName(i int) string { return fmt.Sprintf("%040x", i) }

func mustLoad(t testing.TB, b *Builder, commit int) *Loaded {
	t.Helper()
	l, err := b.Load(t.Context(), commitName(commit), start)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

var root = &signer.Root{Version: 1}

// Whatever came before, what is compiled is what a cold compile of the same commit, bindings and instant gives.
func TestJoinIsAsGoodAsACompileFromNothing(t *testing.T) {
	groups := []string{"ops", "dev", "guests"}
	for seed := range uint64(6) {
		r := rand.New(rand.NewPCG(seed, 1))
		b, _ := newBuilder(network(3, "ops", "dev"), network(4, "ops"), network(3, "ops", "dev", "guests"), network(2))
		held := map[int]*binding.Signed{}
		now := start
		for step := range 40 {
			switch n := r.IntN(40); r.IntN(4) {
			case 0:
				delete(held, n)
			case 1:
				now = now.Add(time.Duration(r.IntN(400)) * time.Second)
			default:
				held[n] = host(t, n, groups[n%3], now.Sub(start))
			}
			l := mustLoad(t, b, r.IntN(4))
			list := slices.Collect(maps.Values(held))
			out, err := b.Join(l, list, root, now)
			if err != nil || len(out.Faulty) > 0 {
				t.Fatalf("seed %d, step %d: %v %v", seed, step, err, out)
			}
			admitted := identity.Admit(l.Repo, list, now)
			cold, err := compile.Compile(compile.Input{
				Repo: admitted.Repo, Files: l.blobs, Bindings: admitted.Lists, Facts: compile.Facts{Commit: l.Commit, AsOf: now, RootVersion: 1},
			})
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(out.Zones["prod"].Manifest(1, 1, peermap.Digest{}, now), cold["prod"].Manifest(1, 1, peermap.Digest{}, now)) ||
				!reflect.DeepEqual(out.Zones["prod"].Views, cold["prod"].Views) {
				t.Fatalf("seed %d, step %d: the compile depends on what came before", seed, step)
			}
			if end := out.Next; !end.IsZero() && !end.After(now) {
				t.Fatalf("next end %s is not after %s", end, now)
			}
		}
	}
}

// A binding that breaks the compile, which none should, keeps neither the commit nor the others out.
func TestCulpritsAreFoundAndOthersKept(t *testing.T) {
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 2))
		list := make([]*binding.Signed, 1+r.IntN(60))
		bad := map[peermap.Digest]bool{}
		for i := range list {
			list[i] = host(t, i, "ops", 0)
			if r.IntN(20) == 0 {
				bad[list[i].Digest] = true
			}
		}
		b, _ := newBuilder()
		good := b.sift(nil, list, func(list []*binding.Signed) error {
			if slices.ContainsFunc(list, func(s *binding.Signed) bool { return bad[s.Digest] }) {
				return errors.New("broken")
			}
			return nil
		})
		if len(good)+len(bad) != len(list) || len(b.faulty) != len(bad) {
			t.Fatalf("seed %d: %d good, %d bad of %d; found %d", seed, len(good), len(bad), len(list), len(b.faulty))
		}
		for d := range bad {
			if _, ok := b.faulty[d]; !ok {
				t.Fatal("the wrong one was blamed")
			}
		}
	}
}

// A faulty binding stays out until the next commit, without a search each time, and panics are contained too.
func TestJoinLeavesOutWhatDoesNotCompile(t *testing.T) {
	b, _ := newBuilder(network(3, "ops"), network(3, "ops", "dev"))
	l := mustLoad(t, b, 0)
	good, bad := host(t, 1, "ops", 0), host(t, 2, "ops", 0)
	b.faulty[bad.Digest] = Faulty{Zone: "prod", Node: "h2", Binding: bad.Digest, Err: errors.New("broken")}
	b.faultyAt = l.Commit
	out, err := b.Join(l, []*binding.Signed{good, bad}, root, start)
	if err != nil || len(out.Faulty) != 1 || out.Faulty[0].Node != "h2" || out.Zones["prod"].Tree.Size() != 4 {
		t.Fatalf("%v %+v", err, out)
	}
	out, err = b.Join(mustLoad(t, b, 1), []*binding.Signed{good, bad}, root, start)
	if err != nil || len(out.Faulty) != 0 || out.Zones["prod"].Tree.Size() != 5 {
		t.Fatalf("%v %+v", err, out)
	}
	panics := &binding.Signed{Binding: bad.Binding, Digest: peermap.Digest{7}}
	panics.Binding.Addresses = nil
	out, err = b.Join(mustLoad(t, b, 1), []*binding.Signed{good, panics}, root, start)
	if err != nil || out.Zones["prod"].Tree.Size() != 4 {
		t.Fatalf("%v %+v", err, out)
	}
}

func TestShrinkGuardCountsWhatACommitTakes(t *testing.T) {
	var crowd []string
	for i := range 40 {
		crowd = append(crowd, fmt.Sprintf("h%d", i))
	}
	servers := []string{"s0", "s1", "s2"}
	hosts := func(n int, group string, after time.Duration) (list []*binding.Signed) {
		for i := range n {
			list = append(list, host(t, i, group, after))
		}
		return list
	}
	for name, row := range map[string]struct {
		before  Members
		files   map[string]string
		list    []*binding.Signed
		allowed []string
		refused string
	}{
		"all bindings expired":                 {Members{servers, crowd}, network(3, "ops"), hosts(40, "ops", -time.Hour), nil, ""},
		"all enrolled nodes left":              {Members{servers, crowd}, network(3, "ops"), nil, nil, ""},
		"only enrolled nodes, all left":        {Members{nil, crowd}, network(0, "ops"), nil, nil, ""},
		"a commit takes their rule":            {Members{servers, crowd}, network(3), hosts(40, "ops", 0), nil, "loses 40 of 43"},
		"a commit takes their rule, signed":    {Members{servers, crowd}, network(3), hosts(40, "ops", 0), []string{"prod"}, ""},
		"only enrolled, a commit takes it":     {Members{nil, crowd}, network(0), hosts(40, "ops", 0), nil, "loses 40 of 40"},
		"a few of them":                        {Members{servers, crowd}, network(3, "dev"), append(hosts(40, "dev", 0)[3:], hosts(3, "ops", 0)...), nil, ""},
		"a crowd does not hide the servers":    {Members{servers, crowd}, network(1, "ops"), hosts(40, "ops", 0), nil, "(67 %)"},
		"the last server, a crowd left before": {Members{[]string{"s0"}, crowd}, network(0, "ops"), nil, nil, "loses 1 of 1"},
		"more than before":                     {Members{servers[:1], nil}, network(3, "ops"), hosts(40, "ops", 0), nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			b, _ := newBuilder(row.files)
			l := mustLoad(t, b, 0)
			out, err := b.Join(l, row.list, root, start)
			if err != nil {
				t.Fatal(err)
			}
			err = l.Guard(map[string]Members{"prod": row.before}, out.Zones, out.Admitted.Rejected, row.allowed)
			if (err == nil) != (row.refused == "") || err != nil && !strings.Contains(err.Error(), row.refused) {
				t.Fatalf("got %v, want %q", err, row.refused)
			}
		})
	}
	b, _ := newBuilder(network(3, "ops"))
	l := mustLoad(t, b, 0)
	if err := l.Guard(map[string]Members{"gone": {Enrolled: crowd[:1]}}, map[string]*compile.Zone{}, nil, nil); err == nil {
		t.Error("a zone with an enrolled node was taken away")
	}
	if err := l.Guard(map[string]Members{"prod": {Static: servers}}, map[string]*compile.Zone{"prod": {Suspended: true}}, nil, nil); err != nil {
		t.Error(err)
	}
}

func TestDocumentsTogetherAreBounded(t *testing.T) {
	b, _ := newBuilder(network(3, "ops"))
	mustLoad(t, b, 0)
	b.most = 1000
	_, err := b.Load(t.Context(), commitName(0), start)
	var r *Refusal
	if !errors.As(err, &r) || !r.Final || !errors.Is(err, gitobject.ErrTooLarge) {
		t.Fatal(err)
	}
}
