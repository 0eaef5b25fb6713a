package reconciler

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"time"
)

// The state folder, every file mode 0600 and without any private key:
//
//	confirmed.json   the last confirmed state in full, with a sequence number
//	confirmed.log    what changed since, one line per confirmed change, numbered on from there
//	checkpoint.json  stands only while a change is under way, and carries the number the change started from
//	sysctl.json      kernel parameters we changed and their values before
//
// The log keeps the cost of a change in proportion to the change. A crash may leave a torn last line: that change was
// not confirmed, and the checkpoint still stands. A checkpoint with a number below the confirmed one is of a change that
// was confirmed.
const (
	storeVersion   = 1
	confirmedFile  = "confirmed.json"
	logFile        = "confirmed.log"
	checkpointFile = "checkpoint.json"
	sysctlFile     = "sysctl.json"
	maxStoreBytes  = 256 << 20
	minLogBytes    = 64 << 10 // a log shorter than this is never folded
)

// store is the state folder of one Engine.
type store struct {
	dir string
	seq uint64
	// base and logged are the sizes in bytes of confirmed.json and confirmed.log.
	base, logged int64
	log          *os.File
}

type storedInterface struct {
	Name       string `json:"name"`
	PublicKey  Key    `json:"publicKey"`
	ListenPort uint16 `json:"listenPort"`
	MTU        int    `json:"mtu"`
}

type storedPeer struct {
	Name       string         `json:"name"`
	PublicKey  Key            `json:"publicKey"`
	AllowedIPs []netip.Prefix `json:"allowedIPs"`
	Endpoint   netip.AddrPort `json:"endpoint"`
	Keepalive  int64          `json:"keepalive"` // seconds
	NotAfter   int64          `json:"notAfter,omitempty"`
}

// storedRest is a State less its peers and the members of its sets.
type storedRest struct {
	Interface storedInterface `json:"interface"`
	Addresses []netip.Prefix  `json:"addresses"`
	Routes    []netip.Prefix  `json:"routes"`
	Forward   []netip.Prefix  `json:"forward"`
	Rules     []storedRule    `json:"rules"`
}

type storedRule struct {
	ID    string       `json:"id"`
	Hook  Hook         `json:"hook"`
	From  []int        `json:"from"`
	To    []int        `json:"to"`
	Ports []storedPort `json:"ports"`

	NotAfter int64 `json:"notAfter,omitempty"`
}

type storedPort struct {
	Protocol uint8  `json:"protocol"`
	First    uint16 `json:"first"`
	Last     uint16 `json:"last"`
}

type storedState struct {
	Version int              `json:"version"`
	Seq     uint64           `json:"seq"`
	ID      string           `json:"id"`
	Rest    storedRest       `json:"rest"`
	Peers   []storedPeer     `json:"peers"`
	Sets    [][]netip.Prefix `json:"sets"`
}

// storedChange is one line of the log. Rest is nil if nothing of it changed.
type storedChange struct {
	Version int          `json:"version"`
	Seq     uint64       `json:"seq"`
	ID      string       `json:"id"`
	Rest    *storedRest  `json:"rest,omitempty"`
	Set     []storedPeer `json:"set,omitempty"`
	Remove  []Key        `json:"remove,omitempty"`
	Members []storedSet  `json:"members,omitempty"`
}

type storedSet struct {
	Index  int            `json:"index"`
	Add    []netip.Prefix `json:"add,omitempty"`
	Remove []netip.Prefix `json:"remove,omitempty"`
}

// checkpoint says that a change is under way.
type checkpoint struct {
	Version int       `json:"version"`
	Seq     uint64    `json:"seq"`
	ID      string    `json:"id"`
	Started time.Time `json:"started"`
}

// openStore makes the folder if need be; load reads it.
func openStore(dir string) (*store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("state folder: %w", err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return nil, fmt.Errorf("state folder: %w", err)
	}
	return &store{dir: dir}, nil
}

func (s *store) path(name string) string { return filepath.Join(s.dir, name) }

func (s *store) close() error {
	if s.log == nil {
		return nil
	}
	err := s.log.Close()
	s.log = nil
	return err
}

// load reads the last confirmed state; nil if there is none.
func (s *store) load() (*State, error) {
	s.seq, s.base, s.logged = 0, 0, 0
	var base storedState
	raw, err := s.read(confirmedFile, &base)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if base.Version != storeVersion {
		return nil, s.versionError(confirmedFile, base.Version)
	}
	state := base.state()
	s.seq, s.base = base.Seq, int64(raw)
	if err := s.replay(&state); err != nil {
		return nil, err
	}
	state, err = normaliseStored(state)
	if err != nil {
		return nil, fmt.Errorf("%s is damaged: %w", s.path(confirmedFile), err)
	}
	return &state, nil
}

func (s *store) versionError(name string, v int) error {
	return fmt.Errorf("%s has version %d, this program reads %d: use the newer program", s.path(name), v, storeVersion)
}

// replay applies the log to state and cuts off a torn last line.
func (s *store) replay(state *State) error {
	b, err := os.ReadFile(s.path(logFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the state log: %w", err)
	}
	good := int64(0)
	for len(b) > 0 {
		line, rest, whole := bytes.Cut(b, []byte{'\n'})
		if !whole {
			break
		}
		var c storedChange
		if err := decodeStrict(line, &c); err != nil {
			return fmt.Errorf("%s at byte %d: %w", s.path(logFile), good, err)
		}
		if c.Version != storeVersion {
			return s.versionError(logFile, c.Version)
		}
		if c.Seq > s.seq {
			if c.Seq != s.seq+1 {
				return fmt.Errorf("%s: change %d follows %d", s.path(logFile), c.Seq, s.seq)
			}
			if err := c.apply(state); err != nil {
				return fmt.Errorf("%s: change %d: %w", s.path(logFile), c.Seq, err)
			}
			s.seq = c.Seq
		}
		good += int64(len(line)) + 1
		b = rest
	}
	if len(b) > 0 {
		if err := os.Truncate(s.path(logFile), good); err != nil {
			return fmt.Errorf("cut the state log: %w", err)
		}
	}
	s.logged = good
	return nil
}

// begin writes the checkpoint of a change to the state called id.
func (s *store) begin(id string, now time.Time) error {
	return s.write(checkpointFile, checkpoint{storeVersion, s.seq, id, now.UTC()})
}

// unfinished reads the checkpoint; nil if there is none, or if its change was confirmed after all.
func (s *store) unfinished() (*checkpoint, error) {
	var c checkpoint
	_, err := s.read(checkpointFile, &c)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if c.Version != storeVersion {
		return nil, s.versionError(checkpointFile, c.Version)
	}
	if c.Seq < s.seq {
		return nil, s.end()
	}
	return &c, nil
}

// end removes the checkpoint. Its removal need not be durable: see unfinished.
func (s *store) end() error {
	if err := os.Remove(s.path(checkpointFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the checkpoint: %w", err)
	}
	return nil
}

// confirm makes next the last confirmed state, durably, before it returns. before is the one until now; nil if none.
func (s *store) confirm(before, next *State) error {
	if before != nil && len(before.Firewall.Sets) == len(next.Firewall.Sets) && (s.logged < minLogBytes || s.logged < s.base/2) {
		return s.appendChange(before, next)
	}
	return s.rewrite(next)
}

func (s *store) rewrite(next *State) error {
	doc := storeState(next)
	doc.Version, doc.Seq = storeVersion, s.seq+1
	b, err := json.Marshal(doc)
	if err != nil {
		return fmt.Errorf("encode the state: %w", err)
	}
	if err := s.replaceFile(confirmedFile, b); err != nil {
		return err
	}
	s.seq, s.base = s.seq+1, int64(len(b))
	// The log is now of older numbers, which replay passes over; it is emptied for its size alone.
	if err := s.close(); err != nil {
		return err
	}
	if err := os.Remove(s.path(logFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("empty the state log: %w", err)
	}
	s.logged = 0
	return nil
}

func (s *store) appendChange(before, next *State) error {
	c := changeBetween(before, next)
	c.Version, c.Seq = storeVersion, s.seq+1
	b, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("encode the change: %w", err)
	}
	if s.log == nil {
		f, err := os.OpenFile(s.path(logFile), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		if err != nil {
			return fmt.Errorf("open the state log: %w", err)
		}
		s.log = f
		if err := syncDir(s.dir); err != nil {
			return err
		}
	}
	b = append(b, '\n')
	if _, err := s.log.Write(b); err != nil {
		return errors.Join(fmt.Errorf("write the state log: %w", err), s.log.Truncate(s.logged))
	}
	if err := s.log.Sync(); err != nil {
		return errors.Join(fmt.Errorf("write the state log: %w", err), s.log.Truncate(s.logged))
	}
	s.seq++
	s.logged += int64(len(b))
	return nil
}

// sysctls reads the parameters we changed.
func (s *store) sysctls() (map[string]savedSysctl, error) {
	var doc struct {
		Version int                    `json:"version"`
		Saved   map[string]savedSysctl `json:"saved"`
	}
	_, err := s.read(sysctlFile, &doc)
	if errors.Is(err, fs.ErrNotExist) {
		return map[string]savedSysctl{}, nil
	}
	if err == nil && doc.Version != storeVersion {
		err = s.versionError(sysctlFile, doc.Version)
	}
	if doc.Saved == nil {
		doc.Saved = map[string]savedSysctl{}
	}
	return doc.Saved, err
}

func (s *store) saveSysctls(saved map[string]savedSysctl) error {
	return s.write(sysctlFile, struct {
		Version int                    `json:"version"`
		Saved   map[string]savedSysctl `json:"saved"`
	}{storeVersion, saved})
}

// files of the store, in the order in which they may go: the checkpoint last.
func storeFiles() []string { return []string{confirmedFile, logFile, sysctlFile, checkpointFile} }

// setAside renames every file to "damaged-<name>", in place of any set aside before; with keepSysctls all but the kernel
// parameters, which were read and are still to be put back.
func (s *store) setAside(keepSysctls bool) error {
	err := s.close()
	for _, name := range storeFiles() {
		if keepSysctls && name == sysctlFile {
			continue
		}
		if e := os.Rename(s.path(name), s.path("damaged-"+name)); e != nil && !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	s.seq, s.base, s.logged = 0, 0, 0
	return err
}

// clear removes every file of ours.
func (s *store) clear() error {
	err := s.close()
	for _, name := range storeFiles() {
		if e := os.Remove(s.path(name)); e != nil && !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	s.seq, s.base, s.logged = 0, 0, 0
	return err
}

func (s *store) read(name string, into any) (int, error) {
	f, err := os.Open(s.path(name))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxStoreBytes+1))
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", s.path(name), err)
	}
	if len(b) > maxStoreBytes {
		return 0, fmt.Errorf("%s is larger than %d bytes", s.path(name), maxStoreBytes)
	}
	if err := decodeStrict(b, into); err != nil {
		return 0, fmt.Errorf("%s is damaged (%w)", s.path(name), err)
	}
	return len(b), nil
}

// decodeStrict refuses unknown fields and anything after the one document.
func decodeStrict(b []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more than one document")
	}
	return nil
}

func (s *store) write(name string, doc any) error {
	b, err := json.Marshal(doc)
	if err != nil {
		return fmt.Errorf("encode %s: %w", name, err)
	}
	return s.replaceFile(name, b)
}

// replaceFile writes a file whole or not at all, and durably.
func (s *store) replaceFile(name string, b []byte) error {
	tmp := s.path(name) + ".tmp"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(tmp, s.path(name))
	}
	if err == nil {
		err = syncDir(s.dir)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync the state folder: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync the state folder: %w", err)
	}
	return nil
}
