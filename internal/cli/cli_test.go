package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
)

func TestRunGivesCodeAndMessage(t *testing.T) {
	plain := errors.New("it broke")
	for _, c := range []struct {
		name string
		err  error
		code Code
		said string
	}{
		{"nothing", nil, OK, ""},
		{"plain", plain, Failed, "apex: it broke\n"},
		{"coded", WithCode(Invalid, plain), Invalid, "apex: it broke\n"},
		{"wrapped", fmt.Errorf("here: %w", WithCode(Trust, plain)), Trust, "apex: here: it broke\n"},
		{"quiet", Quiet(TestsFailed), TestsFailed, ""},
		{"quiet about nothing", Quiet(OK), OK, ""},
		{"coded nothing", WithCode(Trust, nil), OK, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out bytes.Buffer
			code := Run("apex", Streams{Err: &out}, func(context.Context) error { return c.err })
			if code != c.code || out.String() != c.said {
				t.Errorf("code %d, said %q; want %d, %q", code, out.String(), c.code, c.said)
			}
		})
	}
}

func TestPrintKeepsOrderInBothFormats(t *testing.T) {
	v := struct {
		Zone  string   `json:"zone"`
		Asked bool     `json:"asked"`
		List  []string `json:"list"`
		Text  string   `json:"text"`
	}{"b", true, []string{"x", "y"}, "true"}
	for format, want := range map[string]string{
		"json": "{\n  \"zone\": \"b\",\n  \"asked\": true,\n  \"list\": [\n    \"x\",\n    \"y\"\n  ],\n  \"text\": \"true\"\n}\n",
		"yaml": "zone: b\nasked: true\nlist:\n  - x\n  - y\ntext: \"true\"\n",
	} {
		var out bytes.Buffer
		if err := Print(&out, format, v); err != nil {
			t.Fatal(err)
		}
		if out.String() != want {
			t.Errorf("%s:\n%s\nwant:\n%s", format, out.String(), want)
		}
	}
	if err := Print(&bytes.Buffer{}, "xml", v); CodeOf(err) != Invalid {
		t.Errorf("xml: %v", err)
	}
}
