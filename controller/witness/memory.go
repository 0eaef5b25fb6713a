package witness

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/spec/binding"
	"github.com/apex-network/apex/spec/peermap"
)

// memory holds the bindings whose evidence was judged good, so that each is judged once: one file each, named by the
// digest of its payload, with the envelopes of those that it leans on and its own. A file that is lost or damaged costs a
// second look at the evidence. It holds no tokens.
type memory struct {
	dir    string
	judged map[peermap.Digest]*judged
	// under is the version of the trust root under which a binding's signature was checked last.
	under map[peermap.Digest]uint64
}

// judged is a binding that was judged good, with those that it leans on, the oldest first.
type judged struct {
	*binding.Signed
	past []*binding.Signed
}

// chain gives what it leans on, and itself.
func (j *judged) chain() []*binding.Binding {
	out := make([]*binding.Binding, 0, len(j.past)+1)
	for _, s := range j.past {
		out = append(out, &s.Binding)
	}
	return append(out, &j.Binding)
}

// maxJudgedBytes bounds one file: a record has no more envelopes than fit into its evidence, which are larger there.
const maxJudgedBytes = 2 * protocol.MaxEvidenceBytes

func openMemory(dir string) (*memory, error) {
	m := &memory{dir: dir, judged: map[peermap.Digest]*judged{}, under: map[peermap.Digest]uint64{}}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("witness memory: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("witness memory: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		s, err := readJudged(path, e.Name())
		if err != nil {
			err = os.Remove(path) // unfinished or damaged
		}
		if err != nil {
			return nil, fmt.Errorf("witness memory: %w", err)
		}
		if s != nil {
			m.judged[s.Digest] = s
		}
	}
	return m, nil
}

func readJudged(path, name string) (*judged, error) {
	var want peermap.Digest
	if err := want.UnmarshalText([]byte(name)); err != nil {
		return nil, err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var envelopes [][]byte
	if err := protocol.Decode(data, maxJudgedBytes, &envelopes); err != nil {
		return nil, err
	}
	var list []*binding.Signed
	for _, e := range envelopes {
		s, err := parseSigned(e)
		if err != nil {
			return nil, err
		}
		list = append(list, s)
	}
	end := len(list) - 1
	if end < 0 || list[end].Digest != want {
		return nil, errors.New("it holds another binding")
	}
	return &judged{list[end], list[:end]}, nil
}

// keep remembers a binding as good.
func (m *memory) keep(s *judged) error {
	path := filepath.Join(m.dir, s.Digest.String())
	var envelopes [][]byte
	for _, p := range s.past {
		envelopes = append(envelopes, p.Envelope)
	}
	data, err := protocol.Encode(append(envelopes, s.Envelope))
	if err != nil {
		return fmt.Errorf("witness memory: %w", err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		return fmt.Errorf("witness memory: %w", err)
	}
	m.judged[s.Digest] = s
	return nil
}

// before tells what is judged by now; it may be asked while the memory changes.
func (m *memory) before() func(peermap.Digest) bool {
	known := make(map[peermap.Digest]bool, len(m.judged))
	for d := range m.judged {
		known[d] = true
	}
	return func(d peermap.Digest) bool { return known[d] }
}

// forget drops the bindings of a zone that wanted does not name.
func (m *memory) forget(zone string, wanted map[peermap.Digest]bool) error {
	var errs []error
	for d, s := range m.judged {
		if s.Binding.Zone == zone && !wanted[d] {
			errs = append(errs, os.Remove(filepath.Join(m.dir, d.String())))
			delete(m.judged, d)
			delete(m.under, d)
		}
	}
	return errors.Join(errs...)
}
