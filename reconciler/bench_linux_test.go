package reconciler_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/apex-network/apex/reconciler"
)

// cpu is the processor time this process and its finished children have used: a userspace device is in this process.
func cpu(t testing.TB) time.Duration {
	t.Helper()
	total := time.Duration(0)
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var u unix.Rusage
		must(t, unix.Getrusage(who, &u))
		total += time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	return total
}

// measure runs f and reports its time and processor time.
func measure(t testing.TB, what string, f func()) {
	t.Helper()
	wall, used := time.Now(), cpu(t)
	f()
	fmt.Printf("measured: %-44s %10s wall %10s CPU\n", what, time.Since(wall).Round(10*time.Microsecond), (cpu(t) - used).Round(10*time.Microsecond))
}

// BenchmarkHost10000 applies 10 000 peers through the engine and, on a device of the same kind, through wg(8).
func BenchmarkHost10000(b *testing.B) {
	if !inNamespace(b) {
		return
	}
	s := state("many", manyPeers)
	for i := range s.Peers {
		s.Peers[i].Keepalive = 0 // else every peer would begin a handshake
	}
	e := startHost(b, testOwner, testName, b.TempDir())
	measure(b, "engine: apply 10 000 peers", func() { e.mustApply(b, s) })
	measure(b, "engine: full pass without drift", func() { e.settled(b) })
	watched(b, e.Engine, s)
	measure(b, "engine: unchanged state", func() { e.mustApply(b, s) })
	for n := range 4 {
		next := swapPeer(s, n)
		measure(b, "engine: one peer added or removed", func() { e.mustApply(b, next) })
	}
	for n := range 3 {
		next := swapEndpoint(s, n)
		measure(b, "engine: one endpoint", func() { e.mustApply(b, next) })
	}
	rss, err := os.ReadFile("/proc/self/status")
	must(b, err)
	for line := range strings.Lines(string(rss)) {
		if strings.HasPrefix(line, "VmRSS") {
			fmt.Println("measured: with the device ", strings.Join(strings.Fields(line), " "))
		}
	}
	must(b, e.backends.Close())
	compareWithTool(b, s)
}

func compareWithTool(b *testing.B, s reconciler.State) {
	wg, err := exec.LookPath("wg")
	if err != nil {
		fmt.Println("measured: wg(8) is not installed, so nothing to compare with")
		return
	}
	host, err := reconciler.Host(reconciler.HostOptions{WireGuard: wireGuardMode()})
	must(b, err)
	defer host.Close()
	must(b, host.Links.Create(b.Context(), "wgtool", "tool", 1420))
	must(b, host.Links.SetUp(b.Context(), "wgtool"))
	var conf strings.Builder
	key := s.Interface.PrivateKey
	fmt.Fprintf(&conf, "[Interface]\nPrivateKey = %s\nListenPort = 51999\n", reconciler.Key(key))
	for _, p := range s.Peers {
		fmt.Fprintf(&conf, "[Peer]\nPublicKey = %s\nAllowedIPs = %s\nEndpoint = %s\n", p.PublicKey, p.AllowedIPs[0], p.Endpoint)
	}
	file := filepath.Join(b.TempDir(), "wg.conf")
	must(b, os.WriteFile(file, []byte(conf.String()), 0o600))
	for _, verb := range []string{"setconf", "syncconf"} {
		measure(b, "wg "+verb, func() {
			if out, err := exec.Command(wg, verb, "wgtool", file).CombinedOutput(); err != nil {
				b.Fatalf("wg %s: %v\n%s", verb, err, out)
			}
		})
	}
}
