package backup_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/apex-network/apex/controller/backup"
)

// FuzzRead reads rubbish, and rubbish whose digest is right. What it accepts, it writes and reads again as the same.
func FuzzRead(f *testing.F) {
	good := file(f, filled(f))
	plain, err := unpack(good)
	if err != nil {
		f.Fatal(err)
	}
	lines := strings.SplitAfter(string(plain), "\n")
	f.Add(good, 0)
	f.Add([]byte(strings.Join(lines[:len(lines)-2], "")), 4)
	f.Add([]byte("{\"format\":\"apex-backup@v1\"}\n{\"bucket\":{\"name\":\"a\"}}\n{\"key\":\"k\"}\n"), 1)
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte, count int) {
		sealed := fmt.Appendf(bytes.Clone(data), "{\"digest\":%q,\"keys\":%d}\n", hex.EncodeToString(sum(data)), count)
		for _, text := range [][]byte{data, enc.EncodeAll(sealed, nil)} {
			snap, err := backup.Read(bytes.NewReader(text))
			if err != nil {
				continue
			}
			var out bytes.Buffer
			if err := snap.Write(&out); err != nil {
				t.Fatal(err)
			}
			again, err := backup.Read(&out)
			if err != nil || again.Keys() != snap.Keys() || len(again.Buckets) != len(snap.Buckets) {
				t.Fatalf("read %d keys, then %d: %v", snap.Keys(), keys(again), err)
			}
			for i, b := range snap.Buckets {
				if !maps.EqualFunc(b.Values, again.Buckets[i].Values, bytes.Equal) || b.Config != again.Buckets[i].Config {
					t.Fatalf("bucket %q changed", b.Config.Name)
				}
			}
		}
	})
}

func sum(data []byte) []byte {
	digest := sha256.Sum256(data)
	return digest[:]
}
