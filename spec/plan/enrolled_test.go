package plan

import (
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
)

// TestWhoIsKnown: a plan tells "nobody is enrolled" from "I cannot know", and without changes there is none, whoever is
// enrolled.
func TestWhoIsKnown(t *testing.T) {
	archive, err := txtar.ParseFile("testdata/members-change.txtar")
	if err != nil {
		t.Fatal(err)
	}
	old, next := state(t, archive, "old/"), state(t, archive, "new/")
	list, _ := bindings(t, archive)
	if p := DiffEnrolled(old, old, asOf(), list); !p.Empty() || !p.Enrolled.Known || p.Enrolled.Before != 4 {
		t.Errorf("nothing changes, and yet: %+v %+v", p, p.Enrolled)
	}
	render := func(p *Plan) string {
		var b strings.Builder
		if err := p.Text(&b, false); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	const unknown = "is not known here"
	if text := render(Diff(old, next, asOf())); !strings.Contains(text, unknown) {
		t.Errorf("an ignorant plan does not say so:\n%s", text)
	}
	if text := render(DiffEnrolled(old, next, asOf(), nil)); strings.Contains(text, unknown) || !strings.Contains(text, "0 enrolled nodes before, 0 after") {
		t.Errorf("a plan without enrolled nodes:\n%s", text)
	}
	// A zone that goes takes its enrolled nodes along, and one that comes brings those that wait.
	if p := DiffEnrolled(old, nil, asOf(), list); len(p.Zones) != 1 || len(p.Zones[0].Members) != 4 || p.Zones[0].Members[0].Change != Removed {
		t.Errorf("the zone is removed: %+v", p.Zones)
	}
	if p := DiffEnrolled(nil, next, asOf(), list); len(p.Zones) != 1 || len(p.Zones[0].Members) != 3 || p.Zones[0].Members[0].Change != Added {
		t.Errorf("the zone is added: %+v", p.Zones)
	}
}
