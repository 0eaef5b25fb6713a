package verify

import (
	"container/heap"
	"context"
	"fmt"
	"slices"

	"github.com/apex-network/apex/internal/gitobject"
)

// ParentSource is implemented by sources that know parents without reading the commit each time. What it answers must
// come from commits that were hashed.
type ParentSource interface {
	Parents(ctx context.Context, id string) ([]string, error)
}

// firstParents lists the line from tip back to stop (exclusive), oldest first. With stop "" it goes to the first commit.
// Only ids are kept: a line may be long, and commits are read when they are judged.
func (s *session) firstParents(tip, stop string) (line []string, found bool, err error) {
	most := MaxHistory
	if stop != "" {
		most = MaxRange
	}
	for id := tip; id != stop; {
		if len(line) >= most {
			return nil, false, refusef(CodeTooLong, "its line is longer than %d commits without meeting the accepted one. Push a branch that continues what was accepted", most)
		}
		line = append(line, id)
		parents, err := s.graph.parents(id)
		if err != nil {
			return nil, false, err
		}
		if len(parents) == 0 {
			slices.Reverse(line)
			return line, stop == "", nil
		}
		id = parents[0]
	}
	slices.Reverse(line)
	return line, true, nil
}

// graph answers questions of ancestry exactly. A commit's generation is one more than the highest of its parents', so an
// ancestor always has a lower one; dates, which anyone can write, never enter.
type graph struct {
	s          *session
	generation map[string]int
	parentsOf  map[string][]string
}

func newGraph(s *session) graph {
	return graph{s: s, generation: map[string]int{}, parentsOf: map[string][]string{}}
}

func (g *graph) parents(id string) ([]string, error) {
	if p, ok := g.parentsOf[id]; ok {
		return p, nil
	}
	var parents []string
	if ps, ok := g.s.src.(ParentSource); ok {
		var err error
		if parents, err = ps.Parents(g.s.ctx, id); err != nil {
			return nil, err
		}
	} else {
		c, err := gitobject.ReadCommit(g.s.ctx, g.s.src, id)
		if err != nil {
			return nil, err
		}
		parents = c.Parents
	}
	if len(g.parentsOf) >= MaxHistory {
		return nil, fmt.Errorf("more than %d commits of history: %w", MaxHistory, gitobject.ErrTooLarge)
	}
	g.parentsOf[id] = parents
	return parents, nil
}

// gen computes a generation, and those of all ancestors, without recursion.
func (g *graph) gen(id string) (int, error) {
	stack := []string{id}
	for len(stack) > 0 {
		top := stack[len(stack)-1]
		if _, ok := g.generation[top]; ok {
			stack = stack[:len(stack)-1]
			continue
		}
		parents, err := g.parents(top)
		if err != nil {
			return 0, err
		}
		highest, ready := 0, true
		for _, p := range parents {
			n, ok := g.generation[p]
			if !ok {
				stack, ready = append(stack, p), false
			}
			highest = max(highest, n)
		}
		if ready {
			g.generation[top] = highest + 1
			stack = stack[:len(stack)-1]
		}
	}
	return g.generation[id], nil
}

// Sides of a comparison.
const (
	sideA = 1 << iota
	sideB
	stale // known to be an ancestor of a common commit
)

// compare walks back from a and b together. onlyB are the commits reachable from b but not from a, ancestors first;
// bases are the best common ancestors.
func (g *graph) compare(a, b string) (onlyB, bases []string, err error) {
	marks := map[string]int{}
	queue := &byGeneration{}
	live := 0 // queued commits that are not stale
	push := func(id string, mark int) error {
		old := marks[id]
		if old|mark == old {
			return nil
		}
		marks[id] = old | mark
		wasLive, isLive := old != 0 && old&stale == 0, (old|mark)&stale == 0
		switch {
		case wasLive && !isLive:
			live--
		case !wasLive && isLive:
			live++
		}
		n, err := g.gen(id)
		if err == nil && old == 0 {
			heap.Push(queue, queued{id, n})
		}
		return err
	}
	if err := push(a, sideA); err != nil {
		return nil, nil, err
	}
	if err := push(b, sideB); err != nil {
		return nil, nil, err
	}
	// A commit is popped after all its descendants, for they have higher generations: its marks are final then.
	var order []string
	for live > 0 {
		top := heap.Pop(queue).(queued)
		order = append(order, top.id)
		mark := marks[top.id]
		if mark&stale == 0 {
			live--
		}
		if mark == sideA|sideB {
			bases = append(bases, top.id)
			mark |= stale
		}
		parents, err := g.parents(top.id)
		if err != nil {
			return nil, nil, err
		}
		for _, p := range parents {
			if err := push(p, mark); err != nil {
				return nil, nil, err
			}
		}
	}
	for i := len(order) - 1; i >= 0; i-- {
		if marks[order[i]] == sideB {
			onlyB = append(onlyB, order[i])
		}
	}
	return onlyB, bases, nil
}

type queued struct {
	id  string
	gen int
}

// byGeneration is a heap with the highest generation on top; ties by id, so that the order is the same every time.
type byGeneration struct{ items []queued }

func (q *byGeneration) Len() int { return len(q.items) }
func (q *byGeneration) Less(i, j int) bool {
	a, b := q.items[i], q.items[j]
	return a.gen > b.gen || a.gen == b.gen && a.id < b.id
}
func (q *byGeneration) Swap(i, j int) { q.items[i], q.items[j] = q.items[j], q.items[i] }
func (q *byGeneration) Push(x any)    { q.items = append(q.items, x.(queued)) }
func (q *byGeneration) Pop() any {
	last := q.items[len(q.items)-1]
	q.items = q.items[:len(q.items)-1]
	return last
}

// isAncestor reports whether old is reachable from id.
func (s *session) isAncestor(old, id string) (bool, error) {
	_, bases, err := s.graph.compare(id, old)
	if err != nil {
		return false, err
	}
	for _, b := range bases {
		if b == old {
			return true, nil
		}
	}
	return false, nil
}
