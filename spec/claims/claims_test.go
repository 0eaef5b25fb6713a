package claims

import (
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
		{"acme/*", "acme/app", true},
		{"acme/*", "acme-evil/app", false},
		{"acme/*", "acme-evil", false},
		{"acme/*", "acme", false},
		{"acme/*", "acme/", false},
		{"acme/*", "acme/app/more", false},
		{"acme/*", "acme:app", false},
		{"acme/*", "ACME/app", false},
		{"acme/*", "evil/acme/app", false},
		{"acme/**", "acme/app", true},
		{"acme/**", "acme/app/more:x@y", true},
		{"acme/**", "acme/", false},
		{"acme/**", "acme//x", false},
		{"acme/**", "acme-evil/x", false},
		{"*", "anything", true},
		{"*", "", false},
		{"*", "a/b", false},
		{"*", "a@b", false},
		{"**", "a/b", true},
		{"**", "", false},
		{"*@acme.com", "eve@acme.com", true},
		{"*@acme.com", "eve@evil@acme.com", false},
		{"*@acme.com", "eve@acme.com.evil", false},
		{"*@acme.com", "@acme.com", false},
		{"repo:acme/*:ref:refs/heads/main", "repo:acme/app:ref:refs/heads/main", true},
		{"repo:acme/*:ref:refs/heads/main", "repo:acme/app:ref:refs/heads/main/x", false},
		{"repo:acme/*:ref:refs/heads/main", "repo:acme/app:x:ref:refs/heads/main", false},
		{"acme*", "acme-evil", false},
		{"acme*", "acme*", false},
		{"", "", false},
		{"exact", "exact", true},
		{"exact", "exac", false},
		{"a/", "a/", true},
	} {
		if got := Match(c.pattern, c.value); got != c.want {
			t.Errorf("Match(%q, %q) = %v", c.pattern, c.value, got)
		}
	}
}

func TestCheckPattern(t *testing.T) {
	for _, good := range []string{"a", "*", "**", "a/*", "a/*/b", "a/**", "*@x", "repo:a/*:ref:**"} {
		if err := CheckPattern(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{"", "acme*", "*acme", "a/b*", "**/a", "a/***", "a/**/b", "a**", strings.Repeat("x", MaxPattern+1), "a\xff"} {
		if err := CheckPattern(bad); !errors.Is(err, ErrPattern) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestLookup(t *testing.T) {
	c, err := Decode([]byte(`{"sub":"s","n":9007199254740993,"neg":-7,"f":1.5,"e":1e3,"z":-0,"yes":true,"null":null,
		"groups":["a","b",3],"mixed":["a",{}],"obj":{"x":1},"a/b":"slash","m~n":"tilde",
		"realm":{"roles":["r"],"deep":[{"id":"i"}]},"long":"` + strings.Repeat("x", MaxValue+1) + `","empty":[]}`))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"sub": "s", "n": "9007199254740993", "neg": "-7", "yes": "true", "groups": "a b 3", "/realm/roles": "r",
		"/realm/deep/0/id": "i", "/a~1b": "slash", "/m~0n": "tilde", "a/b": "slash", "/groups/1": "b", "empty": "",
	} {
		got, ok := Lookup(c, name)
		if !ok || strings.Join(got, " ") != want {
			t.Errorf("%s: %q %v, want %q", name, got, ok, want)
		}
	}
	for _, name := range []string{"none", "f", "e", "z", "null", "mixed", "obj", "long", "/realm", "/realm/deep/00/id",
		"/realm/deep/1/id", "/", "/groups/-1"} {
		if got, ok := Lookup(c, name); ok {
			t.Errorf("%s has the values %q", name, got)
		}
	}
	if _, ok := Lookup(map[string]any{"n": float64(7)}, "n"); ok {
		t.Error("a float counts as an integer")
	}
	for _, bad := range []string{``, `[]`, `null`, `{} {}`, `{"a":`} {
		if _, err := Decode([]byte(bad)); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestCheckName(t *testing.T) {
	for _, good := range []string{"sub", "https://acme.example/role", "/a/b", "/a~1b~0"} {
		if err := CheckName(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{"", "/a~", "/a~2", strings.Repeat("x", MaxName+1)} {
		if err := CheckName(bad); !errors.Is(err, ErrName) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// FuzzMatch holds Match to what makes patterns safe: separators stand where the pattern has them, and every segment that
// is no star is equal.
func FuzzMatch(f *testing.F) {
	for _, s := range [][2]string{{"acme/*", "acme-evil/x"}, {"*", "a/b"}, {"a/**", "a/b/c"}, {"*@x", "a@b@x"}, {"**", ":"}} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, pattern, value string) {
		if !Match(pattern, value) {
			if CheckPattern(pattern) == nil && !strings.Contains(pattern, "*") && pattern == value {
				t.Fatalf("%q does not match itself", value)
			}
			return
		}
		want, have := split(pattern), split(value)
		if n := len(want) - 1; want[n] == "**" {
			if len(have) <= n {
				t.Fatalf("%q matches %q: ** for nothing", pattern, value)
			}
			want, have = want[:n], have[:n]
		}
		if len(want) != len(have) {
			t.Fatalf("%q matches %q across a separator", pattern, value)
		}
		for i := range want {
			if want[i] != have[i] && (want[i] != "*" || have[i] == "" || strings.ContainsAny(have[i], separators)) {
				t.Fatalf("%q matches %q at %q", pattern, value, have[i])
			}
		}
	})
}

// split gives segments and separators in turn.
func split(s string) []string {
	var out []string
	for {
		segment, sep, rest, more := cut(s)
		out = append(out, segment)
		if !more {
			return slices.Clip(out)
		}
		out, s = append(out, string(sep)), rest
	}
}

func TestCheckIssuer(t *testing.T) {
	for text, ok := range map[string]bool{
		"https://a.example": true, "https://a.example/realms/x": true, "http://127.0.0.1:5556/dex": true, "http://localhost:1": true,
		"http://[::1]:1": true, "http://a.example": false, "https://u@a.example": false, "https://a.example?x=1": false,
		"https://a.example#f": false, "a.example": false, "": false, "file:///x": false, "http://127.0.0.1.evil.example": false,
	} {
		if err := CheckIssuer(text); (err == nil) != ok || err != nil && !errors.Is(err, ErrIssuer) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestDecodeRefusesDuplicates(t *testing.T) {
	for text, ok := range map[string]bool{
		`{"a":1,"b":{"a":1},"c":[{"a":1},{"a":1},"a","a"]}`: true, `{"a":"b","b":"a"}`: true,
		`{"aud":"x","sub":"s","aud":"y"}`: false, `{"o":{"g":1,"g":2}}`: false, `{"l":[{"g":1,"g":2}]}`: false,
	} {
		if _, err := Decode([]byte(text)); (err == nil) != ok {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestNarrows(t *testing.T) {
	for _, row := range []struct {
		claim, pattern string
		want           bool
	}{
		{"repository_id", "42", true}, {"sub", "repo:acme/*", true}, {"sub", "**", false},
		{"iss", "https://ci.example", false}, {"aud", "apex", false}, {"/aud", "apex", false}, {"/iss", "x", false},
	} {
		if got := Narrows(row.claim, row.pattern); got != row.want {
			t.Errorf("%s: %s: %v", row.claim, row.pattern, got)
		}
	}
}

// TestLoneSurrogatesAreNoText: the decoder makes one character of them all, so two names would be one.
func TestLoneSurrogatesAreNoText(t *testing.T) {
	all, err := Decode([]byte(`{"a":"eva\ud800","b":"eva\udfff","c":"eva"}`))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "b"} {
		if v, ok := Lookup(all, name); ok {
			t.Errorf("%s is %q", name, v)
		}
	}
	if _, ok := Lookup(all, "c"); !ok {
		t.Error("plain text is none")
	}
	if _, err := Decode([]byte("{\"a\":\"\xff\"}")); err == nil {
		t.Error("claims that are not UTF-8 are read")
	}
}
