package controller_test

import (
	"net/http"
	"testing"

	"github.com/apex-network/apex/internal/protocol"
)

// Before a commit was accepted nobody knows which roots there are: 404 would make agents believe that there are none.
func TestRootsAreNotReadyBeforeTheFirstCommit(t *testing.T) {
	w := newWorld(t)
	head := w.repo.Head()
	w.repo.Git("-C", w.bare, "update-ref", "-d", "refs/heads/main")
	w.start()
	for network, want := range map[string]int{w.name: http.StatusServiceUnavailable, "other": http.StatusNotFound} {
		if resp, body := w.do(call{method: http.MethodGet, path: protocol.RootPath(network, "prod", 1)}); resp.StatusCode != want {
			t.Errorf("root of %s: %s %s, want %d", network, resp.Status, body, want)
		}
	}
	w.repo.Git("push", "-q", w.bare, "HEAD:main")
	w.stop() // nobody may apply yet
	w.start()
	w.published("prod", head)
	for version, want := range map[uint64]int{1: http.StatusOK, 2: http.StatusNotFound} {
		if resp, body := w.do(call{method: http.MethodGet, path: protocol.RootPath(w.name, "prod", version)}); resp.StatusCode != want {
			t.Errorf("root %d: %s %s, want %d", version, resp.Status, body, want)
		}
	}
}
