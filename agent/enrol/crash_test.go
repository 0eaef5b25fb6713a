package enrol

import (
	"encoding/json"
	"errors"
	"log/slog"
	"testing"

	"github.com/apex-network/apex/agent/token"
)

// crashing are records in memory that take so many changes and then no more, as if the process had ended there.
type crashing struct {
	kept map[string][]byte
	left int
}

var errCrash = errors.New("crash")

func (c *crashing) change(do func()) error {
	if c.left == 0 {
		return errCrash
	}
	c.left--
	do()
	return nil
}

func (c *crashing) Load(name string, out any) (bool, error) {
	raw, ok := c.kept[name]
	if !ok {
		return false, nil
	}
	return true, json.Unmarshal(raw, out)
}

func (c *crashing) Save(name string, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return c.change(func() { c.kept[name] = raw })
}

func (c *crashing) Remove(name string) error { return c.change(func() { delete(c.kept, name) }) }

// TestCrashBetweenTheRecords: wherever the process ends, what it takes up again is the state before or after. A request waits with its
// token or not at all, and who has left has no refresh token.
func TestCrashBetweenTheRecords(t *testing.T) {
	grant := &token.Grant{RefreshToken: "secret"}
	for name, edit := range map[string]func(*state){
		"a request waits": func(s *state) { s.record.Waiting, s.token = "1", "t" },
		"it is over":      func(s *state) { s.record.Waiting, s.token = "", "" },
		"a grant":         func(s *state) { s.grant = grant },
		"left":            func(s *state) { *s = state{record: record{Left: true}} },
	} {
		for _, waiting := range []bool{false, true} {
			for changes := range 4 {
				c := &crashing{kept: map[string][]byte{}, left: 9}
				opt := Options{Records: c, Logger: slog.New(slog.DiscardHandler), Changed: func() {}}
				m := New(opt)
				if waiting {
					if err := m.keep(func(s *state) { s.record.Waiting, s.token = "0", "t0" }); err != nil {
						t.Fatal(err)
					}
				}
				c.left = changes
				if err := m.keep(edit); err != nil && !errors.Is(err, errCrash) {
					t.Fatal(err)
				}
				s := New(opt).state
				if (s.record.Waiting != "") != (s.token != "") && s.grant == nil {
					t.Errorf("%s, from waiting %t, %d changes: request %q, token %q", name, waiting, changes, s.record.Waiting, s.token)
				}
				if s.record.Left && (s.grant != nil || s.token != "") {
					t.Errorf("%s, from waiting %t, %d changes: left, with a secret", name, waiting, changes)
				}
			}
		}
	}
}

// TestALostTokenEndsTheWait: without the token nobody asks again, and the host must not say that it waits.
func TestALostTokenEndsTheWait(t *testing.T) {
	c := &crashing{kept: map[string][]byte{}, left: 9}
	if err := c.Save(Record, record{Waiting: "1"}); err != nil {
		t.Fatal(err)
	}
	if s := New(Options{Records: c, Logger: slog.New(slog.DiscardHandler)}).state; s.record.Waiting != "" {
		t.Errorf("it waits as %s", s.record.Waiting)
	}
}
