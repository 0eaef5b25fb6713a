package verify

import (
	"context"
	"fmt"

	"github.com/apex-network/apex/internal/gitobject"
	"github.com/apex-network/apex/internal/trustdir"
	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec/peermap"
)

// session holds what one call of Range has read.
type session struct {
	ctx   context.Context
	src   gitobject.Objects
	trust Trust
	read  map[string]*gitobject.Commit
	// folders holds trust folders by tree id, trusts by commit id.
	folders map[string]*trustState
	trusts  map[string]*trustState
	longest *trustdir.Dir // the longest chain verified so far
	zones   map[zoneKey]zoneAnswer
	graph   graph
}

func newSession(ctx context.Context, src gitobject.Objects, trust Trust) *session {
	if trust.Zones == nil {
		trust.Zones = SpecZones
	}
	s := &session{ctx: ctx, src: src, trust: trust, read: map[string]*gitobject.Commit{},
		folders: map[string]*trustState{}, trusts: map[string]*trustState{}, zones: map[zoneKey]zoneAnswer{}}
	s.graph = newGraph(s)
	return s
}

// maxRead bounds the commits held at a time: each is needed as itself, and again as a parent soon after.
const maxRead = 2048

// commit reads a commit.
func (s *session) commit(id string) (*gitobject.Commit, error) {
	if c := s.read[id]; c != nil {
		return c, nil
	}
	c, err := gitobject.ReadCommit(s.ctx, s.src, id)
	if err != nil {
		return nil, err
	}
	if len(s.read) >= maxRead {
		clear(s.read)
	}
	s.read[id] = c
	return c, nil
}

// trustState is the trust folder of a commit: its verified chain, or why it has none.
type trustState struct {
	dir *trustdir.Dir
	err error
	// pinned says that roots/1.json has the pinned digest, whatever else is wrong.
	pinned bool
}

// trustAt loads the trust folder of a commit. What is wrong with the folder is in the state; the error is a failure to
// read.
func (s *session) trustAt(c *gitobject.Commit) (*trustState, error) {
	if state := s.trusts[c.ID]; state != nil {
		return state, nil
	}
	folder, err := gitobject.Find(s.ctx, s.src, c.Tree, trustdir.Folder)
	if err != nil {
		return nil, fmt.Errorf("commit %s: %w", c.ID, err)
	}
	id := ""
	if folder != nil && folder.IsFolder() {
		id = folder.ID
	}
	state := s.folders[id]
	if state == nil {
		if state, err = s.loadTrust(id); err != nil {
			return nil, fmt.Errorf("commit %s: %w", c.ID, err)
		}
		s.folders[id] = state
	}
	s.trusts[c.ID] = state
	return state, nil
}

func (s *session) loadTrust(tree string) (*trustState, error) {
	if tree == "" {
		return &trustState{err: trustdir.ErrNoRoot}, nil
	}
	files := map[string][]byte{}
	err := gitobject.Walk(s.ctx, s.src, tree, func(f gitobject.File) error {
		path := trustdir.Folder + "/" + f.Path
		if _, envelope := trustdir.EnvelopeVersion(path); !envelope && path != trustdir.RootPath {
			return nil
		}
		data, err := gitobject.Read(s.ctx, s.src, gitobject.KindBlob, f.ID)
		files[path] = data
		return err
	})
	if gitobject.IsHostile(err) {
		return &trustState{err: err}, nil
	}
	if err != nil {
		return nil, err
	}
	lookup := func(path string) ([]byte, bool) {
		data, ok := files[path]
		return data, ok
	}
	state := &trustState{}
	if first, err := signer.ParseEnvelope(files[trustdir.EnvelopePath(1)], peermap.MaxRootBytes); err == nil {
		state.pinned = peermap.DigestOf(first.Payload) == s.trust.Pin
	}
	state.dir, state.err = trustdir.ReadAfter(s.longest, lookup, s.trust.Network, s.trust.Pin)
	if state.err == nil && (s.longest == nil || len(state.dir.Chain) > len(s.longest.Chain)) {
		s.longest = state.dir
	}
	return state, nil
}

// holdsPin reports whether a commit holds the pinned first trust root. Commits from before the adoption may be odd in any
// way; those hold nothing.
func (s *session) holdsPin(id string) (bool, error) {
	c, err := s.commit(id)
	if err != nil {
		return false, err
	}
	state, err := s.trustAt(c)
	if gitobject.IsHostile(err) {
		return false, nil
	}
	return err == nil && state.pinned, err
}

// extends reports whether the chain of next begins with the chain of prior.
func extends(next, prior *trustdir.Dir) bool {
	if len(next.Chain) < len(prior.Chain) {
		return false
	}
	for i, env := range prior.Chain {
		if string(next.Chain[i]) != string(env) {
			return false
		}
	}
	return true
}
