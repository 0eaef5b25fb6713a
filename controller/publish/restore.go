package publish

import (
	"fmt"

	"github.com/apex-network/apex/internal/protocol"
)

// floorKey is an entry beside those of the zones: where numbers of zones begin that have no entry. Zones cannot be called so.
const floorKey = "_floor"

// lostSinceBackup is how far serials jump ahead after a restore: more than a controller can have given out since, at four
// a second for seven years, and few enough for millions of restores.
const lostSinceBackup = 1_000_000_000

// RestoredLedger gives the content of LedgerBucket after a restore, from the backup's and what is there now: every zone's
// numbers go on far above the highest that is known, and so do those of zones that the backup does not know. What was
// published is not restored: it is compiled and signed anew.
func RestoredLedger(backup, present map[string][]byte) (map[string][]byte, error) {
	highest := map[string]entry{}
	floor := uint64(0)
	for _, values := range []map[string][]byte{backup, present} {
		for key, value := range values {
			e, err := decodeEntry(value)
			if err != nil {
				return nil, fmt.Errorf("ledger %s: %w", key, err)
			}
			floor = max(floor, e.Serial)
			if old, ok := highest[key]; !ok || e.mark().compare(old.mark()) > 0 {
				highest[key] = entry{Epoch: e.Epoch, Serial: e.Serial, Manifest: e.Manifest, Restored: true, Term: max(e.Term, old.Term)}
			}
		}
	}
	highest[floorKey] = entry{Restored: true}
	out := map[string][]byte{}
	for key, e := range highest {
		e.Serial += lostSinceBackup
		if key == floorKey {
			e.Serial = floor + lostSinceBackup
		}
		data, err := protocol.Encode(e)
		if err != nil {
			return nil, err
		}
		out[key] = data
	}
	return out, nil
}
