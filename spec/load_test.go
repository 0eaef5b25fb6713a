package spec_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"
	"gopkg.in/yaml.v3"

	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/diag"
)

func codes(list diag.List) []string {
	var out []string
	for _, d := range list {
		out = append(out, d.Code)
	}
	return out
}

func TestLimits(t *testing.T) {
	t.Run("file too large", func(t *testing.T) {
		big := spec.File{Path: "a.yaml", Data: bytes.Repeat([]byte("#\n"), spec.MaxFileBytes/2+1)}
		if _, list := spec.Load([]spec.File{big}); !slices.Equal(codes(list), []string{diag.FileTooLarge}) {
			t.Error(list)
		}
	})
	t.Run("too many problems", func(t *testing.T) {
		text := "apiVersion: apex/v1alpha1\nkind: Network\nmetadata: {name: a}\n"
		for i := range 1000 {
			text += fmt.Sprintf("f%d: 1\n", i)
		}
		_, list := spec.Load([]spec.File{{Path: "a.yaml", Data: []byte(text)}})
		if len(list) != spec.MaxFileProblems+1 || !slices.Contains(codes(list), diag.TooManyProblems) {
			t.Error(len(list), list[0])
		}
	})
	t.Run("one host in too many zones", func(t *testing.T) {
		repo := &spec.Repository{}
		for i := range 70 {
			z := &spec.Document[spec.Zone]{}
			z.Value.Metadata.Name = fmt.Sprintf("z%02d", i)
			n := &spec.Document[spec.Node]{}
			n.Value.Metadata = spec.Metadata{Name: "host", Zone: z.Value.Metadata.Name}
			n.Value.Spec.ListenPort = uint16(1000 + i)
			repo.Zones, repo.Nodes = append(repo.Zones, z), append(repo.Nodes, n)
		}
		if list := repo.Validate(now); !slices.Contains(codes(list), diag.TooManyDocuments) {
			t.Error(list)
		}
	})
}

// TestHostileInput feeds what has brought YAML parsers to their knees; each must end soon, and in an error.
func TestHostileInput(t *testing.T) {
	const size = 1 << 20
	for name, text := range map[string]string{
		"flow depth":     strings.Repeat("[", size),
		"mapping depth":  strings.Repeat("{a: ", size/4),
		"block depth":    strings.Repeat("- ", size/2),
		"key depth":      strings.Repeat("? ", size/2),
		"bomb":           "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b]\nd: [*c,*c,*c,*c,*c]\n",
		"self reference": "a: &a [*a]\n",
		"long scalar":    "a: " + strings.Repeat("x", size) + "\n",
		"long comment":   "a: 1 #" + strings.Repeat("x", size) + "\n",
		"many comments":  strings.Repeat("# c\n", size/4) + "a: 1\n",
		"many documents": strings.Repeat("---\na\n", size/6),
		"many markers":   strings.Repeat("---\n", size/4) + "a\n",
		"many keys": func() string {
			var b strings.Builder
			for i := range size / 16 {
				fmt.Fprintf(&b, "k%d: v\n", i)
			}
			return b.String()
		}(),
		"many equal keys": strings.Repeat("k: v\n", size/5),
		"quotes":          strings.Repeat(`"`, size),
		"open quote":      `a: "` + strings.Repeat("x\n", size/2),
		"spaces":          strings.Repeat(" ", size) + "a",
		"colons":          strings.Repeat(":", size),
		"dashes":          strings.Repeat("-", size),
		"question marks":  strings.Repeat("?\n", size/2),
		"syntax error at the end of a long mapping": strings.Repeat("k: v\n", 30000) + "  x: [\n y\n",
	} {
		t.Run(name, func(t *testing.T) {
			spec.Spends(t, 20*time.Second, func() {
				if _, list := spec.Load([]spec.File{{Path: "a.yaml", Data: []byte(text)}}); !list.HasErrors() {
					t.Error("accepted")
				}
			})
		})
	}
}

// corpusInputs gives every YAML file of the corpus and of the examples.
func corpusInputs(t testing.TB) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	for _, dir := range []string{"testdata", "../examples"} {
		for _, f := range readDir(t, dir) {
			switch filepath.Ext(f.Path) {
			case ".yaml", ".yml":
				out[dir+"/"+f.Path] = f.Data
			case ".txtar":
				for _, a := range txtar.Parse(f.Data).Files {
					out[dir+"/"+f.Path+"/"+a.Name] = a.Data
				}
			}
		}
	}
	return out
}

// values gives the documents of a repository in a fixed order.
func values(r *spec.Repository) []any {
	var out []any
	if r.Network != nil {
		out = append(out, r.Network.Value)
	}
	if r.TrustRoot != nil {
		out = append(out, r.TrustRoot.Value)
	}
	for _, d := range r.Zones {
		out = append(out, d.Value)
	}
	for _, d := range r.Nodes {
		out = append(out, d.Value)
	}
	for _, d := range r.Policies {
		out = append(out, d.Value)
	}
	for _, d := range r.Tests {
		out = append(out, d.Value)
	}
	return out
}

// sound reports whether a file by itself has no problem but a missing Network or the place of its TrustRoot.
func sound(list diag.List) bool {
	return !slices.ContainsFunc(list, func(d diag.Diagnostic) bool {
		return d.Code != diag.NoNetwork && d.Code != diag.TrustRootPlace
	})
}

// roundTrip checks of a file that Marshal writes what Load reads: the same values, and the same bytes again.
func roundTrip(t *testing.T, data []byte) {
	t.Helper()
	repo, list := spec.Load([]spec.File{{Path: "trust/root.yaml", Data: data}})
	if !sound(list) {
		return
	}
	want := values(repo)
	once, err := spec.Marshal(want...)
	if err != nil {
		t.Fatal(err)
	}
	again, list := spec.Load([]spec.File{{Path: "trust/root.yaml", Data: once}})
	if !sound(list) {
		t.Fatalf("%v\n%s", list, once)
	}
	if got := values(again); !reflect.DeepEqual(got, want) {
		t.Fatalf("values changed:\n%+v\n%+v\n%s", want, got, once)
	}
	twice, err := spec.Marshal(values(again)...)
	if err != nil || !bytes.Equal(once, twice) {
		t.Fatalf("%v: not canonical:\n%s\n%s", err, once, twice)
	}
	oracle(t, once, want)
}

// oracle reads canonical YAML with yaml.v3's own strict decoder, which must see the same values.
func oracle(t *testing.T, data []byte, want []any) {
	t.Helper()
	if len(want) == 0 {
		return
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	for i := 0; ; i++ {
		if i == len(want) {
			if err := dec.Decode(new(any)); !errors.Is(err, io.EOF) {
				t.Fatalf("more documents: %v", err)
			}
			return
		}
		// The kinds do not repeat apiVersion and kind; yaml.v3 wants a place for them.
		typ := reflect.StructOf([]reflect.StructField{
			{Name: "APIVersion", Type: reflect.TypeFor[string](), Tag: `yaml:"apiVersion"`},
			{Name: "Kind", Type: reflect.TypeFor[string](), Tag: `yaml:"kind"`},
			{Name: "Body", Type: reflect.TypeOf(want[i]), Tag: `yaml:",inline"`},
		})
		got := reflect.New(typ)
		if err := dec.Decode(got.Interface()); err != nil {
			t.Fatalf("yaml.v3: %v\n%s", err, data)
		}
		if body := got.Elem().FieldByName("Body").Interface(); !equalBut(body, want[i]) {
			t.Fatalf("yaml.v3 reads\n%+v\nand this package\n%+v\n%s", body, want[i], data)
		}
	}
}

// equalBut compares values after a pass through Marshal, which levels empty and absent lists.
func equalBut(a, b any) bool {
	x, err1 := spec.Marshal(a)
	y, err2 := spec.Marshal(b)
	return err1 == nil && err2 == nil && bytes.Equal(x, y)
}

func TestMarshalRoundTrip(t *testing.T) {
	for name, data := range corpusInputs(t) {
		t.Run(name, func(t *testing.T) { roundTrip(t, data) })
	}
}

func TestMarshalRefuses(t *testing.T) {
	for _, v := range []any{nil, 1, "x", struct{}{}, (*spec.Node)(nil)} {
		if _, err := spec.Marshal(v); err == nil {
			t.Errorf("%v is a document", v)
		}
	}
}

// TestOrderMeansNothing shuffles files and moves documents between them: the values stay.
func TestOrderMeansNothing(t *testing.T) {
	files := readDir(t, "../examples/three-tier")
	want, _ := spec.Load(files)
	random := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		random.Shuffle(len(files), func(i, j int) { files[i], files[j] = files[j], files[i] })
		var one bytes.Buffer
		var rest []spec.File
		for _, f := range files {
			if f.Path != spec.TrustRootPath && spec.IsSource(f.Path) && random.IntN(2) == 0 {
				one.WriteString("---\n")
				one.Write(f.Data)
				continue
			}
			rest = append(rest, f)
		}
		got, list := spec.Load(append(rest, spec.File{Path: "one.yml", Data: one.Bytes()}))
		if len(list) > 0 || !reflect.DeepEqual(values(got), values(want)) {
			t.Fatalf("%v", list)
		}
	}
}

// TestParseAssemble holds Load and its halves together, and the results of Parse to be reusable.
func TestParseAssemble(t *testing.T) {
	var parsed []spec.Parsed
	files := readDir(t, "testdata/base")
	for _, f := range files {
		parsed = append(parsed, spec.Parse(f))
	}
	want, _ := spec.Load(files)
	for range 2 {
		slices.Reverse(parsed)
		got, list := spec.Assemble(parsed)
		if len(list) > 0 || !reflect.DeepEqual(got, want) {
			t.Fatal(list)
		}
	}
}

func TestAt(t *testing.T) {
	text := `# comment
apiVersion: apex/v1alpha1
kind: Zone
metadata:
  name: a
  labels:
    example.com/x: "1"
spec:
  ranges:
    - 10.0.0.0/24
    - fd00::/64
`
	repo, _ := spec.Load([]spec.File{{Path: "a.yaml", Data: []byte(text)}})
	zone := repo.Zone("a")
	for path, want := range map[string]string{
		"":                                 "a.yaml:2:1",
		"metadata.name":                    "a.yaml:5:9",
		`metadata.labels["example.com/x"]`: "a.yaml:7:20",
		"spec.ranges[1]":                   "a.yaml:11:7",
		"spec.ranges[2]":                   "a.yaml:10:5",
		"spec.mtu":                         "a.yaml:9:3",
		"spec.ranges[x":                    "a.yaml:10:5",
		"..":                               "a.yaml:2:1",
	} {
		if got := zone.At(path).String(); got != want {
			t.Errorf("At(%q) = %s, want %s", path, got, want)
		}
	}
}

func TestLookups(t *testing.T) {
	repo, _ := spec.Load(readDir(t, "testdata/base"))
	if n := repo.Node("prod", "db"); n == nil || n.Value.Metadata.Name != "db" {
		t.Error("no prod/db")
	}
	if repo.Node("dev", "db") != nil || repo.Zone("x") != nil {
		t.Error("found what is not there")
	}
	if got := len(repo.ZoneNodes("prod")); got != 3 {
		t.Errorf("%d nodes", got)
	}
	if len(repo.ZonePolicies("prod"))+len(repo.ZoneTests("dev"))+len(repo.ZoneNodes("zz")) != 0 {
		t.Error("found what is not there")
	}
}

// FuzzLoad checks that no input makes the loader panic, that its diagnostics stand inside the file, and that what it
// accepts survives Marshal, Format and yaml.v3's decoder.
func FuzzLoad(f *testing.F) {
	for _, data := range corpusInputs(f) {
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		repo, list := spec.Load([]spec.File{{Path: "trust/root.yaml", Data: data}})
		list = append(list, repo.Validate(now)...)
		lines := bytes.Count(data, []byte("\n")) + 1
		for _, d := range list {
			if d.Position.Line > lines+1 || d.Message == "" || d.Code == "" {
				t.Fatalf("%+v in a file of %d lines", d, lines)
			}
		}
		if err := diag.Render(io.Discard, diag.Human, list, map[string][]byte{"trust/root.yaml": data}, true); err != nil {
			t.Fatal(err)
		}
		roundTrip(t, data)
		checkFormat(t, data)
	})
}

// config is a struct as other packages read with Decode.
type config struct {
	Listen   string            `yaml:"listen" apex:"endpoint"`
	Poll     spec.Duration     `yaml:"poll,omitempty" apex:"min=1s,max=1h"`
	Networks []configNetwork   `yaml:"networks" apex:"items=1-2"`
	Extra    map[string]string `yaml:"extra,omitempty"`
	Level    level             `yaml:"level,omitempty"`
	private  string
}

type configNetwork struct {
	Name string `yaml:"name" apex:"name"`
}

type level int

func (l *level) UnmarshalText(b []byte) error {
	if string(b) != "debug" {
		return errors.New("no such level")
	}
	*l = 1
	return nil
}

func TestDecode(t *testing.T) {
	doc, list := spec.Decode[config](spec.File{Path: "c.yaml", Data: []byte("listen: 127.0.0.1:80\nnetworks:\n  - name: a\nlevel: debug\npoll: 5s\n")})
	if len(list) > 0 || doc.Value.Level != 1 || doc.Value.Networks[0].Name != "a" || time.Duration(doc.Value.Poll) != 5*time.Second {
		t.Fatal(doc, list)
	}
	if got := doc.At("networks[0].name").String(); got != "c.yaml:3:11" {
		t.Error(got)
	}
	if doc.Value.private != "" {
		t.Error("a field without a tag was read")
	}
	for text, want := range map[string][]string{
		"":              {diag.Syntax},
		"# nothing\n":   {diag.Syntax},
		"a: [":          {diag.Syntax},
		"- a\n":         {diag.WrongType},
		"{}\n---\n{}\n": {diag.Syntax},
		"listen: 127.0.0.1:80\nnetworks: [{name: a}]\nlevel: loud\n": {diag.BadScalar},
		"listen: x\nnetworks: []\nlisten: y\nextra: {a: 1}\n":        {diag.BadEndpoint, diag.ItemCount, diag.DuplicateKey, diag.Unquoted},
	} {
		doc, list := spec.Decode[config](spec.File{Path: "c.yaml", Data: []byte(text)})
		if doc != nil || !slices.Equal(codes(list), want) {
			t.Errorf("%q: %v", text, list)
		}
	}
}

func TestScalars(t *testing.T) {
	for _, text := range []string{"tcp", "udp", "icmp", "tcp/1", "udp/65535", "tcp/8000-8099"} {
		if p, err := spec.ParsePort(text); err != nil || p.String() != text {
			t.Errorf("%s: %v %v", text, p, err)
		}
	}
	for _, text := range []string{"", "tcp/", "tcp/+1", "tcp/1-1", "tcp/65536", "sctp/1", "icmp/", "tcp/1-2-3", "TCP/1", "tcp/1 "} {
		if p, err := spec.ParsePort(text); err == nil {
			t.Errorf("%q is port %v", text, p)
		}
	}
	all, _ := spec.ParsePort("tcp")
	one, _ := spec.ParsePort("tcp/0-1")
	web, _ := spec.ParsePort("tcp/80")
	if !all.Covers(web) || web.Covers(all) || web.Covers(one) {
		t.Error("Covers")
	}
	for d, want := range map[time.Duration]string{0: "0s", time.Hour: "1h", 90 * time.Second: "1m30s", 168 * time.Hour: "168h", 10 * time.Minute: "10m", time.Hour + time.Second: "1h0m1s"} {
		if got := spec.Duration(d).String(); got != want {
			t.Errorf("%v: %s", d, got)
		}
	}
	var k spec.Key
	if b, err := k.MarshalText(); err != nil || len(b) != 0 || k.UnmarshalText(nil) != nil || !k.IsZero() {
		t.Error("the zero key")
	}
	for _, text := range []string{"AAAA", strings.Repeat("A", 43) + "B", strings.Repeat("A", 42) + "B=", strings.Repeat("-", 43) + "="} {
		if _, err := spec.ParseKey(text); err == nil {
			t.Errorf("%q is a key", text)
		}
	}
}

// benchRepository makes a repository of n nodes, one file each, and 200 label groups.
func benchRepository(n int) []spec.File {
	files := []spec.File{{Path: "network.yaml", Data: []byte("apiVersion: apex/v1alpha1\nkind: Network\nmetadata: {name: bench}\n---\n" +
		"apiVersion: apex/v1alpha1\nkind: Zone\nmetadata: {name: z}\nspec:\n  ranges: [10.0.0.0/8]\n")}}
	random := rand.NewChaCha8([32]byte{1})
	key := func() string {
		var k spec.Key
		random.Read(k[:])
		return k.String()
	}
	for i := range n {
		text := fmt.Sprintf("apiVersion: apex/v1alpha1\nkind: Node\nmetadata:\n  name: node-%d\n  zone: z\n  labels: {group: g%d}\nspec:\n"+
			"  addresses: [10.%d.%d.%d]\n  publicKey: %s\n  identityKey: %s\n  endpoints: [\"198.51.100.%d:51820\"]\n",
			i, i%200, 1+i/62500, i/250%250, 1+i%250, key(), key(), i%250)
		files = append(files, spec.File{Path: fmt.Sprintf("nodes/node-%d.yaml", i), Data: []byte(text)})
	}
	for g := range 200 {
		files = append(files, spec.File{Path: fmt.Sprintf("policies/p%d.yaml", g), Data: fmt.Appendf(nil, "apiVersion: apex/v1alpha1\nkind: Policy\n"+
			"metadata: {name: p%d, zone: z}\nspec:\n  allow:\n    - from: [{labels: {group: g%d}}]\n      to: [{labels: {group: g%d}}]\n      ports: [tcp/443]\n", g, g, (g+1)%200)})
	}
	return files
}

func BenchmarkLoadValidate(b *testing.B) {
	for _, n := range []int{100, 1000, 10000} {
		files := benchRepository(n)
		b.Run(fmt.Sprintf("nodes=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				repo, list := spec.Load(files)
				if list = append(list, repo.Validate(now)...); list.HasErrors() {
					b.Fatal(list[0])
				}
			}
		})
	}
}

// BenchmarkValidate is Validate alone, as after a change of one file.
func BenchmarkValidate(b *testing.B) {
	repo, _ := spec.Load(benchRepository(10000))
	b.ReportAllocs()
	for b.Loop() {
		if list := repo.Validate(now); list.HasErrors() {
			b.Fatal(list[0])
		}
	}
}

// BenchmarkFloor is what yaml.v3 takes to make trees of the same files, on one processor.
func BenchmarkFloor(b *testing.B) {
	files := benchRepository(10000)
	for b.Loop() {
		for _, f := range files {
			var n yaml.Node
			if err := yaml.Unmarshal(f.Data, &n); err != nil {
				b.Fatal(err)
			}
		}
	}
}
