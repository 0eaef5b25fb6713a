package signer

import (
	"bytes"
	"crypto/ed25519"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/apex-network/apex/spec/peermap"
)

func TestRootRoundTrip(t *testing.T) {
	r := testRoot(t)
	payload := must(r.Encode())(t)
	got := must(ParseRoot(payload))(t)
	if again := must(got.Encode())(t); !bytes.Equal(again, payload) {
		t.Errorf("%s became %s", payload, again)
	}
	if got.Digest() != peermap.DigestOf(payload) || got.Digest() != r.Digest() {
		t.Error("the digest is not that of the payload")
	}
	if got.Validity.Manifest != 168*3600 || got.Validity.Timestamp != 600 || got.Timestamp.Threshold != 1 || got.Witnesses.Threshold != 0 {
		t.Errorf("defaults: %+v, timestamp %+v, witnesses %+v", got.Validity, got.Timestamp, got.Witnesses)
	}
}

func TestRootCanonicalFormIsOrderFree(t *testing.T) {
	r := testRoot(t).Clone()
	r.Maintainers = append(r.Maintainers, MaintainerRule{Name: "a", Keys: []string{"cleo", "bob"}, Paths: []string{"z", "b/*"}, Zones: []string{"y", "x"}})
	r.Routes = append(r.Routes, RouteClaim{Zone: "dev", Prefixes: []netip.Prefix{netip.MustParsePrefix("fd00::/8"), netip.MustParsePrefix("10.9.0.0/16")}})
	want := r.Digest()
	if want.IsZero() {
		t.Fatal(must(r.Encode())(t))
	}
	slices.Reverse(r.Keys)
	slices.Reverse(r.Root.Keys)
	slices.Reverse(r.Maintainers)
	slices.Reverse(r.Routes)
	for _, m := range r.Maintainers {
		slices.Reverse(m.Keys)
		slices.Reverse(m.Paths)
		slices.Reverse(m.Zones)
	}
	for _, c := range r.Routes {
		slices.Reverse(c.Prefixes)
	}
	for i := range r.Keys {
		if r.Keys[i].Kind == KindSSH {
			r.Keys[i].Public += " comment"
		}
	}
	if got := r.Digest(); got != want {
		t.Error("the order of lists or a comment changes the root")
	}
}

// A copy with changes must not be judged by what was computed for the original.
func TestChangedCopyIsComputedAnew(t *testing.T) {
	r := testRoot(t)
	c := *r
	c.Version = 2
	if c.Digest() == r.Digest() || c.Digest() != must(ParseRoot(must(c.Encode())(t)))(t).Digest() {
		t.Error("a changed copy kept the digest of the original")
	}
	clone := r.Clone()
	clone.Root.Keys[0], clone.Maintainers[0].Paths[0] = "zoe", "x"
	if r.Root.Keys[0] == "zoe" || r.Maintainers[0].Paths[0] == "x" {
		t.Error("a clone shares lists with the original")
	}
}

func TestRootStrictness(t *testing.T) {
	payload := string(must(testRoot(t).Encode())(t))
	replace := func(old, new string) string {
		t.Helper()
		if !strings.Contains(payload, old) {
			t.Fatalf("%q does not occur in %s", old, payload)
		}
		return strings.Replace(payload, old, new, 1)
	}
	for name, text := range map[string]string{
		"empty":               "",
		"null":                "null",
		"trailing data":       payload + "{}",
		"newline":             payload + "\n",
		"unknown field":       replace(`"epoch":1`, `"epoch":1,"more":2`),
		"duplicate key":       replace(`"epoch":1`, `"epoch":1,"epoch":1`),
		"duplicate key later": replace(`"epoch":1`, `"epoch":9,"epoch":1`),
		"case-folded key":     replace(`"epoch":1`, `"Epoch":1`),
		"missing field":       replace(`"epoch":1,`, ``),
		"null field":          replace(`"epoch":1`, `"epoch":null`),
		"null keys":           replace(`"forge":{"keys":[]`, `"forge":{"keys":null`),
		"null role":           replace(`"forge":{"keys":[],"threshold":0}`, `"forge":null`),
		"float":               replace(`"epoch":1`, `"epoch":1.0`),
		"exponent":            replace(`"epoch":1`, `"epoch":1e0`),
		"negative":            replace(`"epoch":1`, `"epoch":-1`),
		"number as string":    replace(`"epoch":1`, `"epoch":"1"`),
		"unsorted keys":       replace(`["ada","bob","cleo"]`, `["bob","ada","cleo"]`),
		"default left out":    replace(`"timestamp":600`, `"timestamp":0`),
		"threshold left out":  replace(`"keys":["clock"],"threshold":1`, `"keys":["clock"],"threshold":0`),
		"other type":          replace(RootType, StateType),
		"prefix spelling":     replace(`192.168.0.0/16`, `192.168.0.0/016`),
		"escaped":             replace(`"acme"`, `"\u0061cme"`),
	} {
		if _, err := ParseRoot([]byte(text)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	_, err := ParseRoot(make([]byte, peermap.MaxRootBytes+1))
	wantErr(t, err, ErrTooLarge)
}

func TestRootContradictions(t *testing.T) {
	twin := NewRootKey("ada-again", sshPublic(t, testSSH("ada")))
	raw := testKey("controller")
	for name, c := range map[string]struct {
		change func(*Root)
		says   string
	}{
		"no network":             {func(r *Root) { r.Network = "" }, "network"},
		"odd network":            {func(r *Root) { r.Network = "a/b" }, "network"},
		"version 0":              {func(r *Root) { r.Version = 0 }, "version"},
		"expires before 1970":    {func(r *Root) { r.Expires = -1 }, "expires"},
		"negative validity":      {func(r *Root) { r.Validity.Manifest = -1 }, "validity"},
		"endless validity":       {func(r *Root) { r.Validity.Timestamp = 1 << 40 }, "validity"},
		"root unreachable":       {func(r *Root) { r.Root.Threshold = 4 }, "threshold 4"},
		"root without keys":      {func(r *Root) { r.Root = Role{} }, "at least 1 key"},
		"endless threshold":      {func(r *Root) { r.Manifest.Threshold = MaxThreshold + 1 }, "rotation"},
		"negative threshold":     {func(r *Root) { r.Root.Threshold = -1 }, "threshold -1"},
		"manifest unreachable":   {func(r *Root) { r.Manifest.Threshold = 4 }, "threshold 4"},
		"manifest without keys":  {func(r *Root) { r.Manifest.Keys = nil }, "manifest"},
		"witnesses unreachable":  {func(r *Root) { r.Witnesses.Threshold = 3 }, "witnesses"},
		"witness of itself":      {func(r *Root) { r.Witnesses.Keys = []string{"controller"} }, "somebody else"},
		"timestamp without keys": {func(r *Root) { r.Timestamp = Role{} }, "timestamp"},
		"unknown key":            {func(r *Root) { r.Timestamp.Keys = []string{"ghost"} }, "not listed"},
		"key twice in a role":    {func(r *Root) { r.Root.Keys = []string{"ada", "ada"} }, "stands twice"},
		"name twice":             {func(r *Root) { r.Keys = append(r.Keys, r.Keys[0]) }, "stands twice"},
		"key twice":              {func(r *Root) { r.Keys = append(r.Keys, twin) }, "one key"},
		"key twice, raw and ssh": {func(r *Root) { r.Keys = append(r.Keys, sshTwin(t, raw)) }, "one key"},
		"no key text":            {func(r *Root) { r.Keys[0].Public = "" }, "ada"},
		"odd key name":           {func(r *Root) { r.Keys[0].Name = "a b" }, "no name"},
		"manifest by ssh":        {func(r *Root) { r.Manifest.Keys = []string{"ada"} }, "of kind ssh"},
		"maintainer by raw key":  {func(r *Root) { r.Maintainers[0].Keys = []string{"clock"} }, "of kind ed25519"},
		"appliers threshold 2":   {func(r *Root) { r.Appliers = Role{Keys: []string{"ada", "bob"}, Threshold: 2} }, "stands alone"},
		"maintainer, no paths":   {func(r *Root) { r.Maintainers[0].Paths = nil }, "one path"},
		"maintainer, no keys":    {func(r *Root) { r.Maintainers[0].Keys = nil }, "one key"},
		"maintainer, no name":    {func(r *Root) { r.Maintainers[0].Name = "" }, "no name"},
		"maintainer twice":       {func(r *Root) { r.Maintainers = append(r.Maintainers, r.Maintainers[0]) }, "stands twice"},
		"path twice":             {func(r *Root) { r.Maintainers[0].Paths = []string{"a", "a"} }, "stands twice"},
		"path to the trust":      {func(r *Root) { r.Maintainers[0].Paths = []string{"trust/**"} }, "root threshold"},
		"path upwards":           {func(r *Root) { r.Maintainers[0].Paths = []string{"../x"} }, "relative path"},
		"glob in a name":         {func(r *Root) { r.Maintainers[0].Paths = []string{"a**"} }, "stand alone"},
		"broken glob":            {func(r *Root) { r.Maintainers[0].Paths = []string{"[a"} }, "syntax"},
		"zone twice":             {func(r *Root) { r.Maintainers[0].Zones = []string{"a", "a"} }, "zone"},
		"route with host bits":   {func(r *Root) { r.Routes[0].Prefixes[0] = netip.MustParsePrefix("10.0.0.1/8") }, "host bits"},
		"route without prefix":   {func(r *Root) { r.Routes[0].Prefixes = nil }, "prefixes"},
		"route invalid":          {func(r *Root) { r.Routes[0].Prefixes[0] = netip.Prefix{} }, "routes"},
	} {
		r := testRoot(t).Clone()
		c.change(r)
		_, err := r.Encode()
		wantErr(t, err, ErrInvalidRoot)
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: error %v does not say %q", name, err, c.says)
		}
		if !r.Digest().IsZero() {
			t.Errorf("%s: has a digest all the same", name)
		}
	}
}

func sshTwin(t *testing.T, k PrivateKey) RootKey {
	t.Helper()
	signer := must(ssh.NewSignerFromKey(ed25519.PrivateKey(k.key)))(t)
	return NewRootKey("twin", sshPublic(t, signer))
}

func TestManyContradictionsAtOnce(t *testing.T) {
	r := testRoot(t).Clone()
	r.Version, r.Root.Threshold, r.Timestamp.Keys = 0, 9, []string{"ghost"}
	_, err := r.Encode()
	for _, want := range []string{"version", "threshold 9", "ghost"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not mention %s", err, want)
		}
	}
}

func TestManifestQuorum(t *testing.T) {
	for _, c := range []struct {
		threshold, witnesses int
		signed               string
		lacks                string
	}{
		{2, 0, "controller witness-a", ""},
		{2, 0, "controller witness-a witness-b", ""},
		{2, 0, "controller", "1 of 2"},
		{2, 0, "", "no manifest key"},
		{2, 0, "witness-a witness-b", "no manifest key"},
		{2, 0, "controller clock", "1 of 2"},
		{1, 0, "controller", ""},
		{1, 1, "controller", "0 of 1 required witnesses"},
		{1, 1, "controller witness-b", ""},
		{1, 2, "controller witness-b", "1 of 2 required witnesses"},
	} {
		r := testRoot(t).Clone()
		r.Manifest.Threshold, r.Witnesses.Threshold = c.threshold, c.witnesses
		r = must(r.Canonical())(t)
		e := NewEnvelope(peermap.ManifestType, []byte("payload"))
		for name := range strings.FieldsSeq(c.signed) {
			e = must(e.AddEd25519(testKey(name)))(t)
		}
		q, err := r.CheckManifest(e)
		if err != nil {
			t.Fatal(err)
		}
		if q.Met() != (c.lacks == "") || !strings.Contains(q.Lacks, c.lacks) {
			t.Errorf("%+v: lacks %q", c, q.Lacks)
		}
		if c.lacks != "" {
			wantErr(t, q.Err(), ErrThreshold)
		}
	}
}

func TestQuorumNamesWhoIsMissing(t *testing.T) {
	e := must(SignEd25519(peermap.ManifestType, []byte("p"), testKey("controller")))(t)
	q := must(testRoot(t).CheckManifest(e))(t)
	if !slices.Equal(q.Signed, []string{"controller"}) || !slices.Equal(q.Missing, []string{"witness-a", "witness-b"}) || q.Need != 2 {
		t.Errorf("%+v", q)
	}
	for _, want := range []string{"controller", "witness-a, witness-b", "1 of 2"} {
		if !strings.Contains(q.Err().Error(), want) {
			t.Errorf("%v does not mention %s", q.Err(), want)
		}
	}
}

// Signatures of keys without the role pass unread; a wrong one of a key with the role condemns the whole.
func TestForeignAndWrongSignatures(t *testing.T) {
	r := testRoot(t)
	e := must(SignEd25519(peermap.ManifestType, []byte("p"), testKey("controller"), testKey("witness-a"), testKey("mallory")))(t)
	e = e.With(Signature{KeyID: testKey("clock").Public().ID(), Sig: []byte("nonsense")})
	if q, err := r.CheckManifest(e); err != nil || !q.Met() {
		t.Errorf("%+v, %v", q, err)
	}
	bad := e.With(Signature{KeyID: testKey("witness-b").Public().ID(), Sig: make([]byte, 64)})
	_, err := r.CheckManifest(bad)
	wantErr(t, err, ErrSignature)
	_, err = r.CheckTimestamp(e)
	wantErr(t, err, ErrType)
}

func TestRootChain(t *testing.T) {
	v1 := testRoot(t)
	next := func(change func(*Root)) *Root {
		r := v1.Clone()
		r.Version = 2
		if change != nil {
			change(r)
		}
		return must(r.Canonical())(t)
	}
	toDana := func(r *Root) {
		r.Keys = append(r.Keys, NewRootKey("dana", sshPublic(t, testSSH("dana"))), NewRootKey("eve", sshPublic(t, testSSH("eve"))))
		r.Root = Role{Keys: []string{"dana", "eve"}, Threshold: 2}
	}
	for name, c := range map[string]struct {
		root    *Root
		signers []string
		want    error
	}{
		"same keys":               {next(nil), []string{"ada", "bob"}, nil},
		"other two of three":      {next(nil), []string{"bob", "cleo"}, nil},
		"one of two":              {next(nil), []string{"ada"}, ErrThreshold},
		"nobody":                  {next(nil), nil, ErrThreshold},
		"strangers":               {next(nil), []string{"dana", "eve"}, ErrThreshold},
		"new keys, both sign":     {next(toDana), []string{"ada", "bob", "dana", "eve"}, nil},
		"new keys alone":          {next(toDana), []string{"dana", "eve"}, ErrThreshold},
		"old keys alone":          {next(toDana), []string{"ada", "bob"}, ErrThreshold},
		"new keys, one short":     {next(toDana), []string{"ada", "bob", "dana"}, ErrThreshold},
		"skip to version 3":       {next(func(r *Root) { r.Version = 3 }), []string{"ada", "bob"}, ErrRootSkip},
		"version 1 again":         {next(func(r *Root) { r.Version = 1; r.Expires++ }), []string{"ada", "bob"}, ErrRollback},
		"greatest version":        {next(func(r *Root) { r.Version = 1<<64 - 1 }), []string{"ada", "bob"}, ErrRootSkip},
		"another network":         {next(func(r *Root) { r.Network = "evil" }), []string{"ada", "bob"}, ErrWrongNetwork},
		"lower epoch":             {next(func(r *Root) { r.Epoch = 0 }), []string{"ada", "bob"}, ErrRollback},
		"higher epoch":            {next(func(r *Root) { r.Epoch = 7 }), []string{"ada", "bob"}, nil},
		"threshold lowered to 1":  {next(func(r *Root) { r.Root.Threshold = 1 }), []string{"ada"}, ErrThreshold},
		"threshold raised, short": {next(func(r *Root) { r.Root.Threshold = 3 }), []string{"ada", "bob"}, ErrThreshold},
	} {
		got, err := VerifyNextRoot(v1, signRoot(t, c.root, c.signers...))
		if c.want == nil {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			} else if got.Digest() != c.root.Digest() {
				t.Errorf("%s: another root came back", name)
			}
			continue
		}
		t.Log(err)
		wantErr(t, err, c.want)
		if succession := CheckSuccession(v1, c.root); (c.want == ErrThreshold) != (succession == nil) {
			t.Errorf("%s: CheckSuccession says %v", name, succession)
		}
	}
}

func TestFirstRoot(t *testing.T) {
	r := testRoot(t)
	env := signRoot(t, r, "ada", "bob")
	if _, err := VerifyFirstRoot(env, r.Digest(), "acme"); err != nil {
		t.Error(err)
	}
	_, err := VerifyFirstRoot(env, peermap.DigestOf([]byte("x")), "acme")
	wantErr(t, err, ErrPin)
	_, err = VerifyFirstRoot(env, r.Digest(), "other")
	wantErr(t, err, ErrWrongNetwork)
	_, err = VerifyFirstRoot(signRoot(t, r, "ada"), r.Digest(), "acme")
	wantErr(t, err, ErrThreshold)
	_, err = VerifyFirstRoot(signRoot(t, r, "dana", "eve"), r.Digest(), "acme")
	wantErr(t, err, ErrThreshold)
	junk := NewEnvelope(RootType, []byte("{}"))
	_, err = VerifyFirstRoot(must(junk.Encode())(t), peermap.DigestOf([]byte("{}")), "acme")
	if err == nil {
		t.Error("a pinned root of nonsense was accepted")
	}
	other := must(SignEd25519(peermap.ManifestType, must(r.Encode())(t), testKey("controller")))(t)
	_, err = VerifyFirstRoot(must(other.Encode())(t), r.Digest(), "acme")
	wantErr(t, err, ErrType)
}

func TestRolesAndKeys(t *testing.T) {
	r := testRoot(t)
	ada, clock := sshPublic(t, testSSH("ada")), testKey("clock").Public()
	for role, want := range map[RoleName]bool{
		RoleRoot: true, RoleMaintainers: true, RoleAppliers: true, RoleForge: false, RoleManifest: false,
		RoleWitnesses: false, RoleTimestamp: false, "nonsense": false,
	} {
		if r.HasRole(ada.ID(), role) != want {
			t.Errorf("ada in %s: %v", role, !want)
		}
	}
	if !r.HasRole(clock.ID(), RoleTimestamp) || r.HasRole("ada", RoleRoot) || r.HasRole("", RoleRoot) {
		t.Error("roles go by key ID")
	}
	if name, key, ok := r.KeyByID(clock.ID()); !ok || name != "clock" || key.ID() != clock.ID() {
		t.Errorf("%s, %v", name, ok)
	}
	if _, ok := r.Key("ghost"); ok {
		t.Error("a ghost has a key")
	}
}
