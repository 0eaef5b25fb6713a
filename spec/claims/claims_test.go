package claims

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestMatch(t *testing.T) {
	for _, c := range []struct {
		pattern, value string
		want           bool
	}{
		{"acme", "acme", true},
		{"acme", "acme-evil", false},
		{"acme*", "acme-evil", false}, // refused patterns match only themselves
		{"acme/*", "acme/net", true},
		{"acme/*", "acme/", false},
		{"acme/*", "acme/net/x", false},
		{"acme/**", "acme/net/x", true},
		{"acme/**", "acme/", false},
		{"acme/**", "acme", false},
		{"repo:acme/net:ref:refs/heads/*", "repo:acme/net:ref:refs/heads/main", true},
		{"repo:acme/net:ref:refs/heads/*", "repo:acme/net:ref:refs/heads/main/x", false},
		{"repo:acme/*:environment:prod", "repo:acme/net:pull_request:prod", false},
		{"*@acme.example", "ada@acme.example", true},
		{"*@acme.example", "ada@evil@acme.example", false},
		{"*@acme.example", "@acme.example", false},
		{"a/b", "a:b", false},
		{"*", "x", true},
		{"*", "x/y", false},
		{"**", "x/y", true},
		{"", "", true},
	} {
		if got := Match(c.pattern, c.value); got != c.want {
			t.Errorf("Match(%q, %q) = %v", c.pattern, c.value, got)
		}
	}
}

func TestCheckPattern(t *testing.T) {
	for _, bad := range []string{"", "acme*", "*acme", "a/**/b", "a/***", "a/b*c", strings.Repeat("a", MaxPattern+1)} {
		if err := CheckPattern(bad); !errors.Is(err, ErrPattern) {
			t.Errorf("%.20q: %v", bad, err)
		}
	}
	for _, good := range []string{"a", "*", "**", "a/*/b", "a/**", "repo:acme/net:*"} {
		if err := CheckPattern(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for name, ok := range map[string]bool{"sub": true, "/a/b": true, "/a~1b": true, "/a~2": false, "": false, "/": false, "a~": true} {
		if err := CheckName(name); (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestLookup(t *testing.T) {
	var all map[string]any
	dec := json.NewDecoder(strings.NewReader(`{"s":"x","b":true,"n":12,"f":1.5,"e":1e3,"l":["a",2,false],"o":{"in/ner":{"g":["p"]}},"m":["a",{}],"z":null}`))
	dec.UseNumber()
	if err := dec.Decode(&all); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]string{
		"s": {"x"}, "b": {"true"}, "n": {"12"}, "l": {"a", "2", "false"}, "/o/in~1ner/g": {"p"}, "/s": {"x"},
		"f": nil, "e": nil, "o": nil, "m": nil, "z": nil, "none": nil, "/o/none": nil, "/s/t": nil,
	} {
		got, ok := Lookup(all, name)
		if ok != (want != nil) || ok && !slices.Equal(got, want) {
			t.Errorf("%s: %q, %v", name, got, ok)
		}
	}
}

func FuzzMatch(f *testing.F) {
	f.Add("acme/*", "acme/net")
	f.Add("a/**", "a/b/c")
	f.Fuzz(func(t *testing.T, pattern, value string) {
		if !strings.Contains(pattern, "*") && Match(pattern, value) != (pattern == value) {
			t.Errorf("%q against %q: a pattern without a star is literal", pattern, value)
		}
		prefix, _, star := strings.Cut(pattern, "*")
		if star && Match(pattern, value) && !strings.HasPrefix(value, prefix) {
			t.Errorf("%q matches %q", pattern, value)
		}
	})
}
