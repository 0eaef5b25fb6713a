//go:build linux

package lab_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/apex-network/apex/internal/lab"
	"github.com/apex-network/apex/internal/lab/labtest"
)

func TestMain(m *testing.M) { labtest.Main(m) }

func prefixes(texts ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range texts {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// must returns v or fails the test.
func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestHostsOnOneSwitch pings, connects and echoes in both families, and sees refusals and silence for what they are.
func TestHostsOnOneSwitch(t *testing.T) {
	ctx := labtest.Context(t, time.Minute)
	l := labtest.New(t)
	lan := must(l.Switch("lan", prefixes("192.0.2.0/24", "2001:db8::/64")...))(t)
	a, b := must(l.Host("a"))(t), must(l.Host("b"))(t)
	must(a.Attach(ctx, lan))(t)
	eth := must(b.Attach(ctx, lan))(t)
	must(b.Echo(ctx, 7000))(t)

	for _, to := range []netip.Addr{eth.Addr4(), eth.Addr6()} {
		for _, p := range []lab.Probe{
			patientPing, {Protocol: lab.TCP, Port: 7000, Timeout: patient}, {Protocol: lab.UDP, Port: 7000, Timeout: patient},
		} {
			got := a.Probe(ctx, to, p)
			if got.Verdict != lab.Reached || got.Latency <= 0 {
				t.Errorf("%s to %s: %s, %v", p, to, got.Verdict, got.Err)
			}
		}
		for _, p := range []lab.Probe{{Protocol: lab.TCP, Port: 7001, Timeout: patient}, {Protocol: lab.UDP, Port: 7001, Timeout: patient}} {
			if got := a.Probe(ctx, to, p); got.Verdict != lab.Refused {
				t.Errorf("%s to %s: %s, %v; want refused", p, to, got.Verdict, got.Err)
			}
		}
	}
	// Somebody who drops it: that there is nobody at an address the kernel itself says after three seconds.
	silent := must(l.Router(ctx, "silent", lab.Firewalled, lan))(t)
	if got := a.Ping(ctx, silent.Outside.Addr4()); got.Verdict != lab.TimedOut {
		t.Errorf("ping a firewall: %s, %v; want timed out", got.Verdict, got.Err)
	}
	if got := a.Probe(ctx, netip.MustParseAddr("198.51.100.1"), patientPing); got.Verdict != lab.Blocked {
		t.Errorf("ping without a route: %s, %v; want blocked", got.Verdict, got.Err)
	}
}
