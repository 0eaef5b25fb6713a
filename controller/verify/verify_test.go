package verify_test

import (
	"context"
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/apex-network/apex/controller/verify"
)

func TestAcceptsSignedHistory(t *testing.T) {
	w := newWorld(t)
	w.write("a/zone.yaml", zoneA+"  default: mesh\n")
	first := w.repo.Commit(w.anna, "Mesh zone a")
	w.write("b/readme.txt", "b\n")
	second := w.repo.Commit(w.bob, "Add notes")
	res := w.accept(verify.Frontier{})
	var got []string
	for _, v := range res.Commits {
		if !v.Accepted {
			t.Errorf("not accepted: %+v", v)
		}
		got = append(got, v.Commit+" "+v.Signer+" "+v.Rule+" "+strings.Join(v.Paths, ","))
	}
	want := []string{w.start + " root root ", first + " anna team-a a/zone.yaml", second + " bob team-b b/readme.txt"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("verdicts\n%q\nwant\n%q", got, want)
	}
	if res.Root == nil || res.Root.Version != 1 || len(res.Chain) != 1 {
		t.Errorf("root %+v, chain of %d", res.Root, len(res.Chain))
	}

	// The frontier persists, and a later run starts there.
	stored, err := json.Marshal(res.Accepted)
	if err != nil {
		t.Fatal(err)
	}
	var f verify.Frontier
	if err := json.Unmarshal(stored, &f); err != nil {
		t.Fatal(err)
	}
	if again := w.accept(f); len(again.Commits) != 0 || again.Root.Digest() != res.Root.Digest() {
		t.Errorf("standing still judged %d commits", len(again.Commits))
	}
	w.write("a/more.txt", "x\n")
	w.repo.Commit(w.anna, "More")
	if next := w.accept(f); len(next.Commits) != 1 || next.Commits[0].Signer != "anna" {
		t.Errorf("from the frontier: %+v", next.Commits)
	}
}

func TestAcceptsOpenPGP(t *testing.T) {
	w := newWorld(t)
	defer w.env.CloseGPG()
	pgp := w.env.PGPKey("pat", "ed25519")
	rsa := w.env.PGPKey("rita", "rsa3072")
	w.trust.Maintainer("pgp", pgp, []string{"docs/**"})
	w.trust.Maintainer("pgp-rsa", rsa, []string{"docs/**"})
	w.rotate(w.root)
	w.write("docs/a.md", "a\n")
	w.repo.Commit(pgp, "By OpenPGP")
	w.write("docs/b.md", "b\n")
	w.repo.Commit(rsa, "By OpenPGP with RSA")
	res := w.accept(verify.Frontier{})
	if v := res.Commits[len(res.Commits)-2]; v.Signer != "pat" || v.Rule != "pgp" {
		t.Errorf("verdict %+v", v)
	}
	unlisted := w.env.PGPKey("mallory", "ed25519")
	w.write("docs/c.md", "c\n")
	w.repo.Commit(unlisted, "By a stranger")
	w.refuse(res.Accepted, res.Accepted.Commit, verify.CodeUnknownKey, "OpenPGP key", "does not list")
}

// rotate commits the trust root as it stands as the next version.
func (w *world) rotate(committer *rootKey) string {
	w.t.Helper()
	w.trust.Spec.Version++
	w.trust.Write(w.repo, w.root, w.root2)
	return w.repo.Commit(committer, "Rotate the trust root")
}

func TestAdoptsOldRepository(t *testing.T) {
	w := newWorld(t)
	old := w.env.Repo("old")
	old.Write("history.txt", "1\n")
	old.Commit(nil, "Long before Apex")
	old.Write("history.txt", "2\n")
	old.Commit(w.nobody, "Still before")
	w.trust.Write(old, w.root, w.root2)
	old.Write("network.yaml", netYAML)
	start := old.Commit(w.root, "Adopt Apex")
	w.repo = old
	res := w.accept(verify.Frontier{})
	if len(res.Commits) != 1 || res.Commits[0].Commit != start || res.Commits[0].Code != verify.CodeStart {
		t.Errorf("commits %+v", res.Commits)
	}

	// A branch from before the adoption cannot be merged: nothing says who may sign there.
	old.Branch("ancient", start+"~1")
	old.Write("x.txt", "x\n")
	old.Commit(w.admin, "From before")
	old.Switch("main")
	old.Merge(w.admin, "ancient")
	w.refuse(res.Accepted, start, verify.CodeSideCommit, "before-adoption", "Rebase")
}

func TestStartNeedsRootKeyAndPin(t *testing.T) {
	w := newWorld(t)
	w.repo.Amend(w.admin)
	w.refuse(verify.Frontier{}, "", verify.CodeTrustSigner, "root key", "admin")
	w.repo.Amend(nil)
	w.refuse(verify.Frontier{}, "", verify.CodeUnsigned, "commit --amend -S")

	other := w.policy()
	other.Pin[0] ^= 1
	_, err := verify.Range(context.Background(), w.objects(), other, verify.Frontier{}, w.repo.Head())
	if err == nil || !strings.Contains(err.Error(), "pinned digest") {
		t.Errorf("wrong pin: %v", err)
	}
}

func TestFrontierOfAnotherRootIsDamage(t *testing.T) {
	w := newWorld(t)
	f := w.accept(verify.Frontier{}).Accepted
	f.RootVersion = 7
	if _, err := w.run(f); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("got %v", err)
	}
}

func TestRotation(t *testing.T) {
	w := newWorldOf(t, 2)
	w.trust.RemoveKey("bob")
	id := w.rotate(w.root2)
	res := w.accept(verify.Frontier{})
	last := res.Commits[len(res.Commits)-1]
	if last.Commit != id || last.Rule != "root" || last.Signer != "root2" || res.Root.Version != 2 || len(res.Chain) != 2 || res.Accepted.RootVersion != 2 {
		t.Errorf("verdict %+v, root %d", last, res.Root.Version)
	}
	w.write("b/zone.yaml", zoneB+"  default: mesh\n")
	w.repo.Commit(w.bob, "Bob after he left")
	w.refuse(res.Accepted, id, verify.CodeUnknownKey, "version 2 does not list")
}

func TestMergeCommits(t *testing.T) {
	for _, by := range []string{"forge", "admin", "bob"} {
		t.Run(by, func(t *testing.T) {
			w := newWorld(t)
			w.repo.Branch("feature")
			w.write("a/one.txt", "1\n")
			w.repo.Commit(w.anna, "One")
			w.write("a/two.txt", "2\n")
			w.repo.Commit(w.anna, "Two")
			w.repo.Switch("main")
			w.write("b/main.txt", "main\n")
			w.repo.Commit(w.bob, "Meanwhile on main")
			keys := map[string]*rootKey{"forge": w.forge, "admin": w.admin, "bob": w.bob}
			merge := w.repo.Merge(keys[by], "feature")
			res := w.accept(verify.Frontier{})
			if n := len(res.Commits); n != 5 {
				t.Fatalf("%d commits judged", n)
			}
			if side := res.Commits[2]; side.Via != merge || side.Signer != "anna" || side.Subject != "One" {
				t.Errorf("side commit %+v", side)
			}
			if last := res.Commits[4]; len(last.Paths) != 0 || last.Signer != by {
				t.Errorf("merge %+v", last)
			}
		})
	}
}

// A feature branch that merged main into itself, twice, and is then merged.
func TestMergeBackAndForth(t *testing.T) {
	w := newWorld(t)
	f := w.accept(verify.Frontier{}).Accepted
	w.repo.Branch("feature")
	w.write("a/one.txt", "1\n")
	w.repo.Commit(w.anna, "One")
	for _, text := range []string{"x", "y"} {
		w.repo.Switch("main")
		w.write("b/main.txt", text+"\n")
		w.repo.Commit(w.bob, "Main "+text)
		w.repo.Switch("feature")
		w.repo.Merge(w.anna, "main")
		w.write("a/one.txt", text+"\n")
		w.repo.Commit(w.anna, "Feature "+text)
	}
	w.repo.Switch("main")
	w.write("b/late.txt", "late\n")
	w.repo.Commit(w.bob, "Late")
	w.repo.Merge(w.forge, "feature")
	res := w.accept(f)
	if len(res.Commits) != 9 {
		t.Errorf("%d commits judged", len(res.Commits))
	}
}

func TestMergeBringsRotation(t *testing.T) {
	w := newWorld(t)
	w.repo.Branch("rotate")
	w.trust.RemoveKey("bob")
	w.rotate(w.root)
	w.repo.Switch("main")
	w.write("a/x.txt", "x\n")
	w.repo.Commit(w.anna, "On main")
	w.repo.Merge(w.forge, "rotate")
	if res := w.accept(verify.Frontier{}); res.Root.Version != 2 {
		t.Errorf("root version %d", res.Root.Version)
	}
}

func TestZoneLimits(t *testing.T) {
	w := newWorld(t)
	f := w.accept(verify.Frontier{}).Accepted
	w.write("shared/a.yaml", zoneA)
	w.repo.Remove("a/zone.yaml")
	good := w.repo.Commit(w.anna, "Move zone a")
	res := w.accept(f)
	w.write("shared/b.yaml", zoneB)
	w.repo.Commit(w.anna, "Reach into zone b")
	w.refuse(res.Accepted, good, verify.CodeZone, `zone "b"`, "maintainer of that zone")
	w.repo.Git("reset", "-q", "--hard", good)

	// Also what was there before counts: taking zone b's documents away is a change of zone b.
	w.write("shared/b.yaml", zoneB)
	w.repo.Commit(w.admin, "Admin adds b")
	withB := w.accept(f)
	w.repo.Remove("shared/b.yaml")
	w.repo.Commit(w.anna, "Remove b")
	w.refuse(withB.Accepted, withB.Accepted.Commit, verify.CodeZone, `zone "b"`)
	w.repo.Git("reset", "-q", "--hard", withB.Accepted.Commit)

	w.write("shared/net.yaml", strings.Replace(netYAML, "corp", "other", 1))
	w.repo.Commit(w.anna, "Network-wide")
	w.refuse(withB.Accepted, withB.Accepted.Commit, verify.CodeZone, "whole network")
	w.repo.Git("reset", "-q", "--hard", withB.Accepted.Commit)

	w.write("shared/bad.yaml", "kind: [\n")
	w.repo.Commit(w.anna, "Unreadable")
	w.refuse(withB.Accepted, withB.Accepted.Commit, verify.CodeZone, "cannot be read")
}

func TestShrinkTrailer(t *testing.T) {
	w := newWorld(t)
	shrink := func(zone string) string {
		return "Shrink\n\nApex-Allow-Shrink: " + zone + "\nSigned-off-by: T <t@example.org>"
	}
	w.write("a/zone.yaml", zoneA+"  default: mesh\n")
	w.repo.Commit(w.anna, shrink("a"))
	if res := w.accept(verify.Frontier{}); !reflect.DeepEqual(res.AllowShrink, []string{"a"}) {
		t.Errorf("zone maintainer: %q", res.AllowShrink)
	}
	f := w.accept(verify.Frontier{}).Accepted
	w.write("b/zone.yaml", zoneB+"  default: mesh\n")
	w.repo.Commit(w.bob, shrink("b"))
	if res := w.accept(f); !reflect.DeepEqual(res.AllowShrink, []string{"b"}) {
		t.Errorf("path maintainer who changes the zone: %q", res.AllowShrink)
	}
	f = w.accept(f).Accepted
	w.write("b/x.txt", "x\n")
	w.repo.Commit(w.bob, shrink("a"))
	w.write("b/y.txt", "y\n")
	w.repo.Commit(w.bob, "Not a trailer\n\nApex-Allow-Shrink: b\n\nbecause text follows")
	if res := w.accept(f); res.AllowShrink != nil {
		t.Errorf("foreign zone: %q", res.AllowShrink)
	}
	f = w.accept(f).Accepted
	w.write("x.txt", "x\n")
	w.repo.Commit(w.admin, shrink("a")+"\nApex-Allow-Shrink: b")
	if res := w.accept(f); !reflect.DeepEqual(res.AllowShrink, []string{"a", "b"}) {
		t.Errorf("admin: %q", res.AllowShrink)
	}
}
