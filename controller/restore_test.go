package controller_test

import (
	"bytes"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/apex-network/apex/controller"
	"github.com/apex-network/apex/controller/backup"
	"github.com/apex-network/apex/controller/store"
)

func replaceAll(text []byte, old, by string) []byte {
	return bytes.ReplaceAll(text, []byte(old), []byte(by))
}

// backup asks the running controller over its socket.
func (w *world) backup() *backup.Snapshot {
	w.t.Helper()
	client := unixClient(w.addr.Admin)
	defer client.CloseIdleConnections()
	resp, err := client.Get("http://admin" + controller.BackupPath)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		w.t.Fatalf("backup: %d %s %v", resp.StatusCode, data, err)
	}
	snapshot, err := backup.Read(bytes.NewReader(data))
	if err != nil {
		w.t.Fatal(err)
	}
	return snapshot
}

// Everything but git and a backup is lost, and the backup is old: agents hold generations that it does not know.
func TestControllerComesBackFromABackup(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.published("prod", w.repo.Head())
	old := w.backup()
	w.zone("lab", "10.2.0.0/24", "")
	w.node("lab", "l", "10.2.0.1")
	for _, n := range []string{"d", "e"} {
		w.node("prod", n, map[string]string{"d": "10.1.0.4", "e": "10.1.0.5"}[n])
		w.mustApply(w.push("Add " + n))
	}
	a, l := w.agent("prod", "a"), w.agent("lab", "l")
	s := a.open()
	a.take(s.next(t))
	s.close()
	s = l.open()
	l.take(s.next(t))
	s.close()
	before, _ := a.state.Manifest()
	w.stop()

	if err := os.RemoveAll(filepath.Join(w.dir, "state")); err != nil {
		t.Fatal(err)
	}
	w.store = store.NewMemory(w.clock.Now)
	if err := backup.Restore(t.Context(), w.store, old, false); err != nil {
		t.Fatal(err)
	}
	w.clock.Advance(2 * time.Second)
	w.start()
	w.published("prod", w.repo.Head())
	s = a.open()
	a.take(s.next(t)) // fails at a rollback
	s.close()
	if after, _ := a.state.Manifest(); after.Serial <= before.Serial {
		t.Errorf("serial %d after %d", after.Serial, before.Serial)
	}
	s = l.open() // its zone is younger than the backup
	l.take(s.next(t))
	s.close()

	// From there on they are counted by one.
	w.node("prod", "f", "10.1.0.6")
	commit := w.push("Add f")
	high := w.published("prod", w.fleet().Accepted).Serial
	w.mustApply(commit)
	if now := w.published("prod", commit).Serial; now != high+1 {
		t.Errorf("serial %d after %d", now, high)
	}
}
