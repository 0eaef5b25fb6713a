package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// page is a Markdown file of the repository.
type page struct {
	path    string // from the root, slash-separated
	prose   string // without fenced blocks and code spans
	text    string // all of it
	blocks  []block
	anchors map[string]bool
}

// block is a fenced block with the word after its opening fence.
type block struct{ language, text string }

// pages reads every Markdown file of the repository that people read, tests' own data left out.
func pages(t *testing.T) []page {
	t.Helper()
	var all []page
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != root && (d.Name() == "testdata" || d.Name() == "bin" || strings.HasPrefix(d.Name(), ".")):
			return fs.SkipDir
		case d.IsDir() || filepath.Ext(path) != ".md":
			return nil
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		all = append(all, parsePage(filepath.ToSlash(rel), string(data)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 10 {
		t.Fatalf("only %d pages found", len(all))
	}
	return all
}

var codeSpan = regexp.MustCompile("`[^`]*`")

func parsePage(path, text string) page {
	p := page{path: path, text: text, anchors: map[string]bool{}}
	var prose strings.Builder
	seen := map[string]int{}
	var open *block
	for line := range strings.Lines(text) {
		switch {
		case strings.HasPrefix(strings.TrimLeft(line, " "), "```"):
			if open != nil {
				p.blocks, open = append(p.blocks, *open), nil
				continue
			}
			open = &block{language: strings.Trim(line, " `\n")}
		case open != nil:
			open.text += line
		default:
			if strings.HasPrefix(line, "#") {
				anchor := anchorOf(strings.TrimLeft(line, "# "))
				if n := seen[anchor]; n > 0 {
					p.anchors[anchor+"-"+string(rune('0'+n))] = true
				}
				seen[anchor]++
				p.anchors[anchor] = true
			}
			prose.WriteString(line)
		}
	}
	p.prose = codeSpan.ReplaceAllString(prose.String(), "")
	return p
}

var notInAnchor = regexp.MustCompile(`[^\p{L}\p{N} _-]`)

// anchorOf is how forges name a heading.
func anchorOf(heading string) string {
	heading = strings.ToLower(strings.TrimSpace(heading))
	return strings.ReplaceAll(notInAnchor.ReplaceAllString(heading, ""), " ", "-")
}

var link = regexp.MustCompile(`\]\(([^)\s]+)\)`)

// TestLinks follows every relative link, and its anchor if it leads into a page.
func TestLinks(t *testing.T) {
	all := pages(t)
	for _, p := range all {
		for _, m := range link.FindAllStringSubmatch(p.prose, -1) {
			if strings.Contains(m[1], "://") || strings.HasPrefix(m[1], "mailto:") {
				continue
			}
			file, anchor, _ := strings.Cut(m[1], "#")
			target := p.path
			if file != "" {
				target = filepath.ToSlash(filepath.Join(filepath.Dir(p.path), file))
			}
			if _, err := os.Stat(filepath.Join(root, target)); err != nil {
				t.Errorf("%s: link %s leads nowhere", p.path, m[1])
				continue
			}
			i := slices.IndexFunc(all, func(q page) bool { return q.path == target })
			if anchor != "" && i >= 0 && !all[i].anchors[anchor] {
				t.Errorf("%s: link %s: the page has no heading #%s", p.path, m[1], anchor)
			}
		}
	}
}

var testName = regexp.MustCompile("`((?:Test|Fuzz|Benchmark)[A-Z]\\w*)`")

// TestNamedTests demands that a test which a page names exists.
func TestNamedTests(t *testing.T) {
	defined := map[string]bool{}
	function := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Benchmark)\w+)\(`)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		data, err := os.ReadFile(path)
		for _, m := range function.FindAllSubmatch(data, -1) {
			defined[string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pages(t) {
		for _, m := range testName.FindAllStringSubmatch(p.text, -1) {
			if !defined[m[1]] {
				t.Errorf("%s names the test %s, which does not exist", p.path, m[1])
			}
		}
	}
}
