// Package keys holds the private keys of a host: its identity key and the WireGuard key of each zone, and beside them,
// while a rotation is under way, the keys that follow.
//
// Promises: whatever the moment of a crash, the keys in force, the next keys, or both are on disk; a key that is in force
// is given up only when every zone of the host that uses it is in force with the next one; and then it is gone from disk and
// memory.
//
//	                 Begin                        every zone that is in use runs with the next keys
//	one set ────────────────────▶ two sets ────────────────────────────────────────────▶ one set (the next)
//	             (files *.next.key)    │  ▲                   InForce, Idle
//	                                   └──┘ restart, Begin again
//
// On disk the steps are, and a crash after each is taken up:
//
//	wireguard.next.key of every zone made ─▶ identity.next.key made           Begin makes what is missing
//	identity.next.key is renamed to identity.last.key ─▶ the wireguard.next.key files take their places
//	  ─▶ identity.last.key takes its place                                     Open does the rest where it stands
package keys

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/apex-network/apex/internal/keyfile"
	"github.com/apex-network/apex/reconciler"
	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec/peermap"
)

// Pair is what a host has in one zone. It never prints itself: neither half does.
type Pair struct {
	WireGuard reconciler.PrivateKey
	Identity  signer.PrivateKey
}

// Public gives the public halves.
func (p Pair) Public() (wireguard, identity peermap.Key) {
	public, err := p.WireGuard.Public()
	if err != nil {
		panic("keys: X25519 takes any 32 bytes: " + err.Error())
	}
	return peermap.Key(public), p.Identity.Raw()
}

// set is one generation of keys. Zones share a WireGuard key when they share its file.
type set struct {
	identity  signer.PrivateKey
	wireguard map[string]reconciler.PrivateKey // by zone
}

// Files says where the keys are.
type Files struct {
	Identity string
	// WireGuard is the file of each zone.
	WireGuard map[string]string
}

// Ring holds the keys of a host. Its methods may be called from several goroutines.
type Ring struct {
	files *Files // nil: in memory only
	rand  io.Reader

	mu      sync.Mutex
	current set
	next    *set
	inForce map[string]bool // zones that run with the next keys
	idle    map[string]bool // zones that use none
}

// InMemory makes a Ring without files: keys that a rotation makes are gone with the process.
func InMemory(identity signer.PrivateKey, wireguard map[string]reconciler.PrivateKey, rand io.Reader) *Ring {
	return &Ring{rand: rand, current: set{identity, maps.Clone(wireguard)}, inForce: map[string]bool{}, idle: map[string]bool{}}
}

// Open loads the keys, finishes the renaming of files that was interrupted, and takes up a rotation under way. With create it makes
// what is missing, for a host that will enrol; without, a missing file is an error (fs.ErrNotExist).
func Open(files Files, create bool, rand io.Reader) (*Ring, error) {
	r := &Ring{files: &files, rand: rand, inForce: map[string]bool{}, idle: map[string]bool{}}
	if exists(files.last()) {
		if err := r.rename(); err != nil {
			return nil, err
		}
	}
	loadIdentity, loadWireGuard := keyfile.LoadEd25519, keyfile.LoadWireGuard
	if create {
		loadIdentity = func(path string) (signer.PrivateKey, error) { return keyfile.EnsureEd25519(path, rand) }
		loadWireGuard = func(path string) (keyfile.WireGuardKey, error) { return keyfile.EnsureWireGuard(path, rand) }
	}
	var err error
	if r.current, err = read(files, loadIdentity, loadWireGuard); err != nil {
		return nil, err
	}
	if exists(keyfile.NextPath(files.Identity)) {
		next, err := r.readNext()
		if err != nil {
			return nil, err
		}
		r.next = &next
	}
	return r, nil
}

// paths lists the WireGuard files, each once.
func (f Files) paths() []string {
	paths := slices.Sorted(maps.Values(f.WireGuard))
	return slices.Compact(paths)
}

// last is where the next identity key stands while the files are renamed: it says that the renaming has begun.
func (f Files) last() string {
	ext := filepath.Ext(f.Identity)
	return strings.TrimSuffix(f.Identity, ext) + ".last" + ext
}

// rename puts every next file into its place, the identity key last. What is in place already is passed over.
func (r *Ring) rename() error {
	if next := keyfile.NextPath(r.files.Identity); exists(next) {
		if err := keyfile.Move(next, r.files.last()); err != nil {
			return err
		}
	}
	for _, path := range r.files.paths() {
		if err := keyfile.Move(keyfile.NextPath(path), path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return keyfile.Move(r.files.last(), r.files.Identity)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func read(
	files Files, identity func(string) (signer.PrivateKey, error), wireguard func(string) (keyfile.WireGuardKey, error),
) (set, error) {
	out := set{wireguard: map[string]reconciler.PrivateKey{}}
	for zone, path := range files.WireGuard {
		key, err := wireguard(path)
		if err != nil {
			return set{}, err
		}
		out.wireguard[zone] = reconciler.PrivateKey(key)
	}
	var err error
	out.identity, err = identity(files.Identity) // last: see the package comment
	return out, err
}

// readNext makes what is missing of the next keys, the identity key last: with it the set is whole.
func (r *Ring) readNext() (set, error) {
	next := Files{Identity: keyfile.NextPath(r.files.Identity), WireGuard: map[string]string{}}
	for zone, path := range r.files.WireGuard {
		next.WireGuard[zone] = keyfile.NextPath(path)
	}
	return read(next,
		func(path string) (signer.PrivateKey, error) { return keyfile.EnsureEd25519(path, r.rand) },
		func(path string) (keyfile.WireGuardKey, error) { return keyfile.EnsureWireGuard(path, r.rand) })
}

// Zones lists the zones, sorted.
func (r *Ring) Zones() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Sorted(maps.Keys(r.current.wireguard))
}

// Current is the pair in force in a zone until a rotation is over.
func (r *Ring) Current(zone string) Pair {
	r.mu.Lock()
	defer r.mu.Unlock()
	return Pair{r.current.wireguard[zone], r.current.identity}
}

// Next is the pair that follows; false unless a rotation is under way.
func (r *Ring) Next(zone string) (Pair, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.next == nil {
		return Pair{}, false
	}
	return Pair{r.next.wireguard[zone], r.next.identity}, true
}

// Find gives the pair of a zone that has this WireGuard public key.
func (r *Ring) Find(zone string, public peermap.Key) (Pair, bool) {
	pairs := []Pair{r.Current(zone)}
	if next, ok := r.Next(zone); ok {
		pairs = append(pairs, next)
	}
	for _, pair := range pairs {
		if own, _ := pair.Public(); !pair.WireGuard.IsZero() && own == public {
			return pair, true
		}
	}
	return Pair{}, false
}

// Begin makes the next keys, or goes on with those that a rotation under way has. If no zone uses any, they are in force at once.
func (r *Ring) Begin() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.next != nil {
		return nil
	}
	next, err := r.make()
	if err != nil {
		return fmt.Errorf("make the next keys: %w", err)
	}
	r.next = &next
	_, err = r.settle()
	return err
}

func (r *Ring) make() (set, error) {
	if r.files != nil {
		return r.readNext()
	}
	identity, err := signer.GenerateKey(r.rand)
	out := set{identity, map[string]reconciler.PrivateKey{}}
	for zone := range r.current.wireguard {
		var key reconciler.PrivateKey
		if _, readErr := io.ReadFull(r.rand, key[:]); readErr != nil {
			return set{}, readErr
		}
		key[0] &= 248 // RFC 7748, section 5
		key[31] = key[31]&127 | 64
		out.wireguard[zone] = key
	}
	return out, err
}

// Idle notes whether a zone uses no keys, since nobody has joined it or it was left: a rotation does not wait for such a zone.
// promoted is that of InForce.
func (r *Ring) Idle(zone string, idle bool) (promoted bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.idle[zone] = idle
	return r.settle()
}

// InForce notes that a zone's host runs with the WireGuard key public, confirmed. Once every zone that is in use runs with the next
// keys, the old ones are given up: promoted is true then, and only then.
func (r *Ring) InForce(zone string, public peermap.Key) (promoted bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.next == nil {
		return false, nil
	}
	own, _ := Pair{r.next.wireguard[zone], r.next.identity}.Public()
	r.inForce[zone] = own == public
	return r.settle()
}

// settle gives up the old keys if nothing uses them any more. mu is held.
func (r *Ring) settle() (promoted bool, err error) {
	if r.next == nil {
		return false, nil
	}
	for zone := range r.current.wireguard {
		if !r.inForce[zone] && !r.idle[zone] {
			return false, nil
		}
	}
	if r.files != nil {
		if err := r.rename(); err != nil {
			return false, err
		}
	}
	r.current, r.next, r.inForce = *r.next, nil, map[string]bool{}
	return true, nil
}
