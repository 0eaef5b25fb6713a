package follow

import (
	"context"
	"fmt"

	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/spec/peermap"
)

// artefacts brings everything that a verified view refers to into the cache: from the update frame where that leads to
// the right digest, else by a fetch. Nothing is stored that the view does not refer to. Blocks of base, a map that was
// assembled from this cache (or nil), are only looked for: their bytes were checked then.
func (f *Follower) artefacts(ctx context.Context, view []byte, carried []protocol.Artefact, base *peermap.Map) error {
	v, err := peermap.DecodeView(view)
	if err != nil {
		return err
	}
	frame := make(map[peermap.Digest]protocol.Artefact, len(carried))
	for _, a := range carried {
		frame[a.Digest] = a
	}
	encoded, err := f.artefact(ctx, v.Class, peermap.MaxClassBytes, frame)
	if err != nil {
		return fmt.Errorf("class of the view: %w", err)
	}
	class, err := peermap.DecodeClass(encoded)
	if err != nil {
		return fmt.Errorf("class %s: %w", v.Class, err)
	}
	blocks := class.Blocks()
	if limit := peermap.MaxZonePeers; len(blocks) > limit {
		return fmt.Errorf("class %s: %d blocks, limit %d: %w", v.Class, len(blocks), limit, peermap.ErrTooLarge)
	}
	checked := map[peermap.Digest]bool{}
	if base != nil {
		for _, digest := range base.Class.Blocks() {
			checked[digest] = true
		}
	}
	for _, digest := range blocks {
		if checked[digest] && f.opt.Cache.Has(digest) {
			continue
		}
		if _, err := f.artefact(ctx, digest, peermap.MaxBlockBytes, frame); err != nil {
			return fmt.Errorf("block of the view: %w", err)
		}
	}
	return f.store(view)
}

// artefact gives the bytes of one class or block and leaves them in the cache.
func (f *Follower) artefact(ctx context.Context, digest peermap.Digest, limit int, frame map[peermap.Digest]protocol.Artefact) ([]byte, error) {
	if held, ok := f.opt.Cache.Artefact(digest, limit); ok {
		return held, nil
	}
	plain, ok := f.open(digest, limit, frame)
	if !ok {
		f.full.Add(1)
		var err error
		if plain, err = f.opt.Source.Artefact(ctx, digest, limit); err != nil {
			return nil, err
		}
		if got := peermap.DigestOf(plain); got != digest {
			return nil, fmt.Errorf("%w: asked for %s, got %s", peermap.ErrDigest, digest, got)
		}
	}
	return plain, f.store(plain)
}

// open gives an artefact of the frame, if it is there and leads to its digest.
func (f *Follower) open(digest peermap.Digest, limit int, frame map[peermap.Digest]protocol.Artefact) ([]byte, bool) {
	a, ok := frame[digest]
	if !ok {
		return nil, false
	}
	plain, err := a.Open(limit, func(d peermap.Digest) ([]byte, bool) { return f.opt.Cache.Artefact(d, limit) })
	if err != nil {
		f.opt.Logger.Debug("an artefact in the update frame is of no use", "digest", digest, "error", err)
		return nil, false
	}
	return plain, true
}

func (f *Follower) store(artefact []byte) error {
	if err := f.opt.Cache.PutArtefact(artefact); err != nil {
		return fmt.Errorf("%w: %w", ErrStore, err)
	}
	return nil
}
