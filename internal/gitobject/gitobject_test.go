package gitobject_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/apex-network/apex/internal/gitobject"
)

const (
	tree   = "4b825dc642cb6eb9a060e54bf8d69288fbee4904" // git's well-known empty tree
	people = "author A <a@x> 1 +0000\ncommitter A <a@x> 1 +0000\n"
)

var ctx = context.Background()

func TestIDsAreGits(t *testing.T) {
	for want, c := range map[string]struct {
		kind    gitobject.Kind
		content string
	}{
		tree: {gitobject.KindTree, ""},
		"e69de29bb2d1d6434b8b29ae775ad8c2e48c5391": {gitobject.KindBlob, ""},
		"ce013625030ba8dba906f756967f9e9ca394464a": {gitobject.KindBlob, "hello\n"},
	} {
		if got, err := gitobject.ID(c.kind, []byte(c.content)); err != nil || got != want {
			t.Errorf("%s %q: %s, %v; want %s", c.kind, c.content, got, err, want)
		}
	}
}

func TestReadBelievesNothing(t *testing.T) {
	m := &gitobject.Memory{}
	m.PutAs(gitobject.KindBlob, "ce013625030ba8dba906f756967f9e9ca394464a", []byte("other"))
	big, err := m.Put(gitobject.KindCommit, make([]byte, gitobject.MaxCommitBytes+1))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		kind gitobject.Kind
		id   string
		want error
	}{
		"tampered": {gitobject.KindBlob, "ce013625030ba8dba906f756967f9e9ca394464a", gitobject.ErrCorrupt},
		"missing":  {gitobject.KindBlob, tree, gitobject.ErrMissing},
		"large":    {gitobject.KindCommit, big, gitobject.ErrTooLarge},
		"short id": {gitobject.KindBlob, "ce01", gitobject.ErrMalformed},
		"HEX":      {gitobject.KindBlob, strings.ToUpper(tree), gitobject.ErrMalformed},
	} {
		if _, err := gitobject.Read(ctx, m, c.kind, c.id); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestParseCommit(t *testing.T) {
	raw := "tree " + tree + "\nparent " + tree + "\n" + people + "encoding UTF-8\ngpgsig -----BEGIN X-----\n \n abc\n -----END X-----\nchange-id z\n\nSubject\n\nBody\n\nApex-Seal: one\nOther: x\nApex-Seal:two\n"
	c, err := gitobject.ParseCommit([]byte(raw))
	if err != nil || c.Fault != nil {
		t.Fatal(err, c.Fault)
	}
	if string(c.Signature) != "-----BEGIN X-----\n\nabc\n-----END X-----" {
		t.Errorf("signature %q", c.Signature)
	}
	want := "tree " + tree + "\nparent " + tree + "\n" + people + "encoding UTF-8\nchange-id z\n\nSubject"
	if !strings.HasPrefix(string(c.Payload), want) {
		t.Errorf("payload %q", c.Payload)
	}
	if got := fmt.Sprint(c.Trailers("Apex-Seal")); got != "[one two]" || c.Subject() != "Subject" || c.FirstParent() != tree {
		t.Errorf("trailers %s, subject %q", got, c.Subject())
	}
}

func TestCommitFaults(t *testing.T) {
	head := "tree " + tree + "\n"
	for name, raw := range map[string]string{
		"no author":         head + "committer A <a@x> 1 +0000\n\nm",
		"two authors":       head + "author A <a@x> 1 +0000\n" + people + "\nm",
		"late parent":       head + people + "parent " + tree + "\n\nm",
		"second tree":       head + people + "tree " + tree + "\n\nm",
		"two signatures":    head + people + "gpgsig a\ngpgsig b\n\nm",
		"sha256 signature":  head + people + "gpgsig-sha256 a\n\nm",
		"repeated header":   head + people + "encoding a\nencoding b\n\nm",
		"no blank line":     head + people,
		"header of nothing": head + people + " x\n\nm",
		"bare header":       head + people + "x\n\nm",
		"nul":               head + people + "\nm\x00",
		"many headers":      head + people + manyHeaders() + "\nm",
		"folded author":     head + "author A <a@x> 1 +0000\n x\ncommitter A <a@x> 1 +0000\n\nm",
	} {
		if c, err := gitobject.ParseCommit([]byte(raw)); err != nil || !errors.Is(c.Fault, gitobject.ErrMalformed) || c.Tree != tree || c.Signature != nil {
			t.Errorf("%s: %+v, %v", name, c, err)
		}
	}
	for name, raw := range map[string]string{
		"empty":        "",
		"no tree":      people + "\nm",
		"bad tree":     "tree xyz\n" + people + "\nm",
		"bad parent":   head + "parent xyz\n" + people + "\nm",
		"twice parent": head + "parent " + tree + "\nparent " + tree + "\n" + people + "\nm",
	} {
		if c, err := gitobject.ParseCommit([]byte(raw)); !errors.Is(err, gitobject.ErrMalformed) {
			t.Errorf("%s: %+v, %v", name, c, err)
		}
	}
}

func manyHeaders() string {
	var b strings.Builder
	for i := range gitobject.MaxHeaders + 1 {
		fmt.Fprintf(&b, "h%d x\n", i)
	}
	return b.String()
}

func TestHostileEntries(t *testing.T) {
	m := &gitobject.Memory{}
	blob, err := m.Put(gitobject.KindBlob, []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	file := func(name string) gitobject.Entry {
		return gitobject.Entry{Name: name, Mode: gitobject.ModeFile, ID: blob}
	}
	for _, name := range []string{".", "..", ".git", ".GIT", ".git ", ".git.", ".Git. .", ".git::$INDEX_ALLOCATION", "git~1", "GIT~1",
		".g\u200cit", "a\\b", "a/b", "a\nb", "a\u202eb", "\xff", "TRUST", "Trust"} {
		id, err := m.PutTree([]gitobject.Entry{file(name)})
		if err != nil {
			t.Fatal(err)
		}
		var hostile *gitobject.HostileError
		if _, err := gitobject.ReadTree(ctx, m, "", id); !errors.As(err, &hostile) {
			t.Errorf("name %q: %v", name, err)
		}
	}
	for _, mode := range []gitobject.Mode{gitobject.ModeSymlink, gitobject.ModeSubmodule, "100664", "040000", "0", "100777"} {
		id, err := m.PutTree([]gitobject.Entry{{Name: "x", Mode: mode, ID: blob}})
		if err != nil {
			t.Fatal(err)
		}
		var hostile *gitobject.HostileError
		if _, err := gitobject.ReadTree(ctx, m, "", id); !errors.As(err, &hostile) {
			t.Errorf("mode %q: %v", mode, err)
		}
	}
	for _, names := range [][2]string{{"README", "readme"}, {"Ärger", "ärger"}} {
		id, err := m.PutTree([]gitobject.Entry{file(names[0]), file(names[1])})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := gitobject.ReadTree(ctx, m, "", id); err == nil || !strings.Contains(err.Error(), "only in case") {
			t.Errorf("names %q: %v", names, err)
		}
	}
	// x as a file and as a folder, with something sorted between.
	sub, err := m.PutTree([]gitobject.Entry{file("y")})
	if err != nil {
		t.Fatal(err)
	}
	id, err := m.PutTree([]gitobject.Entry{file("x"), file("x.y"), {Name: "x", Mode: gitobject.ModeFolder, ID: sub}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := gitobject.ReadTree(ctx, m, "", id); err == nil || !strings.Contains(err.Error(), "twice") {
		t.Errorf("one name twice: %v", err)
	}
	for _, name := range []string{".gitignore", ".gitattributes", "...", "größe.yaml", "a b", "trust", "git"} {
		id, err := m.PutTree([]gitobject.Entry{file(name)})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := gitobject.ReadTree(ctx, m, "", id); err != nil {
			t.Errorf("name %q: %v", name, err)
		}
	}
}

func TestParseTreeRefusesDisorder(t *testing.T) {
	id := string(make([]byte, 20))
	for name, raw := range map[string]string{
		"cut off":   "100644 a\x00" + id[:19],
		"no mode":   "a\x00" + id,
		"no name":   "100644 \x00" + id,
		"twice":     "100644 a\x00" + id + "100644 a\x00" + id,
		"unsorted":  "100644 b\x00" + id + "100644 a\x00" + id,
		"long mode": "1006440 a\x00" + id,
	} {
		if _, err := gitobject.ParseTree([]byte(raw)); !errors.Is(err, gitobject.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWalkDiffFind(t *testing.T) {
	m := &gitobject.Memory{}
	put := func(files map[string]string) string {
		t.Helper()
		raw := map[string][]byte{}
		for p, s := range files {
			raw[p] = []byte(s)
		}
		id, err := m.PutFiles(raw)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	before := put(map[string]string{"a": "1", "d/x": "1", "d/y": "1", "e/f/g": "1", "s": "1"})
	after := put(map[string]string{"a": "1", "d/x": "2", "d/z": "1", "e/f/g": "1", "s/t": "1"})
	var paths []string
	if err := gitobject.Walk(ctx, m, before, func(f gitobject.File) error { paths = append(paths, f.Path); return nil }); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(paths, " "); got != "a d/x d/y e/f/g s" {
		t.Errorf("walk %q", got)
	}
	changes, err := gitobject.Diff(ctx, m, before, after)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range changes {
		sign := "~"
		if c.Old == nil {
			sign = "+"
		} else if c.New == nil {
			sign = "-"
		}
		got = append(got, sign+c.Path)
	}
	if s := strings.Join(got, " "); s != "~d/x -d/y +d/z -s +s/t" {
		t.Errorf("diff %q", s)
	}
	for path, want := range map[string]bool{"e/f/g": true, "e/f": true, "a/b": false, "e/x": false, "zz": false} {
		e, err := gitobject.Find(ctx, m, before, path)
		if err != nil || (e != nil) != want {
			t.Errorf("find %q: %v, %v", path, e, err)
		}
	}
	deep := strings.Repeat("d/", gitobject.MaxDepth+1) + "f"
	if _, err := gitobject.Diff(ctx, m, "", put(map[string]string{deep: "x"})); !gitobject.IsHostile(err) || !strings.Contains(err.Error(), "deeper") {
		t.Errorf("deep tree: %v", err)
	}
	// A folder that holds itself in name only: the depth cap ends it, and a missing one is no silence.
	empty, err := m.PutTree([]gitobject.Entry{{Name: "gone", Mode: gitobject.ModeFolder, ID: strings.Repeat("1", 40)}})
	if err != nil {
		t.Fatal(err)
	}
	if err := gitobject.Walk(ctx, m, empty, func(gitobject.File) error { return nil }); !errors.Is(err, gitobject.ErrMissing) {
		t.Errorf("missing folder: %v", err)
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if err := gitobject.Walk(cancelled, m, before, func(gitobject.File) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func FuzzParseCommit(f *testing.F) {
	f.Add([]byte("tree " + tree + "\n" + people + "gpgsig a\n b\n\nmessage\n"))
	f.Add([]byte("tree " + tree + "\nparent " + tree + "\n" + people + "\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := gitobject.ParseCommit(raw)
		if err != nil || c.Fault != nil {
			return
		}
		// The payload is the stored bytes less the signature header, and nothing else.
		folded := strings.ReplaceAll(string(c.Signature), "\n", "\n ")
		if c.Signature != nil && len(c.Payload)+len("gpgsig ")+len(folded)+1 != len(raw) {
			t.Fatalf("payload of %d bytes and signature of %d do not add up to %d", len(c.Payload), len(folded), len(raw))
		}
		if c.Signature == nil && string(c.Payload) != string(raw) {
			t.Fatal("unsigned payload differs from the stored bytes")
		}
		again, err := gitobject.ParseCommit(c.Payload)
		if err != nil || again.Fault != nil || again.Signature != nil || again.Message != c.Message || again.Tree != c.Tree {
			t.Fatalf("payload parses differently: %+v, %v", again, err)
		}
	})
}

func FuzzParseTree(f *testing.F) {
	f.Add([]byte("100644 a\x00aaaaaaaaaaaaaaaaaaaa40000 b\x00bbbbbbbbbbbbbbbbbbbb"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		entries, err := gitobject.ParseTree(raw)
		if err != nil {
			return
		}
		m := &gitobject.Memory{}
		id, err := m.PutTree(entries)
		if err != nil {
			t.Fatal(err)
		}
		if want, err := gitobject.ID(gitobject.KindTree, raw); err != nil || id != want {
			t.Fatalf("entries encode to another tree: %s, want %s, %v", id, want, err)
		}
	})
}
