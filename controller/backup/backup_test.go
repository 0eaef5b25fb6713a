package backup_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/apex-network/apex/controller/backup"
	"github.com/apex-network/apex/controller/cluster"
	"github.com/apex-network/apex/controller/publish"
	"github.com/apex-network/apex/controller/store"
	"github.com/apex-network/apex/controller/store/jetstream"
)

var created = time.Unix(1_800_000_000, 0)

func put(t testing.TB, s store.Store, cfg store.BucketConfig, values map[string]string) {
	t.Helper()
	b, err := s.Bucket(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range values {
		if err := b.Put(t.Context(), k, []byte(v)); err != nil {
			t.Fatal(err)
		}
	}
}

func content(t *testing.T, s store.Store, name string) map[string]string {
	t.Helper()
	b, err := s.Bucket(t.Context(), store.BucketConfig{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	if err := b.Each(t.Context(), "", func(k string, v []byte) error { out[k] = string(v); return nil }); err != nil {
		t.Fatal(err)
	}
	return out
}

var bindings = store.BucketConfig{Name: "bindings", Description: "who is who", MaxValueBytes: 1 << 20}

const zeros = "0000000000000000000000000000000000000000000000000000000000000000"

func ledgerEntry(epoch, serial string) string {
	return `{"epoch":` + epoch + `,"serial":` + serial + `,"manifest":"` + zeros + `"}`
}

func filled(t testing.TB) store.Store {
	s := store.NewMemory(time.Now)
	put(t, s, bindings, map[string]string{"acme.prod.a": "\x00binary", "acme.prod.b": "two", "acme.lab.a": ""})
	put(t, s, store.BucketConfig{Name: "tokens", TTL: time.Hour}, map[string]string{"used": "1"})
	put(t, s, publish.LedgerBucket(), map[string]string{"acme.prod": ledgerEntry("1", "7")})
	return s
}

func file(t testing.TB, s store.Store) []byte {
	t.Helper()
	snap, err := backup.Take(t.Context(), s, "test", created)
	if err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	if err := snap.Write(&buf); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestBackupComesBack(t *testing.T) {
	data := file(t, filled(t))
	again := file(t, filled(t))
	if !bytes.Equal(data, again) {
		t.Error("two backups of the same content differ")
	}
	snap, err := backup.Read(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	if !snap.Created.Equal(created) || snap.Controller != "test" || snap.Keys() != 5 {
		t.Errorf("head %v %s, %d keys", snap.Created, snap.Controller, snap.Keys())
	}
	for name, open := range map[string]func() store.Store{
		"memory": func() store.Store { return store.NewMemory(time.Now) },
		"embedded": func() store.Store {
			s, err := jetstream.Open(t.Context(), jetstream.Options{Dir: t.TempDir(), Timeout: 5 * time.Minute, Logger: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			return s
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := open()
			defer s.Close()
			if err := backup.Restore(t.Context(), s, snap, false); err != nil {
				t.Fatal(err)
			}
			configs, err := s.Buckets(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range configs {
				if c.Name == "tokens" && c.TTL != time.Hour || c.Name == "bindings" && c != bindings {
					t.Errorf("bucket came back as %+v", c)
				}
			}
			want := map[string]string{"acme.prod.a": "\x00binary", "acme.prod.b": "two", "acme.lab.a": ""}
			if got := content(t, s, "bindings"); !maps.Equal(got, want) {
				t.Errorf("bindings %q", got)
			}
			ledger := content(t, s, "serials")
			for _, key := range []string{"acme.prod", "_floor"} {
				if !strings.Contains(ledger[key], `"serial":1000000007`) || !strings.Contains(ledger[key], `"restored":true`) {
					t.Errorf("ledger of %s: %s", key, ledger[key])
				}
			}
		})
	}
}

func TestRestoreDoesNotOverwrite(t *testing.T) {
	snap, err := backup.Read(bytes.NewReader(file(t, filled(t))))
	if err != nil {
		t.Fatal(err)
	}
	s := store.NewMemory(time.Now)
	put(t, s, bindings, map[string]string{"acme.prod.c": "later"})
	put(t, s, store.BucketConfig{Name: "unknown"}, map[string]string{"x": "y"})
	put(t, s, publish.LedgerBucket(), map[string]string{"acme.prod": ledgerEntry("1", "12"), "acme.new": ledgerEntry("2", "3")})
	if err := backup.Restore(t.Context(), s, snap, false); !errors.Is(err, backup.ErrNotEmpty) {
		t.Fatalf("restored over something: %v", err)
	}
	if got := content(t, s, "bindings"); len(got) != 1 {
		t.Fatalf("the refused restore changed %v", got)
	}
	if err := backup.Restore(t.Context(), s, snap, true); err != nil {
		t.Fatal(err)
	}
	if got := content(t, s, "bindings"); len(got) != 3 || got["acme.prod.c"] != "" {
		t.Errorf("bindings %q", got)
	}
	if got := content(t, s, "unknown"); len(got) != 0 {
		t.Errorf("unknown bucket still holds %q", got)
	}
	// Numbers never go down, whichever side knows the higher ones.
	ledger := content(t, s, "serials")
	if !strings.Contains(ledger["acme.prod"], `"serial":1000000012`) || !strings.Contains(ledger["acme.new"], `"epoch":2,"serial":1000000003`) {
		t.Errorf("ledger %q", ledger)
	}
}

func TestRestoreRefusesAStoreInUse(t *testing.T) {
	snap, err := backup.Read(bytes.NewReader(file(t, filled(t))))
	if err != nil {
		t.Fatal(err)
	}
	s := store.NewMemory(time.Now)
	leases, err := s.Bucket(t.Context(), cluster.LeaseBucket())
	if err != nil {
		t.Fatal(err)
	}
	lease := cluster.NewLease("acme", cluster.Replica{Name: "r0", ID: "1"}, leases, slog.New(slog.DiscardHandler), cluster.Times{})
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	leading := make(chan struct{})
	running.Go(func() {
		lease.Run(ctx, func(ctx context.Context, _ uint64) { close(leading); <-ctx.Done() })
	})
	<-leading
	if err := backup.Restore(t.Context(), s, snap, true); !errors.Is(err, backup.ErrInUse) || !strings.Contains(err.Error(), "r0") {
		t.Errorf("restored under a running controller: %v", err)
	}
	stop()
	running.Wait()
	if err := backup.Restore(t.Context(), s, snap, true); err != nil {
		t.Fatal(err)
	}
	if got := content(t, s, "leases")["acme.leader"]; !strings.Contains(got, `"holder":""`) {
		t.Errorf("lease after the restore: %s", got)
	}
}

func TestDamagedBackupsAreRefused(t *testing.T) {
	good := file(t, filled(t))
	plain, err := unpack(good)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(string(plain), "\n")
	lines = lines[:len(lines)-1]
	n := len(lines)
	for name, text := range map[string]string{
		"empty":       "",
		"no end":      strings.Join(lines[:n-1], ""),
		"a value out": strings.Join(append(append([]string{}, lines[:3]...), lines[4:]...), ""),
		"changed":     strings.Replace(string(plain), "dHdv", "dHdw", 1),
		"continued":   string(plain) + lines[2],
		"no head":     strings.Join(lines[1:], ""),
		"other":       strings.Replace(string(plain), "apex-backup@v1", "apex-backup@v9", 1),
		"no JSON":     "hello\n",
	} {
		t.Run(name, func(t *testing.T) {
			snap, err := backup.Read(bytes.NewReader(pack(t, text)))
			if !errors.Is(err, backup.ErrDamaged) && !errors.Is(err, backup.ErrFormat) {
				t.Fatalf("read %d keys, %v", keys(snap), err)
			}
		})
	}
	for _, data := range [][]byte{nil, []byte("plain"), good[:len(good)-5]} {
		if snap, err := backup.Read(bytes.NewReader(data)); err == nil {
			t.Errorf("%s: read %d keys", hex.EncodeToString(data[:min(len(data), 8)]), keys(snap))
		}
	}
}

func keys(s *backup.Snapshot) int {
	if s == nil {
		return 0
	}
	return s.Keys()
}

func unpack(data []byte) ([]byte, error) {
	dec, err := zstd.NewReader(nil)
	if err != nil {
		return nil, err
	}
	defer dec.Close()
	return dec.DecodeAll(data, nil)
}

func pack(t *testing.T, text string) []byte {
	t.Helper()
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return enc.EncodeAll([]byte(text), nil)
}

// A copy taken while things change holds what each binding leans on: its address is written before it.
func TestBackupWhileNodesEnrol(t *testing.T) {
	s := store.NewMemory(time.Now)
	b, err := s.Bucket(t.Context(), bindings)
	if err != nil {
		t.Fatal(err)
	}
	addresses, err := s.Bucket(t.Context(), store.BucketConfig{Name: "addresses"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var writing sync.WaitGroup
	defer writing.Wait()
	defer stop()
	writing.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			if key := fmt.Sprint("n", i); addresses.Put(ctx, key, nil) == nil {
				_ = b.Put(ctx, key, nil) // fails once the test ends
			}
		}
	})
	for range 3 {
		snap, err := backup.Take(t.Context(), s, "test", created)
		if err != nil {
			t.Fatal(err)
		}
		values := map[string]map[string][]byte{}
		for _, b := range snap.Buckets {
			values[b.Config.Name] = b.Values
		}
		for key := range values["bindings"] {
			if _, ok := values["addresses"][key]; !ok {
				t.Fatalf("binding %s without its address", key)
			}
		}
	}
}
