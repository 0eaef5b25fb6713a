//go:build unix

package controller_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/apex-network/apex/controller"
	"github.com/apex-network/apex/controller/config"
	"github.com/apex-network/apex/internal/natstest"
	"github.com/apex-network/apex/internal/protocol"
)

// childConfig names the configuration with which this program is a controller and not a test.
const childConfig = "APEX_TEST_CONTROLLER"

// TestControllerProcess is the controller that the tests below run in processes of its own; by itself it does nothing.
func TestControllerProcess(t *testing.T) {
	path := os.Getenv(childConfig)
	if path == "" {
		return
	}
	cfg, err := config.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	c, err := controller.New(cfg, controller.Options{
		Version: "test", Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		Ready: func(a controller.Addresses) {
			data, err := json.Marshal(a)
			if err == nil {
				err = os.WriteFile(path+".new", data, 0o600)
			}
			if err == nil {
				err = os.Rename(path+".new", path+".ready")
			}
			if err != nil {
				t.Error(err)
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := c.Run(ctx); err != nil {
		t.Fatal(err)
	}
}

// processes are replicas in processes of their own.
type processes struct {
	*replicas
	nats string // the configuration's, but for the name of the replica
	cmds []*exec.Cmd
}

// newProcesses runs n replicas of a world's controller over a cluster of NATS servers.
func newProcesses(w *world, servers, n int) *processes {
	t := w.t
	p := &processes{replicas: &replicas{world: w}, nats: fmt.Sprintf("url: %q, replicas: %d", natstest.Start(t, servers).URL(), servers)}
	p.all, p.cmds = make([]*world, n), make([]*exec.Cmd, n)
	for i := range n {
		p.launch(i)
	}
	t.Cleanup(func() {
		for i, c := range p.cmds {
			if c != nil {
				_ = c.Process.Signal(syscall.SIGCONT) // it may be paused
				p.kill(i)
			}
		}
	})
	return p
}

// launch runs replica i until it is killed.
func (p *processes) launch(i int) {
	p.t.Helper()
	w := *p.world
	dir := filepath.Join(p.world.dir, fmt.Sprint("replica", i))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		p.t.Fatal(err)
	}
	text, err := os.ReadFile(p.world.config)
	if err != nil {
		p.t.Fatal(err)
	}
	path := filepath.Join(dir, "controller.yaml")
	text = fmt.Appendf(text, "nats: {%s, replica: r%d}\n", p.nats, i)
	for _, key := range []string{"controller.key", "enrolment.key"} {
		text = replaceAll(text, key, filepath.Join(p.world.dir, key))
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		p.t.Fatal(err)
	}
	_ = os.Remove(path + ".ready") // of the process before
	cmd := exec.Command(os.Args[0], "-test.run=^TestControllerProcess$")
	cmd.Env = append(os.Environ(), childConfig+"="+path)
	if testing.Verbose() {
		cmd.Stderr = os.Stderr
	}
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.cmds[i] = cmd
	deadline := time.Now().Add(hung)
	for {
		data, err := os.ReadFile(path + ".ready")
		if err == nil {
			if err := json.Unmarshal(data, &w.addr); err != nil {
				p.t.Fatal(err)
			}
			break
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("the process is not ready within %s", hung)
		}
		time.Sleep(5 * time.Millisecond)
	}
	w.newClient()
	p.all[i] = &w
}

func (p *processes) index(w *world) int {
	for i, other := range p.all {
		if other == w {
			return i
		}
	}
	p.t.Fatal("no such replica")
	return 0
}

func (p *processes) signal(i int, s os.Signal) {
	p.t.Helper()
	if err := p.cmds[i].Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

func (p *processes) kill(i int) {
	_ = p.cmds[i].Process.Kill() // it may have ended by itself
	_ = p.cmds[i].Wait()         // says that it was killed
	p.cmds[i], p.all[i] = nil, nil
}

func TestReplicaProcessesDieAndSleep(t *testing.T) {
	p := newProcesses(newWorld(t), 1, 2)
	first := p.same(p.repo.Head())
	a := p.all[0].agent("prod", "a")

	// The leader is paused: another takes over, and when it wakes it has nothing to say.
	leader, follower := p.leader()
	sleeper := p.index(leader)
	p.signal(sleeper, syscall.SIGSTOP)
	p.node("prod", "d", "10.1.0.4")
	commit := p.push("Add d")
	began := time.Now()
	p.applied(follower, commit)
	t.Logf("measured: the next commit is published %s after the leader was paused", time.Since(began).Round(time.Millisecond))
	p.signal(sleeper, syscall.SIGCONT)
	second := p.same(commit)
	if second.Serial <= first.Serial { // a leader that lost its lease while it published leaves a gap
		t.Errorf("serial %d after %d", second.Serial, first.Serial)
	}

	// The leader is killed.
	leader, follower = p.leader()
	dead := p.index(leader)
	p.kill(dead)
	p.node("prod", "e", "10.1.0.5")
	commit = p.push("Add e")
	began = time.Now()
	p.applied(follower, commit)
	t.Logf("measured: the next commit is published %s after the leader was killed", time.Since(began).Round(time.Millisecond))
	p.launch(dead)
	third := p.same(commit)
	if third.Serial <= second.Serial {
		t.Errorf("serial %d after %d", third.Serial, second.Serial)
	}

	// An agent sees one network all along.
	a.w = p.all[dead]
	s := a.open()
	defer s.close()
	if m := a.take(s.next(t)); peerNames(m) != "b c d e" {
		t.Fatalf("a sees %s", peerNames(m))
	}
	f := p.all[dead].await("a leader", func(f protocol.FleetStatus) bool { return f.Leader != "" })
	if f.Accepted != commit {
		t.Errorf("accepted %s, want %s", f.Accepted, commit)
	}
}
