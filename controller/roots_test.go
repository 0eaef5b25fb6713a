package controller

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/apex-network/apex/controller/build"
	"github.com/apex-network/apex/controller/publish"
	"github.com/apex-network/apex/controller/verify"
	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec/identity"
)

// The chain grows before the publisher learns of the newest version, and answers are cached for ever: a version must be
// that version at every moment.
func TestRootsAreServedByTheirVersion(t *testing.T) {
	n := &network{state: &state{Chain: [][]byte{[]byte("one"), []byte("two")}}}
	for version, want := range map[uint64]string{0: "", 1: "one", 2: "two", 3: "", 1 << 63: ""} {
		got, ok := n.roots(version)
		if string(got) != want || ok != (want != "") {
			t.Errorf("version %d is %q, want %q", version, got, want)
		}
	}
}

// A rule that has ended while nothing can be signed must not make the loop spin.
func TestOverdueRuleIsNoReasonToSpin(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	publisher, err := publish.Open(publish.Options{Network: "acme", Dir: t.TempDir()}, nil)
	if err != nil {
		t.Fatal(err)
	}
	n := &network{now: func() time.Time { return now }, expiry: now.Add(-time.Hour), current: &accepted{}, publisher: publisher}
	if got, _ := n.nextTurn(); got < time.Second {
		t.Errorf("looks again after %s", got)
	}
	n.expiry = now.Add(300 * time.Millisecond)
	if got, _ := n.nextTurn(); got < 300*time.Millisecond || got > 400*time.Millisecond {
		t.Errorf("looks again after %s, the rule ends in 300 ms", got)
	}
}

// What is made under a trust root is served after a crash only if the root is.
func TestChainIsKeptBeforeAnythingIsPublishedUnderIt(t *testing.T) {
	dir := t.TempDir()
	publisher, err := publish.Open(publish.Options{Network: "acme", Dir: filepath.Join(dir, "zones")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	n := &network{state: &state{}, publisher: publisher, statePath: filepath.Join(dir, "gone", "state.json")}
	a := &accepted{frontier: verify.Frontier{Commit: "c"}, chain: [][]byte{[]byte("one")}, root: &signer.Root{Version: 1}}
	err = n.publish(t.Context(), a, &build.Outcome{Admitted: &identity.Admitted{}}, 0)
	if err == nil || publisher.Root() != nil || n.state.accepted() {
		t.Fatalf("published under a root that is not kept: %v", err)
	}
}
