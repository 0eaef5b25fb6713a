package gitsource

import (
	"context"
	"sync"

	"github.com/apex-network/apex/internal/gitobject"
)

// maxCachedParents bounds parentCache, at about 200 bytes an entry.
const maxCachedParents = 200_000

// parentCache remembers parents by commit, so that questions of ancestry read each commit once in a process. What it
// holds comes from hashed commits and can therefore never go stale.
type parentCache struct {
	mu      sync.Mutex
	parents map[string][]string
}

func (p *parentCache) get(ctx context.Context, src gitobject.Objects, id string) ([]string, error) {
	p.mu.Lock()
	known, ok := p.parents[id]
	p.mu.Unlock()
	if ok {
		return known, nil
	}
	c, err := gitobject.ReadCommit(ctx, src, id)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.parents == nil || len(p.parents) >= maxCachedParents {
		p.parents = map[string][]string{}
	}
	p.parents[id] = c.Parents
	return c.Parents, nil
}

// Parents gives the parents of a commit, from memory if it was asked before (see verify.ParentSource).
func (s *Source) Parents(ctx context.Context, commit string) ([]string, error) {
	return s.parents.get(ctx, s, commit)
}

// Parents gives the parents of a commit, from memory if it was asked before (see verify.ParentSource).
func (l *Local) Parents(ctx context.Context, commit string) ([]string, error) {
	return l.parents.get(ctx, l, commit)
}
