package gitsource

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/sideband"
	"github.com/go-git/go-git/v5/plumbing/transport"

	"github.com/apex-network/apex/internal/gitobject"
)

// pull brings st up to the remote's branch and returns the branch's tip.
//
//	advertised refs ─▶ tip unchanged? done
//	                └▶ request pack (haves: our branch) ─▶ spool ─▶ check sizes ─▶ index into the store ─▶ move the branch
func (s *Source) pull(ctx context.Context, st *store) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, s.limits.FetchTimeout)
	defer cancel()
	link, err := s.remote.dial(ctx, s.limits)
	if err != nil {
		return "", s.explain(ctx, err)
	}
	defer link.Close()
	refs, err := link.AdvertisedReferencesContext(ctx)
	if err != nil {
		return "", s.explain(ctx, err)
	}
	tip, ok := refs.References[st.branch.String()]
	if !ok {
		return "", fmt.Errorf("%s has no branch %q (it has: %s): %w", s.remote.identityURL(), st.branch.Short(), branches(refs), ErrBranch)
	}
	known := st.head()
	if tip.String() == known {
		return known, nil
	}
	if err := s.receive(ctx, link, st, refs, tip, known); err != nil {
		return "", s.explain(ctx, err)
	}
	if _, err := gitobject.ReadCommit(ctx, st, tip.String()); err != nil {
		return "", fmt.Errorf("branch %q of %s: %w", st.branch.Short(), s.remote.identityURL(), err)
	}
	if err := st.setHead(tip); err != nil {
		return "", fmt.Errorf("clone: %w", err)
	}
	return tip.String(), nil
}

func branches(refs *packp.AdvRefs) string {
	var names []string
	for name := range refs.References {
		if short, ok := strings.CutPrefix(name, "refs/heads/"); ok {
			names = append(names, fmt.Sprintf("%.60q", short))
		}
	}
	sort.Strings(names)
	if len(names) > 10 {
		names = append(names[:10], "…")
	}
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// receive requests and stores the pack that leads to tip.
func (s *Source) receive(ctx context.Context, link transport.UploadPackSession, st *store, refs *packp.AdvRefs, tip plumbing.Hash, known string) error {
	request := packp.NewUploadPackRequestFromCapabilities(refs.Capabilities)
	request.Wants = []plumbing.Hash{tip}
	request.Haves = haves(ctx, st, known)
	request.Capabilities.Delete(capability.ThinPack) // a pack must stand on its own
	if refs.Capabilities.Supports(capability.NoProgress) {
		if err := request.Capabilities.Set(capability.NoProgress); err != nil {
			return err
		}
	}
	if request.IsEmpty() {
		return nil // the branch went back to a commit that is here already
	}
	response, err := link.UploadPack(ctx, request)
	if err != nil {
		return err
	}
	defer response.Close()
	spool, err := os.CreateTemp(st.dir, "spool-")
	if err != nil {
		return fmt.Errorf("clone: %w", err)
	}
	defer func() {
		spool.Close()
		os.Remove(spool.Name())
	}()
	room := max(0, min(s.limits.FetchBytes, s.limits.StoreBytes-st.size()))
	if err := s.spool(spool, demux(response, request), room); err != nil {
		return err
	}
	s.report(Progress{Phase: PhaseCheck})
	if err := checkPack(ctx, spool, s.limits); err != nil {
		return err
	}
	s.report(Progress{Phase: PhaseIndex})
	if _, err := spool.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if err := st.addPack(spool); err != nil {
		return fmt.Errorf("pack refused: %w", err)
	}
	return nil
}

// haves names commits of ours for the remote to build on: the branch's tip, and ancestors at doubling distance, which
// help if the branch was rewritten.
func haves(ctx context.Context, st *store, head string) []plumbing.Hash {
	var list []plumbing.Hash
	next := 0
	for distance := 0; head != "" && distance <= 1024; distance++ {
		c, err := gitobject.ReadCommit(ctx, st, head)
		if err != nil {
			return list // what cannot be read is not offered
		}
		if distance == next {
			list = append(list, plumbing.NewHash(head))
			next = max(1, next*2)
		}
		head = c.FirstParent()
	}
	return list
}

func demux(response io.Reader, request *packp.UploadPackRequest) io.Reader {
	switch {
	case request.Capabilities.Supports(capability.Sideband64k):
		return sideband.NewDemuxer(sideband.Sideband64k, response)
	case request.Capabilities.Supports(capability.Sideband):
		return sideband.NewDemuxer(sideband.Sideband, response)
	}
	return response
}

// spool copies the pack to disk, at most limit bytes of it.
func (s *Source) spool(to io.Writer, from io.Reader, limit int64) error {
	var total int64
	var shown time.Time
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if total += int64(n); total > limit {
			return fmt.Errorf("pack is larger than the %d bytes left for it: raise the limit if the repository is meant to be this large: %w", limit, ErrLimit)
		}
		if _, werr := to.Write(buf[:n]); werr != nil {
			return fmt.Errorf("clone: %w", werr)
		}
		if now := time.Now(); now.Sub(shown) > 200*time.Millisecond || err != nil {
			shown = now
			s.report(Progress{Phase: PhaseReceive, Bytes: total})
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// checkPack reads a pack once in constant memory and refuses objects over the limits, before anything is built in
// memory from them. A delta counts with the size of what it makes.
func checkPack(ctx context.Context, pack io.ReadSeeker, limits Limits) error {
	if _, err := pack.Seek(0, io.SeekStart); err != nil {
		return err
	}
	scanner := packfile.NewScanner(pack)
	_, count, err := scanner.Header()
	if err != nil {
		return fmt.Errorf("pack refused: %w", err)
	}
	if count > limits.Objects {
		return fmt.Errorf("pack has %d objects, at most %d are taken: %w", count, limits.Objects, ErrLimit)
	}
	var total int64
	for i := range count {
		if i%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		header, err := scanner.NextObjectHeader()
		if err != nil {
			return fmt.Errorf("pack refused: %w", err)
		}
		size := header.Length
		if size < 0 || size > limits.ObjectBytes {
			return fmt.Errorf("an object of %d bytes, at most %d are taken: %w", size, limits.ObjectBytes, ErrLimit)
		}
		var start deltaStart
		if _, _, err := scanner.NextObject(&start); err != nil {
			return fmt.Errorf("pack refused: %w", err)
		}
		if header.Type.IsDelta() {
			if size = start.targetSize(); size < 0 || size > limits.ObjectBytes {
				return fmt.Errorf("an object of %d bytes, at most %d are taken: %w", size, limits.ObjectBytes, ErrLimit)
			}
		}
		if total += size; total > limits.InflatedBytes {
			return fmt.Errorf("objects of more than %d bytes together: %w", limits.InflatedBytes, ErrLimit)
		}
	}
	return nil
}

// deltaStart keeps the first bytes of a delta, which hold two varints: the size of its base and of its result.
type deltaStart struct {
	b [20]byte
	n int
}

func (d *deltaStart) Write(p []byte) (int, error) {
	d.n += copy(d.b[d.n:], p)
	return len(p), nil
}

func (d *deltaStart) targetSize() int64 {
	rest := d.b[:d.n]
	var size int64
	for range 2 {
		size = 0
		for shift := 0; ; shift += 7 {
			if len(rest) == 0 || shift > 56 {
				return -1
			}
			c := rest[0]
			rest = rest[1:]
			size |= int64(c&0x7f) << shift
			if c&0x80 == 0 {
				break
			}
		}
	}
	return size
}

// explain names the remote and says what to do.
func (s *Source) explain(ctx context.Context, err error) error {
	url := s.remote.identityURL()
	switch {
	case errors.Is(err, ErrLimit), errors.Is(err, ErrRemote):
		return fmt.Errorf("%s: %w", url, err)
	case errors.Is(context.Cause(ctx), context.Canceled) && ctx.Err() != nil:
		return fmt.Errorf("%s: %w", url, context.Canceled)
	case ctx.Err() != nil:
		return fmt.Errorf("%s: no complete answer in time; check that the remote is up and reachable: %w: %w", url, ErrRemote, ctx.Err())
	case errors.Is(err, transport.ErrRepositoryNotFound):
		return fmt.Errorf("%s: no repository there, or it may not be read; check the URL and the credentials: %w", url, ErrRemote)
	case errors.Is(err, transport.ErrEmptyRemoteRepository):
		return fmt.Errorf("%s: the repository is empty; push a first commit: %w", url, ErrBranch)
	case errors.Is(err, transport.ErrAuthenticationRequired), errors.Is(err, transport.ErrAuthorizationFailed):
		return fmt.Errorf("%s: the remote refuses the credentials: %w: %w", url, ErrRemote, err)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%s: %w: %w", url, ErrRemote, err)
	}
	return fmt.Errorf("%s: %w: %w", url, ErrRemote, err)
}

// absolute makes a local path independent of the working directory.
func absolute(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("repository path %q: %w", path, err)
	}
	return abs, nil
}
