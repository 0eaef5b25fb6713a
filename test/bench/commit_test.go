//go:build linux

package bench

import (
	"context"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/apex-network/apex/controller/build"
	"github.com/apex-network/apex/controller/gitsource"
	"github.com/apex-network/apex/controller/publish"
	"github.com/apex-network/apex/controller/store"
	"github.com/apex-network/apex/controller/verify"
	"github.com/apex-network/apex/signer"
)

// path is what the controller's loop does with a commit, stage by stage, in this process.
type path struct {
	b         *testing.B
	source    *gitsource.Source
	builder   *build.Builder
	publisher *publish.Publisher
	frontier  verify.Frontier
	stages    figures
	views     int
}

func newPath(b *testing.B, n *network) *path {
	b.Helper()
	dir := b.TempDir()
	source, err := gitsource.Open(filepath.Join(dir, "clone"), gitsource.Remote{URL: n.remote, Branch: "main"}, gitsource.Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := source.Close(); err != nil {
			b.Error(err)
		}
	})
	ledger, err := store.NewMemory(time.Now).Bucket(b.Context(), publish.LedgerBucket())
	if err != nil {
		b.Fatal(err)
	}
	key := []signer.PrivateKey{n.env.ControllerKey()}
	publisher, err := publish.Open(publish.Options{
		Network: networkName, Dir: filepath.Join(dir, "zones"), Keys: publish.Keys{Manifest: key, Timestamp: key}, Ledger: ledger,
		Now: time.Now, Logger: slog.New(slog.DiscardHandler),
	}, nil)
	if err != nil {
		b.Fatal(err)
	}
	return &path{
		b: b, source: source, builder: build.New(source, networkName, n.root.Pin()), publisher: publisher, stages: figures{},
	}
}

// stage runs f and notes its processor time.
func (p *path) stage(name string, f func() error) {
	p.b.Helper()
	before := ownCPU(p.b)
	if err := f(); err != nil {
		p.b.Fatalf("%s: %v", name, err)
	}
	p.stages.millis(name+"-ms", ownCPU(p.b)-before)
}

// take brings the head of the remote to a published generation.
func (p *path) take(ctx context.Context) {
	p.b.Helper()
	cpu, git, since, asOf := ownCPU(p.b), childrenCPU(p.b), time.Now(), time.Now().Truncate(time.Second)
	var head string
	p.stage("fetch", func() (err error) { head, err = p.source.Fetch(ctx); return err })
	var judged verify.Result
	p.stage("verify", func() (err error) { judged, err = p.builder.Verify(ctx, p.frontier, head); return err })
	var loaded *build.Loaded
	p.stage("load", func() (err error) { loaded, err = p.builder.Load(ctx, head, asOf); return err })
	p.stage("test", func() error { return p.builder.Test(loaded, asOf) })
	p.stage("compile+sign+publish", func() error {
		zones, stats, err := p.builder.Compile(loaded, nil, judged.Root, asOf)
		if err != nil {
			return err
		}
		p.views = stats.Views
		return p.publisher.Publish(ctx, zones, judged.Root)
	})
	p.frontier = judged.Accepted
	p.stages.millis("wall-ms", time.Since(since))
	p.stages.millis("cpu-ms", ownCPU(p.b)-cpu)
	p.stages.millis("git-cpu-ms", childrenCPU(p.b)-git)
	p.stages.add("views", float64(p.views))
}

// childrenCPU is the processor time of ended children: git, which gives the commits.
func childrenCPU(tb testing.TB) time.Duration {
	tb.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_CHILDREN, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkCommit is one commit at 10 000 nodes in 200 groups, end to end: the first one, and edits of one file.
func BenchmarkCommit(b *testing.B) {
	for _, s := range []shape{{10_000, 200, false}, {10_000, 200, true}} {
		b.Run(s.String(), func(b *testing.B) {
			n := newNetwork(b, s)
			b.Run("cold", func(b *testing.B) {
				all := figures{}
				for b.Loop() {
					p := newPath(b, n)
					p.stages = all
					p.take(b.Context())
				}
				all.report(b)
			})
			for _, e := range []edit{oneNode, policyLine, noEffect} {
				b.Run(string(e), func(b *testing.B) {
					p := newPath(b, n)
					p.take(b.Context())
					p.stages = figures{}
					for b.Loop() {
						n.push(e)
						p.take(b.Context())
					}
					p.stages.report(b)
				})
			}
		})
	}
}

// BenchmarkStart is the real controller with 10 000 nodes: from nothing, and from what it has on disk, until it serves.
func BenchmarkStart(b *testing.B) {
	binary := buildCommand(b, "apex-controller")
	n := newNetwork(b, shape{10_000, 200, false})
	b.Run("clone", func(b *testing.B) {
		m := figures{}
		for b.Loop() {
			p := newProcess(b, binary, n)
			m.seconds("ready-s", p.start())
			m.seconds("cpu-s", p.cpu())
			m.add("MB-rss", p.resident()/1e6)
			p.stop()
		}
		m.report(b)
	})
	b.Run("cache", func(b *testing.B) {
		p := newProcess(b, binary, n)
		p.start()
		m := figures{}
		for b.Loop() {
			p.stop()
			m.seconds("ready-s", p.start())
			m.seconds("cpu-s", p.cpu())
		}
		m.report(b)
	})
}
