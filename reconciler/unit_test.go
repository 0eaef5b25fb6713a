package reconciler

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestMergeRanges(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"10.0.0.0/25 10.0.0.128/25", "10.0.0.0-10.0.0.255"},
		{"10.0.0.0/8 10.1.0.0/16 10.0.0.1/32", "10.0.0.0-10.255.255.255"},
		{"10.0.0.0/32 10.0.0.2/32", "10.0.0.0-10.0.0.0 10.0.0.2-10.0.0.2"},
		{"255.255.255.0/24 0.0.0.0/0", "0.0.0.0-255.255.255.255"},
		{"255.255.255.255/32 255.255.255.254/32", "255.255.255.254-255.255.255.255"},
		{"fd00::/127 fd00::2/127", "fd00::-fd00::3"},
		{"::/0", "::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
	} {
		var in []Range
		for f := range strings.FieldsSeq(c.in) {
			in = append(in, rangeOf(netip.MustParsePrefix(f)))
		}
		var got []string
		for _, r := range mergeRanges(in) {
			got = append(got, fmt.Sprintf("%s-%s", r.First, r.Last))
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("%s: %s, want %s", c.in, s, c.want)
		}
	}
}

// TestRulesetNeverWidens: a rule whose sets hold nobody of a family lets nothing of that family through.
func TestRulesetNeverWidens(t *testing.T) {
	v4, v6 := netip.MustParsePrefix("10.0.0.1/32"), netip.MustParsePrefix("fd00::1/128")
	net4 := netip.MustParsePrefix("10.1.0.0/16")
	for _, c := range []struct {
		name     string
		from, to []int
		want     int // rules
	}{
		{"empty union", []int{3}, nil, 0},
		{"empty target", []int{0}, []int{3}, 0},
		{"families that never meet", []int{0}, []int{1}, 0},
		{"one family of two", []int{0}, []int{0, 1}, 1},
		{"both families", []int{0, 1}, []int{0, 1}, 2},
		{"hosts and nets", []int{0, 2}, []int{0, 2}, 4},
		{"any", nil, nil, 1},
		{"the same set twice", []int{0, 0}, nil, 1},
	} {
		s := State{Interface: Interface{Name: "apex-x"}, Firewall: Firewall{
			Sets:  [][]netip.Prefix{{v4}, {v6}, {net4}, {}},
			Rules: []Rule{{ID: "r", Hook: Forward, From: c.from, To: c.to}},
		}}
		if r := newRuleset(&s, nil); len(r.Rules) != c.want {
			t.Errorf("%s: %d rules, want %d: %v", c.name, len(r.Rules), c.want, r.Rules)
		}
	}
}

func TestLimiter(t *testing.T) {
	l := limiter{every: time.Second, burst: 2}
	now := time.Unix(100, 0)
	for i, want := range []bool{true, true, false} {
		if got := l.allow(now); got != want {
			t.Errorf("call %d: %t", i, got)
		}
	}
	if !l.allow(now.Add(time.Second)) || l.allow(now.Add(time.Second)) {
		t.Error("a token comes back each second")
	}
	if l.allow(now) { // the clock went back
		t.Error("a clock that goes back gives tokens")
	}
}

func TestTornLogLine(t *testing.T) {
	dir := t.TempDir()
	s, err := openStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	var state *State
	for i := range 4 {
		next, err := normalise(State{ID: fmt.Sprint(i), Interface: Interface{Name: "apex-x", PrivateKey: PrivateKey{1}, MTU: 1280 + i}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.confirm(state, &next); err != nil {
			t.Fatal(err)
		}
		state = &next
	}
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(filepath.Join(dir, logFile))
	if err != nil {
		t.Fatal(err)
	}
	last := strings.LastIndex(strings.TrimSuffix(string(whole), "\n"), "\n") + 1
	for cut := last; cut < len(whole); cut++ {
		if err := os.WriteFile(filepath.Join(dir, logFile), whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := s.load()
		if err != nil || got.ID != "2" || got.Interface.MTU != 1282 || s.seq != 3 {
			t.Fatalf("cut at %d: %+v %v", cut, got, err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, logFile), append([]byte("garbage\n"), whole...), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.load(); err == nil {
		t.Error("garbage in the middle of the log is taken for a torn line")
	}
}

// FuzzStore: whatever stands in the state folder, reading it gives a state that can be compiled, or an error.
func FuzzStore(f *testing.F) {
	good, err := normalise(State{ID: "x", Interface: Interface{Name: "apex-x", PrivateKey: PrivateKey{1}, MTU: 1420},
		Firewall: Firewall{Sets: [][]netip.Prefix{{netip.MustParsePrefix("10.0.0.0/8")}}, Rules: []Rule{{ID: "r", Hook: Input, From: []int{0}}}}}, nil)
	if err != nil {
		f.Fatal(err)
	}
	dir := f.TempDir()
	s, err := openStore(dir)
	if err != nil {
		f.Fatal(err)
	}
	next := good
	next.Peers = []Peer{{PublicKey: Key{1}}}
	if err := s.confirm(nil, &good); err != nil {
		f.Fatal(err)
	}
	if err := s.confirm(&good, &next); err != nil {
		f.Fatal(err)
	}
	base, _ := os.ReadFile(filepath.Join(dir, confirmedFile))
	log, _ := os.ReadFile(filepath.Join(dir, logFile))
	f.Add(base, log)
	f.Add([]byte(strings.Replace(string(base), `"from":[0]`, `"from":[7]`, 1)), log)
	f.Add(base, []byte(`{"version":1,"seq":2,"id":"","members":[{"index":-1}]}`+"\n"))
	f.Fuzz(func(t *testing.T, base, log []byte) {
		dir := t.TempDir()
		s, err := openStore(dir)
		if err != nil {
			t.Fatal(err)
		}
		for name, b := range map[string][]byte{confirmedFile: base, logFile: log} {
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		state, err := s.load()
		if err != nil || state == nil {
			return
		}
		r := newRuleset(state, nil)
		r.Shape()
	})
}
