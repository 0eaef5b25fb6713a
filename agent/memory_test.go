package agent

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"

	"github.com/apex-network/apex/agent/agenttest"
	"github.com/apex-network/apex/agent/status"
	"github.com/apex-network/apex/reconciler"
	"github.com/apex-network/apex/signer"
)

// still is an engine without a host: it keeps the state, as the real one does, and nothing else. What the agent needs
// without the data plane is measured with it.
type still struct{ state reconciler.State }

func (s *still) Recover(context.Context) (reconciler.Report, error) { return reconciler.Report{}, nil }
func (s *still) Apply(_ context.Context, state reconciler.State, _ reconciler.Probe) (reconciler.Report, error) {
	s.state = state
	return reconciler.Report{ID: state.ID, Total: 1}, nil
}
func (s *still) Watch(ctx context.Context, _ func(reconciler.Report, error)) error {
	<-ctx.Done()
	return nil
}
func (s *still) Down(context.Context) (reconciler.Report, error) { return reconciler.Report{}, nil }
func (s *still) Confirmed() (reconciler.State, bool)             { return s.state, s.state.ID != "" }
func (s *still) Peers(context.Context) ([]reconciler.PeerStatus, error) {
	return nil, nil
}
func (s *still) Counters(context.Context) ([]reconciler.RuleCounter, error) { return nil, nil }
func (s *still) Stats() reconciler.Stats                                    { return reconciler.Stats{} }

const memoryEnv = "APEX_MEMORY_CHILD"

// TestMemoryChild is the process that BenchmarkMemory measures; started by anything else it has nothing to do.
func TestMemoryChild(t *testing.T) {
	if spec := os.Getenv(memoryEnv); spec != "" {
		memoryChild(t, strings.Split(spec, " "))
	}
}

// BenchmarkMemory measures an agent process of its own, with a thousand and ten thousand peers, after a cold start over
// HTTP and after a change: what the process has for itself (RssAnon), which the agent's code decides. The rest of its
// resident memory is pages of the program file, here the test's and not the command's.
//
// The design asks for 15 MB resident in all at a thousand peers, and that is not met: the real command was measured at
// 16 to 17 MB, 1 to 2 MB too many: 4 to 5 MB of its own, the rest pages of the 12.7 MB program. No one thing it links is to
// blame; OpenPGP, which package signer reads for the keys of maintainers and no agent needs, is 0.24 MB of it. At ten
// thousand peers (25 MB) the kept map, from which the next one is made, costs about 2 MB.
func BenchmarkMemory(b *testing.B) {
	for _, peers := range []int{1_000, 10_000} {
		b.Run(fmt.Sprint(peers), func(b *testing.B) {
			for range b.N {
				cold, warm := measureMemory(b, peers)
				b.ReportMetric(cold, "MB-cold")
				b.ReportMetric(warm, "MB-changed")
			}
		})
	}
}

// measureMemory gives the child's private memory, in MB, after its first generation and after its second.
func measureMemory(b *testing.B, peers int) (cold, warm float64) {
	w := newWorld(b)
	for i := range peers - 2 {
		w.nodes = append(w.nodes, w.network.NewNode(fmt.Sprintf("node-%05d", i), 10+i))
		w.nodes[len(w.nodes)-1].Endpoints = []string{fmt.Sprintf("203.0.%d.%d:51820", i>>8&255, i&255)}
	}
	w.publish(nil)
	child := exec.Command(os.Args[0], "-test.run=^TestMemoryChild$", "-test.v")
	child.Env = append(os.Environ(), memoryEnv+"="+strings.Join([]string{w.controller.URL(), w.network.Pin().String(), w.dir}, " "))
	stdin, err := child.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	stdout, err := child.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	child.Stderr = os.Stderr
	if err := child.Start(); err != nil {
		b.Fatal(err)
	}
	lines := bufio.NewScanner(stdout)
	cold = awaitLine(b, lines, "rss serial 1")
	w.nodes = append(w.nodes, w.network.NewNode("one-more", 9))
	w.publish(nil)
	warm = awaitLine(b, lines, "rss serial 2")
	stdin.Close()
	if err := child.Wait(); err != nil {
		b.Errorf("child: %v", err)
	}
	return cold, warm
}

func awaitLine(t testing.TB, lines *bufio.Scanner, prefix string) float64 {
	t.Helper()
	for lines.Scan() {
		if rest, ok := strings.CutPrefix(lines.Text(), prefix+" "); ok {
			kb, err := strconv.ParseFloat(rest, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kb / 1024
		}
	}
	t.Fatalf("the child ended without saying %q", prefix)
	return 0
}

// memoryChild is the measured process: an agent as the command runs it, over an engine without a host.
func memoryChild(t *testing.T, args []string) {
	debug.SetGCPercent(GCPercent)
	identity, key := childKeys(t)
	config := Config{
		Controllers: []string{args[0]}, Network: testNetwork, Node: "a", RootDigest: args[1], Zones: []ZoneConfig{{Name: testZone}},
		StateDir: filepath.Join(args[2], "state"), Socket: filepath.Join(args[2], "child.sock"),
	}.WithDefaults()
	a, err := New(Options{
		Config: config, Version: "test", Keys: ringOf(identity, key),
		NewEngine: func(reconciler.Options) (Engine, error) { return &still{}, nil }, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	for _, serial := range []uint64{1, 2} {
		agenttest.Await(t, "applied", func() bool {
			t := a.zones[0].standing.current()
			return t.Complete() && t.State.Serial() == serial && a.zones[0].standing.is(status.Ready)
		})
		fmt.Printf("rss serial %d %d\n", serial, residentKB(t))
	}
	io.Copy(io.Discard, os.Stdin)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func childKeys(t *testing.T) (signer.PrivateKey, reconciler.PrivateKey) {
	return agenttest.Ed25519(t, testNetwork+" identity a"), agenttest.WireGuard(t, testNetwork+" a")
}

func residentKB(t *testing.T) int {
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(data), "\n") {
		if rest, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			kb, err := strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")))
			if err != nil {
				t.Fatal(err)
			}
			return kb
		}
	}
	t.Fatal("no RssAnon")
	return 0
}
