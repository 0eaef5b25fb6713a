package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/apex-network/apex/internal/cli"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/diag"
	"github.com/apex-network/apex/spec/peermap"
)

const (
	zoneHead = "apiVersion: apex/v1alpha1\nkind: Zone\nmetadata:\n  name: prod\nspec:\n"
	network  = "# ours\napiVersion: apex/v1alpha1\nkind: Network\nmetadata:\n  name: acme\nspec: {}\n---\n"
)

// TestWriteApproval writes an approval into Zone documents as people write them, and looks that only lines were added.
func TestWriteApproval(t *testing.T) {
	waiting := protocol.Waiting{Zone: "prod", Node: "laptop", PublicKey: peermap.Key{9: 1}, IdentityKey: peermap.Key{9: 2},
		Issuer: "corp", Subject: "eva", Rule: "staff"}
	item := []string{"node: laptop", "publicKey: " + spec.Key(waiting.PublicKey).String(), "identityKey: " + spec.Key(waiting.IdentityKey).String(),
		"issuer: corp", "subject: eva", "rule: staff"}
	there := "node: other\n      publicKey: " + spec.Key(peermap.Key{9: 3}).String() + "\n      identityKey: " + spec.Key(peermap.Key{9: 4}).String() + "\n      issuer: corp\n      subject: eva\n      rule: staff\n"
	added := func(indent string) string {
		return indent + "- " + strings.Join(item, "\n"+indent+"  ") + "\n"
	}
	cases := map[string]struct {
		before, after, rest string
		want                error
	}{
		"none yet":         {before: "  ranges: [10.0.0.0/8] # all\n", after: "  approved:\n" + added("    ")},
		"in front of more": {before: "  ranges:\n    - 10.0.0.0/8\n", after: "  approved:\n" + added("    "), rest: "---\n" + strings.Replace(zoneHead, "prod", "dev", 1) + "  ranges: [10.0.0.0/8]\n"},
		"no final newline": {before: "  ranges: [10.0.0.0/8]", after: "\n  approved:\n" + added("    ")},
		"one there":        {before: "  ranges: [10.0.0.0/8]\n\n  approved:\n    # first\n    - " + there, after: added("    "), rest: "\n  mtu: 1400\n"},
		"one there, flat":  {before: "  ranges: [10.0.0.0/8]\n  approved:\n  - " + strings.ReplaceAll(there, "      ", "    "), after: added("  ")},
		"deeper":           {before: "    ranges: [10.0.0.0/8]\n", after: "    approved:\n" + added("      ")},
		"empty list":       {before: "  ranges: [10.0.0.0/8]\n  approved: []\n", want: errEdit},
		"a list in a line": {before: "  ranges: [10.0.0.0/8]\n  approved: [{" + strings.ReplaceAll(strings.ReplaceAll(strings.TrimSpace(there), "\n      ", ", "), "\n", "") + "}]\n", want: errEdit},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "network.yaml")
			if err := os.WriteFile(path, []byte(network+zoneHead+c.before+c.rest), 0o644); err != nil {
				t.Fatal(err)
			}
			w, err := openWorkspace(dir, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			file, err := w.writeApproval(cli.Streams{Out: io.Discard, Err: io.Discard}, waiting, time.Now())
			got, readErr := os.ReadFile(path)
			if readErr != nil {
				t.Fatal(readErr)
			}
			if c.want != nil {
				if !errors.Is(err, c.want) || string(got) != network+zoneHead+c.before+c.rest {
					t.Errorf("got %v and\n%s", err, got)
				}
				return
			}
			if err != nil || file != "network.yaml" {
				t.Fatal(err)
			}
			if want := network + zoneHead + c.before + c.after + c.rest; string(got) != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			w, err = openWorkspace(dir, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.writeApproval(cli.Streams{Out: io.Discard, Err: io.Discard}, waiting, time.Now()); err == nil || !strings.Contains(err.Error(), "already") {
				t.Errorf("twice: %v", err)
			}
		})
	}
}

func TestReplaceScalar(t *testing.T) {
	for _, c := range []struct {
		line, want string
		pos        diag.Position
	}{
		{"  publicKey: AAA= # key", "  publicKey: BBB= # key", diag.Position{Line: 2, Column: 14}},
		{`  publicKey: "AAA="`, `  publicKey: "BBB="`, diag.Position{Line: 2, Column: 14}},
		{"  publicKey: CCC=", "", diag.Position{Line: 2, Column: 14}},
		{"  publicKey: >-", "", diag.Position{Line: 2, Column: 14}},
		{"  publicKey: AAA=", "", diag.Position{}},
		{"  publicKey: AAA=", "", diag.Position{Line: 9, Column: 1}},
		{"  publicKey: AAA=", "", diag.Position{Line: 2, Column: 99}},
	} {
		got, err := replaceScalar([]byte("spec:\n"+c.line+"\nrest: AAA=\n"), c.pos, "AAA=", "BBB=")
		if c.want == "" {
			if !errors.Is(err, errEdit) {
				t.Errorf("%q at %v: %v", c.line, c.pos, err)
			}
			continue
		}
		if err != nil || string(got) != "spec:\n"+c.want+"\nrest: AAA=\n" {
			t.Errorf("%q: %v\n%s", c.line, err, got)
		}
	}
}
