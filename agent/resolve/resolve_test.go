package resolve

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// dns is a name server in memory.
type dns map[string][]netip.Addr

func (d dns) lookup(_ context.Context, host string) ([]netip.Addr, error) {
	if addrs, ok := d[host]; ok {
		return addrs, nil
	}
	return nil, errors.New("no such host")
}

func addrs(text ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range text {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

func TestEndpoint(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	server := dns{"b.example": addrs("192.0.2.2", "2001:db8::2")}
	r := New(server.lookup, func() time.Time { return now })
	ask := func() string {
		end := r.Round()
		defer end()
		return r.Endpoint("b", []string{"b.example:51820", "[2001:db8::9]:7"}).String()
	}
	if got := ask(); got != "[2001:db8::9]:7" {
		t.Errorf("before the look-up: %s, want the literal", got)
	}
	pass := func() bool { due, _ := r.due(); return r.pass(t.Context(), due) }
	if !pass() {
		t.Error("the first answer is no change")
	}
	if got := ask(); got != "192.0.2.2:51820" {
		t.Errorf("after the look-up: %s", got)
	}
	// Another order is no change; a failure keeps the answer; a new address is a change.
	now = now.Add(refresh)
	server["b.example"] = addrs("2001:db8::2", "192.0.2.2")
	if pass() {
		t.Error("a rotated answer counts as a change")
	}
	now = now.Add(refresh)
	delete(server, "b.example")
	pass()
	if got := ask(); got != "192.0.2.2:51820" {
		t.Errorf("after a failed look-up: %s", got)
	}
	if got := r.Unresolved(); len(got) != 0 {
		t.Errorf("a name with a remembered answer is unresolved: %v", got)
	}
	now = now.Add(refresh)
	server["b.example"] = addrs("192.0.2.7")
	if !pass() || ask() != "192.0.2.7:51820" {
		t.Errorf("after a move: %s", ask())
	}
}

func TestFailedMovesOn(t *testing.T) {
	r := New(dns{}.lookup, time.Now)
	endpoints := []string{"192.0.2.1:1", "192.0.2.2:2"}
	var got []string
	for range 3 {
		got = append(got, r.Endpoint("p", endpoints).String())
		if !r.Failed("p", endpoints) {
			t.Error("two candidates, but nothing else to try")
		}
	}
	if want := []string{"192.0.2.1:1", "192.0.2.2:2", "192.0.2.1:1"}; !slices.Equal(got, want) {
		t.Errorf("tried %v, want %v", got, want)
	}
	if r.Failed("q", endpoints[:1]) {
		t.Error("one candidate, but another to try")
	}
}

func TestMovable(t *testing.T) {
	for _, row := range []struct {
		endpoints []string
		want      bool
	}{
		{nil, false}, {[]string{"192.0.2.1:1"}, false}, {[]string{"[2001:db8::1]:1"}, false},
		{[]string{"b.example:1"}, true}, {[]string{"192.0.2.1:1", "192.0.2.2:1"}, true},
	} {
		if got := Movable(row.endpoints); got != row.want {
			t.Errorf("Movable(%v) = %t", row.endpoints, got)
		}
	}
}

func TestSaveRestore(t *testing.T) {
	now := time.Now
	r := New(dns{"b.example": addrs("192.0.2.2")}.lookup, now)
	end := r.Round()
	r.Endpoint("b", []string{"b.example:1"})
	end()
	due, _ := r.due()
	r.pass(t.Context(), due)
	again := New(dns{}.lookup, now)
	again.Restore(r.Save())
	if got := again.Endpoint("b", []string{"b.example:1"}).String(); got != "192.0.2.2:1" {
		t.Errorf("after a restart: %s", got)
	}
	again.Round()() // nobody asks for it any more
	if len(again.Save()) != 0 {
		t.Error("a name that nobody wants is kept")
	}
}

func TestHostileAnswers(t *testing.T) {
	var many []netip.Addr
	for i := range 300 {
		many = append(many, netip.AddrFrom4([4]byte{192, 0, byte(2 + i>>8), byte(i)}))
	}
	if got := usable(many); len(got) != maxAddrs {
		t.Errorf("%d addresses kept, want %d", len(got), maxAddrs)
	}
	if got := usable(addrs("0.0.0.0", "::", "224.0.0.1", "ff02::1", "::ffff:192.0.2.1", "192.0.2.1")); len(got) != 1 {
		t.Errorf("kept %v, want 192.0.2.1 alone", got)
	}
}

func TestRunWakesOnNewNames(t *testing.T) {
	r := New(dns{"b.example": addrs("192.0.2.2")}.lookup, time.Now)
	changed := make(chan struct{}, 1)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { r.Run(ctx, func() { changed <- struct{}{} }); close(done) }()
	end := r.Round()
	r.Endpoint("b", []string{"b.example:1"})
	end()
	<-changed
	cancel()
	<-done
}
