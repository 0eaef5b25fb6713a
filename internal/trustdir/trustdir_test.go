package trustdir_test

import (
	"crypto/rand"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/apex-network/apex/internal/gittest"
	"github.com/apex-network/apex/internal/trustdir"
	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec"
)

// folder is a trust folder in the making.
type folder struct {
	*testing.T
	repo        *gittest.Repo
	trust       *gittest.TrustRoot
	root, other *gittest.SSHKey
}

func newFolder(t *testing.T, threshold int) *folder {
	t.Helper()
	env := gittest.New(t)
	f := &folder{T: t, repo: env.Repo("net"), root: env.SSHKey("root"), other: env.SSHKey("other")}
	f.trust = env.TrustRoot("corp", threshold, f.root, f.other)
	f.trust.Maintainer("all", env.SSHKey("anna"), []string{"**"})
	f.trust.Write(f.repo, f.root, f.other)
	return f
}

func (f *folder) files() map[string][]byte {
	f.Helper()
	out := map[string][]byte{}
	paths := []string{trustdir.RootPath}
	for v := range uint64(9) {
		paths = append(paths, trustdir.EnvelopePath(v))
	}
	for _, p := range paths {
		if data, err := os.ReadFile(filepath.Join(f.repo.Dir(), p)); err == nil {
			out[p] = data
		}
	}
	return out
}

func lookup(files map[string][]byte) trustdir.Lookup {
	return func(path string) ([]byte, bool) { b, ok := files[path]; return b, ok }
}

func TestReadChain(t *testing.T) {
	f := newFolder(t, 1)
	first, err := trustdir.Read(lookup(f.files()), "corp", f.trust.Pin())
	if err != nil || first.Root.Version != 1 || len(first.Chain) != 1 {
		t.Fatalf("%+v, %v", first, err)
	}
	f.trust.Spec.Version = 2
	f.trust.Write(f.repo, f.root)
	good := f.files()
	for _, known := range []*trustdir.Dir{nil, first} {
		d, err := trustdir.ReadAfter(known, lookup(good), "corp", f.trust.Pin())
		if err != nil || d.Root.Version != 2 || len(d.Chain) != 2 {
			t.Fatalf("%+v, %v", d, err)
		}
	}
	if len(first.Chain) != 1 {
		t.Error("reading on changed what was known before")
	}
	list := []spec.File{{Path: trustdir.RootPath, Data: good[trustdir.RootPath]}}
	if b, ok := trustdir.FromFiles(list)(trustdir.RootPath); !ok || string(b) != f.trust.Document() {
		t.Error("lookup in a list")
	}

	pin := f.trust.Pin()
	pin[0] ^= 1
	if _, err := trustdir.Read(lookup(good), "corp", pin); !errors.Is(err, signer.ErrPin) {
		t.Errorf("wrong pin: %v", err)
	}
	if _, err := trustdir.Read(lookup(good), "other", f.trust.Pin()); !errors.Is(err, signer.ErrWrongNetwork) {
		t.Errorf("wrong network: %v", err)
	}
	for name, c := range map[string]struct {
		change func(map[string][]byte)
		want   error
	}{
		"empty":       {func(m map[string][]byte) { clear(m) }, trustdir.ErrNoRoot},
		"no first":    {func(m map[string][]byte) { delete(m, trustdir.EnvelopePath(1)) }, trustdir.ErrNoRoot},
		"no document": {func(m map[string][]byte) { delete(m, trustdir.RootPath) }, trustdir.ErrDiffers},
		"no second":   {func(m map[string][]byte) { delete(m, trustdir.EnvelopePath(2)) }, trustdir.ErrDiffers},
		"not YAML":    {func(m map[string][]byte) { m[trustdir.RootPath] = []byte("a: [") }, trustdir.ErrDiffers},
		"other kind": {func(m map[string][]byte) {
			m[trustdir.RootPath] = []byte("apiVersion: apex/v1alpha1\nkind: Network\nmetadata:\n  name: corp\nspec: {}\n")
		}, trustdir.ErrDiffers},
		"first as third": {func(m map[string][]byte) { m[trustdir.EnvelopePath(3)] = m[trustdir.EnvelopePath(1)] }, signer.ErrRollback},
		"second twice":   {func(m map[string][]byte) { m[trustdir.EnvelopePath(3)] = m[trustdir.EnvelopePath(2)] }, signer.ErrRollback},
		"garbage":        {func(m map[string][]byte) { m[trustdir.EnvelopePath(2)] = []byte("{}") }, signer.ErrFormat},
	} {
		bad := maps.Clone(good)
		c.change(bad)
		for _, known := range []*trustdir.Dir{nil, first} {
			if _, err := trustdir.ReadAfter(known, lookup(bad), "corp", f.trust.Pin()); !errors.Is(err, c.want) {
				t.Errorf("%s: %v, want %v", name, err, c.want)
			}
		}
	}
}

func TestEveryFieldOfTheDocumentCounts(t *testing.T) {
	f := newFolder(t, 1)
	expires := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	seen := map[string]string{f.trust.Root().Digest().String(): "as written"}
	for name, change := range map[string]func(s *spec.TrustRootSpec){
		"version":   func(s *spec.TrustRootSpec) { s.Version = 7 },
		"epoch":     func(s *spec.TrustRootSpec) { s.Epoch = 7 },
		"expires":   func(s *spec.TrustRootSpec) { s.Expires = &expires },
		"threshold": func(s *spec.TrustRootSpec) { s.Root.Threshold = 2 },
		"root":      func(s *spec.TrustRootSpec) { s.Root.Keys = []string{"root"} },
		"forge":     func(s *spec.TrustRootSpec) { s.Forge.Keys = []string{"other"} },
		"appliers":  func(s *spec.TrustRootSpec) { s.Appliers.Keys = []string{"anna"} },
		"paths":     func(s *spec.TrustRootSpec) { s.Maintainers[0].Paths = []string{"x/**"} },
		"zones":     func(s *spec.TrustRootSpec) { s.Maintainers[0].Zones = []string{"a"} },
		"keys":      func(s *spec.TrustRootSpec) { s.Maintainers[0].Keys = []string{"other"} },
		"manifest":  func(s *spec.TrustRootSpec) { s.Validity.Manifest = spec.Duration(time.Hour) },
		"timestamp": func(s *spec.TrustRootSpec) { s.Validity.Timestamp = spec.Duration(time.Minute) },
	} {
		s := f.trust.Spec
		s.Maintainers = append([]spec.MaintainerRule(nil), s.Maintainers...)
		change(&s)
		root, err := trustdir.RootFromSpec(s, "corp")
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if other, dup := seen[root.Digest().String()]; dup {
			t.Errorf("%s: same digest as %s", name, other)
		}
		seen[root.Digest().String()] = name
	}
	s := f.trust.Spec
	s.Keys = append(s.Keys, spec.TrustKey{Name: "twin", SSH: f.root.Public})
	if _, err := trustdir.RootFromSpec(s, "corp"); !errors.Is(err, signer.ErrInvalidRoot) {
		t.Errorf("one key under two names: %v", err)
	}
	s.Version = -1
	if _, err := trustdir.RootFromSpec(s, "corp"); !errors.Is(err, signer.ErrInvalidRoot) {
		t.Errorf("negative version: %v", err)
	}
}

func TestProposeSignCommit(t *testing.T) {
	f := newFolder(t, 2)
	current := f.trust.Root()
	f.trust.Spec.Version = 2
	next := f.trust.Root()
	env, err := trustdir.Propose(current, next)
	if err != nil {
		t.Fatal(err)
	}
	unmet := func() int {
		t.Helper()
		quorums, err := trustdir.Quorums(env, current)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, q := range quorums {
			if !q.Met() {
				n++
			}
		}
		return n
	}
	if n := unmet(); n != 2 {
		t.Errorf("%d quorums unmet without signatures", n)
	}
	for i, key := range []*gittest.SSHKey{f.root, f.root, f.other} {
		if env, err = trustdir.Sign(env, current, key.Signer()); err != nil {
			t.Fatal(err)
		}
		if want := []int{2, 2, 0}[i]; unmet() != want {
			t.Errorf("after signature %d: %d quorums unmet, want %d", i, unmet(), want)
		}
	}
	b, err := env.Encode()
	if err != nil {
		t.Fatal(err)
	}
	files := f.files()
	files[trustdir.EnvelopePath(2)] = b
	files[trustdir.RootPath] = []byte(f.trust.Document())
	if _, err := trustdir.Read(lookup(files), "corp", f.trust.Pin()); err != nil {
		t.Error(err)
	}
	stranger := gittest.New(t).SSHKey("stranger")
	if _, err := trustdir.Sign(env, current, stranger.Signer()); !errors.Is(err, signer.ErrUnknownKey) {
		t.Errorf("a stranger signs: %v", err)
	}
	if _, err := trustdir.Propose(nil, next); !errors.Is(err, signer.ErrInvalidRoot) {
		t.Errorf("a first version 2: %v", err)
	}
	if _, err := trustdir.Propose(next, next); !errors.Is(err, signer.ErrRollback) {
		t.Errorf("the same version again: %v", err)
	}
}

func TestPaths(t *testing.T) {
	for path, want := range map[string]uint64{"trust/roots/1.json": 1, "trust/roots/42.json": 42, "trust/roots/01.json": 0,
		"trust/roots/+1.json": 0, "trust/roots/1.JSON": 0, "trust/roots/x/1.json": 0, "trust/roots/99999999999999999999.json": 0, "roots/1.json": 0} {
		v, ok := trustdir.EnvelopeVersion(path)
		if ok != (want > 0) || ok && v != want {
			t.Errorf("%s: %d, %v", path, v, ok)
		}
	}
}

func TestSealFile(t *testing.T) {
	f := newFolder(t, 2)
	commit := strings.Repeat("ab", 20)
	statement := trustdir.SealStatement("corp", commit)
	sign := func(k *gittest.SSHKey) string { return k.Sign(trustdir.NamespaceSeal, statement) }
	b, err := trustdir.Seal{Signatures: []string{sign(f.root), sign(f.other), sign(f.root)}}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	seal, err := trustdir.ParseSeal(b)
	if err != nil {
		t.Fatal(err)
	}
	if names, err := seal.Signers(f.trust.Root(), commit); err != nil || strings.Join(names, " ") != "root other" {
		t.Errorf("signers %q, %v", names, err)
	}
	if _, err := seal.Signers(f.trust.Root(), strings.Repeat("cd", 20)); !errors.Is(err, signer.ErrSignature) {
		t.Errorf("another commit: %v", err)
	}
	for _, bad := range []string{"", "[]", `{"signatures":[],"x":1}`, `{"signatures":[]} {}`, `{"signatures":[]}}`, `{"signatures":"x"}`, strings.Repeat(" ", 300<<10)} {
		if _, err := trustdir.ParseSeal([]byte(bad)); err == nil {
			t.Errorf("accepted %.30q", bad)
		}
	}
}

// TestIdentities: what the document says of identities and enrolment is what the root keys sign.
func TestIdentities(t *testing.T) {
	f := newFolder(t, 1)
	key, err := signer.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	line := `{"kty":"OKP", "crv":"Ed25519", "kid":"a", "use":"sig", "x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}`
	f.trust.Spec.Keys = append(f.trust.Spec.Keys, spec.TrustKey{Name: "enrol", Ed25519: key.Raw()})
	f.trust.Spec.Enrolment = spec.Role{Keys: []string{"enrol"}}
	f.trust.Spec.Appliers.Identities = []spec.ApplierIdentity{{
		Name: "ci", Issuer: "https://ci.example", Match: map[string]string{"b": "2", "a": "1"}, CommitClaim: "sha",
	}}
	f.trust.Spec.Witnesses.Identities = []spec.WitnessIdentity{{
		Name: "second", Issuer: "https://ci.example", Match: map[string]string{"a": "1"}, Keys: []string{line},
	}}
	f.trust.Spec.Version = 2
	f.trust.Write(f.repo, f.root)
	d, err := trustdir.Read(lookup(f.files()), "corp", f.trust.Pin())
	if err != nil {
		t.Fatal(err)
	}
	want := signer.ApplierIdentity{
		Name: "ci", Issuer: "https://ci.example", Audience: "apex", Match: []signer.ClaimRule{{Claim: "a", Pattern: "1"}, {Claim: "b", Pattern: "2"}},
		CommitClaim: "sha",
	}
	if got := d.Root.ApplierIdentities; len(got) != 1 || !reflect.DeepEqual(got[0], want) {
		t.Errorf("%+v", got)
	}
	if got := d.Root.WitnessIdentities; len(got) != 1 || len(got[0].Keys) != 1 || strings.ContainsAny(got[0].Keys[0], " ") {
		t.Errorf("%+v", got)
	}
	if !d.Root.HasRole(key.Public().ID(), signer.RoleEnrolment) {
		t.Error("no enrolment key")
	}
}
