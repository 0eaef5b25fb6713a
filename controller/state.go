package controller

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/apex-network/apex/controller/verify"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec/peermap"
)

// state is what a network's loop knows across restarts, in one small file beside the generations. It can be lost: git is
// verified again from the pinned root.
type state struct {
	// Frontier is the last commit that was accepted and given to the publisher.
	Frontier verify.Frontier `json:"frontier"`
	// Chain holds the signed trust roots up to that commit, the first one first.
	Chain [][]byte `json:"chain"`
	// AllowShrink are the zones whose shrinking a commit allowed, until they have published that commit or a later one.
	AllowShrink []string `json:"allowShrink"`
}

const maxStateBytes = 64 << 20

// equal reports whether writing o would change nothing.
func (s *state) equal(o *state) bool {
	return s.Frontier == o.Frontier && slices.EqualFunc(s.Chain, o.Chain, bytes.Equal) && slices.Equal(s.AllowShrink, o.AllowShrink)
}

// accepted reports whether any commit was.
func (s *state) accepted() bool { return s.Frontier.Commit != "" }

// root verifies the chain again, from the pin on.
func (s *state) root(network string, pin peermap.Digest) (*signer.Root, error) {
	var root *signer.Root
	var err error
	for i, env := range s.Chain {
		if i == 0 {
			root, err = signer.VerifyFirstRoot(env, pin, network)
		} else {
			root, err = signer.VerifyNextRoot(root, env)
		}
		if err != nil {
			return nil, err
		}
	}
	return root, nil
}

func loadState(path string) (*state, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return &state{}, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var s state
	if err := protocol.Read(f, maxStateBytes, &s); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &s, nil
}

// canonical gives s as it is written: no list is nil, and what has no order is sorted.
func (s *state) canonical() *state {
	c := *s
	c.Chain = append([][]byte{}, s.Chain...)
	c.AllowShrink = append([]string{}, s.AllowShrink...)
	slices.Sort(c.AllowShrink)
	return &c
}

func (s *state) save(path string) (err error) {
	data, err := protocol.Encode(s.canonical())
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return fmt.Errorf("keep state: %w", err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("keep state: %w", errors.Join(err, os.Remove(f.Name())))
		}
	}()
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
