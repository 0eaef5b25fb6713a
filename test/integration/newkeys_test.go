//go:build linux

package integration

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/apex-network/apex/agent/status"
	"github.com/apex-network/apex/internal/fleet"
	"github.com/apex-network/apex/internal/lab"
	"github.com/apex-network/apex/spec"
)

// TestNewKeys gives an enrolled host new keys while a TCP stream goes through it, which survives. The old keys, which a
// thief has copied, are worth nothing afterwards.
func TestNewKeys(t *testing.T) {
	t.Parallel()
	e := newEnrolment(t, fleet.Options{})
	issuer := e.simulate("corp", spec.TokenBindingRequired)
	e.office("{name: staff, issuer: corp, match: {sub: ada}}")
	e.allow(toServer("any: true", "tcp/443"))
	laptop := e.joiner("laptop", nil)
	e.begin()
	e.must(e.withToken(laptop, e.mint(issuer, laptop, "ada")))
	e.reaches(laptop.Host, serverAddr, tcp(443), true)
	old := must(laptop.Enrolment(e.ctx, "office"))(t)
	copied := filepath.Join(e.Lab.Dir(), "copied")
	e.must(os.CopyFS(copied, os.DirFS(laptop.StateDir)))

	s := e.talk(laptop)
	s.flows(e, "before")
	began := time.Now()
	_, err := e.Apex(e.ctx, laptop.Host, "node", "rotate")
	e.must(err)
	t.Logf("measured: apex node rotate took %s", time.Since(began).Round(time.Millisecond))
	s.flows(e, "after")
	now := must(laptop.Enrolment(e.ctx, "office"))(t)
	if now.PublicKey == old.PublicKey || now.IdentityKey == old.IdentityKey {
		t.Errorf("a key is as it was: %s %s", now.PublicKey, now.IdentityKey)
	}
	if now.Binding.Addresses[0] != old.Binding.Addresses[0] {
		t.Errorf("the address changed from %s to %s", old.Binding.Addresses[0], now.Binding.Addresses[0])
	}
	e.still(laptop.Host, serverAddr, tcp(443), true)
	e.must(e.server.Agent.Await(e.ctx, "the server has let go of the old key", func(ctx context.Context) error {
		z, err := e.server.Zone(ctx, "office")
		if err != nil {
			return err
		}
		for _, p := range z.Peers {
			if p.PublicKey == base64.StdEncoding.EncodeToString(old.PublicKey[:]) {
				return errors.New("it is still there")
			}
		}
		return nil
	}))

	thief := e.joiner("thief", nil)
	thief.Spec.Name = "laptop"
	e.must(os.RemoveAll(thief.StateDir))
	e.must(os.CopyFS(thief.StateDir, os.DirFS(copied)))
	e.must(filepath.WalkDir(thief.StateDir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			err = os.Chmod(path, 0o600)
		}
		return err
	}))
	e.must(thief.Start(e.ctx))
	c, err := thief.AwaitCondition(e.ctx, "office", status.NotMember, true)
	e.must(err)
	t.Logf("the thief with the old keys hears: %s: %s", c.Reason, c.Message)
	e.still(thief.Host, serverAddr, tcp(443), false)
	s.flows(e, "with a thief about")
}

// talk is a TCP connection to the server's echo that is never idle for long.
type talk struct {
	count atomic.Int64
	err   atomic.Pointer[error]
}

func (e *enrolment) talk(from *fleet.Node) *talk {
	e.t.Helper()
	conn, err := from.Host.DialContext(e.ctx, "tcp", net.JoinHostPort(serverAddr, "443"))
	e.must(err)
	s := &talk{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		word := []byte("0123456789abcdef")
		for {
			_, err := conn.Write(word)
			if err == nil {
				_, err = io.ReadFull(conn, word)
			}
			if err != nil {
				s.err.Store(&err)
				return
			}
			s.count.Add(1)
		}
	}()
	e.t.Cleanup(func() {
		conn.Close()
		<-done
	})
	return s
}

// flows waits until the stream has moved on.
func (s *talk) flows(e *enrolment, when string) {
	e.t.Helper()
	from := s.count.Load()
	e.must(waitFor(e.ctx, "the stream flows "+when, func() error {
		if err := s.err.Load(); err != nil {
			return fmt.Errorf("it broke: %w", *err)
		}
		if s.count.Load() < from+10 {
			return fmt.Errorf("%d round trips, at first %d", s.count.Load(), from)
		}
		return nil
	}))
}

func waitFor(ctx context.Context, what string, cond func() error) error {
	return lab.Await(ctx, what, func(context.Context) error { return cond() })
}
