package witness

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/apex-network/apex/controller/verify"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/spec/peermap"
)

// signed is what was signed last for a zone.
type signed struct {
	Zone      string          `json:"zone"`
	Frontier  verify.Frontier `json:"frontier"`
	Epoch     uint64          `json:"epoch"`
	Serial    uint64          `json:"serial"`
	AsOf      int64           `json:"asOf"`
	ViewsRoot peermap.Digest  `json:"viewsRoot"`
	Nodes     []string        `json:"nodes"`
	// Manifest is the digest of the manifest that was signed.
	Manifest string `json:"manifest,omitempty"`
	// List is the list of the enrolled ones' bindings, Replaced the keys that they gave up.
	List     string     `json:"list,omitempty"`
	Replaced []replaced `json:"replaced,omitempty"`
}

// same reports whether m signs again what was signed last.
func (s *signed) same(m peermap.Manifest) bool {
	return m.Commit == s.Frontier.Commit && m.AsOf == s.AsOf && m.ViewsRoot == s.ViewsRoot
}

// state is the witness's memory, one file. A witness that lost it starts at the first trust root: it then signs what the
// branch holds, but can no longer tell that something older was signed before.
type state struct {
	path  string
	Zones []signed `json:"zones"`
}

const maxStateBytes = 256 << 20

func loadState(path string) (*state, error) {
	s := &state{path: path}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, fmt.Errorf("witness state: %w", err)
	}
	defer f.Close()
	if err := protocol.Read(f, maxStateBytes, s); err != nil {
		return nil, fmt.Errorf("witness state %s: %w", path, err)
	}
	return s, nil
}

// zone gives what was signed last for a zone, nil if nothing was.
func (s *state) zone(name string) *signed {
	if i, ok := s.find(name); ok {
		return &s.Zones[i]
	}
	return nil
}

func (s *state) find(name string) (int, bool) {
	return slices.BinarySearchFunc(s.Zones, name, func(z signed, name string) int { return strings.Compare(z.Zone, name) })
}

// save remembers z as the last signed of its zone, on disk first.
func (s *state) save(zone string, z *signed) (err error) {
	z.Zone = zone
	if z.Nodes == nil {
		z.Nodes = []string{}
	}
	next := &state{path: s.path, Zones: slices.Clone(s.Zones)}
	i, ok := next.find(zone)
	if ok {
		next.Zones[i] = *z
	} else {
		next.Zones = slices.Insert(next.Zones, i, *z)
	}
	data, err := protocol.Encode(next)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(s.path), ".new-*")
	if err != nil {
		return fmt.Errorf("witness state: %w", err)
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), s.path)
	}
	if err != nil {
		return fmt.Errorf("witness state: %w", errors.Join(err, os.Remove(f.Name())))
	}
	if err := syncFolder(filepath.Dir(s.path)); err != nil {
		return fmt.Errorf("witness state: %w", err)
	}
	s.Zones = next.Zones
	return nil
}

// syncFolder makes a rename survive a power cut: a witness that forgot what it signed could sign something else under the
// same serial.
func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
