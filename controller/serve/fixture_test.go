package serve_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/apex-network/apex/controller/publish"
	"github.com/apex-network/apex/controller/serve"
	"github.com/apex-network/apex/controller/store"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/compile"
	"github.com/apex-network/apex/spec/peermap"
)

// fixture is a server over one zone whose repository the test writes in memory.
type fixture struct {
	tb        testing.TB
	key       signer.PrivateKey // manifest and timestamp
	ids       map[string]signer.PrivateKey
	root      *signer.Root
	publisher *publish.Publisher
	server    *serve.Server
	compiler  *compile.Incremental
	addr      string
	commit    int
	done      chan struct{}
}

type control struct{}

func (control) Poke()                               {}
func (control) Apply(context.Context, string) error { return nil }
func (control) Describe(*protocol.FleetStatus)      {}

func newFixture(tb testing.TB) *fixture {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	return fixtureOver(tb, l, 0)
}

// fixtureOver serves what l accepts; a writeTimeout of 0 is the default.
func fixtureOver(tb testing.TB, l net.Listener, writeTimeout time.Duration) *fixture {
	tb.Helper()
	f := &fixture{tb: tb, ids: map[string]signer.PrivateKey{}, compiler: compile.NewIncremental(), done: make(chan struct{})}
	var err error
	if f.key, err = signer.GenerateKey(rand.Reader); err != nil {
		tb.Fatal(err)
	}
	root := &signer.Root{
		Network: "acme", Version: 1, Epoch: 1, Keys: []signer.RootKey{signer.NewRootKey("k", f.key.Public())},
		Root: signer.Role{Keys: []string{"k"}}, Manifest: signer.Role{Keys: []string{"k"}}, Timestamp: signer.Role{Keys: []string{"k"}},
	}
	if f.root, err = root.Canonical(); err != nil {
		tb.Fatal(err)
	}
	memory := store.NewMemory(time.Now)
	bucket := func(c store.BucketConfig) store.Bucket {
		b, err := memory.Bucket(tb.Context(), c)
		if err != nil {
			tb.Fatal(err)
		}
		return b
	}
	log := slog.New(slog.DiscardHandler)
	f.publisher, err = publish.Open(publish.Options{
		Network: "acme", Dir: tb.TempDir(), Keys: publish.Keys{Manifest: []signer.PrivateKey{f.key}, Timestamp: []signer.PrivateKey{f.key}},
		Ledger: bucket(publish.LedgerBucket()), Now: time.Now, Logger: log,
	}, nil)
	if err != nil {
		tb.Fatal(err)
	}
	f.server, err = serve.New(serve.Options{Now: time.Now, Logger: log, Metrics: serve.NewMetrics(prometheus.NewRegistry()), WriteTimeout: writeTimeout})
	if err != nil {
		tb.Fatal(err)
	}
	err = f.server.Set(tb.Context(), serve.Network{
		Name: "acme", Publisher: f.publisher, Control: control{}, Roots: func(uint64) ([]byte, bool) { return nil, false },
		Nonces: bucket(serve.NonceBucket()), Status: bucket(serve.StatusBucket()), Done: f.done,
	})
	if err != nil {
		tb.Fatal(err)
	}
	f.addr = l.Addr().String()
	hs := &http.Server{Handler: f.server.Handler()}
	go func() { _ = hs.Serve(l) }()
	tb.Cleanup(func() { f.server.Close(); _ = hs.Close() })
	return f
}

// nodes gives the documents of n nodes in the given number of label groups.
func (f *fixture) nodes(n, groups int) map[string]string {
	docs := map[string]string{
		"net.yaml":  "apiVersion: apex/v1alpha1\nkind: Network\nmetadata: {name: acme}\n",
		"zone.yaml": "apiVersion: apex/v1alpha1\nkind: Zone\nmetadata: {name: prod}\nspec:\n  ranges: [10.0.0.0/8]\n",
	}
	for i := range n {
		docs[name(i)+".yaml"] = f.node(i, groups)
	}
	return docs
}

// id gives a node's identity key.
func (f *fixture) id(node string) signer.PrivateKey {
	f.tb.Helper()
	if _, ok := f.ids[node]; !ok {
		key, err := signer.GenerateKey(rand.Reader)
		if err != nil {
			f.tb.Fatal(err)
		}
		f.ids[node] = key
	}
	return f.ids[node]
}

func name(i int) string { return fmt.Sprintf("node-%05d", i) }

func (f *fixture) node(i, groups int) string {
	wg := spec.Key(peermap.DigestOf([]byte(name(i))))
	return fmt.Sprintf(`apiVersion: apex/v1alpha1
kind: Node
metadata: {name: %s, zone: prod, labels: {group: g%d}}
spec:
  addresses: [10.%d.%d.%d]
  publicKey: %s
  identityKey: %s
  endpoints: ["198.51.%d.%d:51820"]
`, name(i), i%groups, (i+1)>>16, (i+1)>>8&255, (i+1)&255, wg, spec.Key(f.id(name(i)).Raw()), i>>8&255, i&255)
}

// rules is a policy with rule pairs (from, to) over groups; "" is any.
func rules(ports string, pairs ...[2]string) string {
	var b strings.Builder
	b.WriteString("apiVersion: apex/v1alpha1\nkind: Policy\nmetadata: {name: p, zone: prod}\nspec:\n  allow:\n")
	sel := func(g string) string {
		if g == "" {
			return "{any: true}"
		}
		return "{labels: {group: " + g + "}}"
	}
	for _, p := range pairs {
		fmt.Fprintf(&b, "    - {from: [%s], to: [%s]%s}\n", sel(p[0]), sel(p[1]), ports)
	}
	return b.String()
}

// publish compiles and publishes documents.
func (f *fixture) publish(docs map[string]string) {
	f.tb.Helper()
	zones := f.compile(docs)
	if err := f.publisher.Publish(f.tb.Context(), zones, f.root); err != nil {
		f.tb.Fatal(err)
	}
}

func (f *fixture) compile(docs map[string]string) map[string]*compile.Zone {
	f.tb.Helper()
	var files []spec.File
	var blobs []compile.Blob
	for path, text := range docs {
		files = append(files, spec.File{Path: path, Data: []byte(text)})
		blobs = append(blobs, compile.Blob{Path: path, Digest: peermap.DigestOf([]byte(text))})
	}
	repo, problems := spec.Load(files)
	if problems.HasErrors() {
		f.tb.Fatal(problems.Err())
	}
	f.commit++
	zones, _, err := f.compiler.Compile(compile.Input{Repo: repo, Files: blobs, Facts: compile.Facts{
		Commit: fmt.Sprintf("%040x", f.commit), AsOf: time.Now().Truncate(time.Second), RootVersion: 1,
	}})
	if err != nil {
		f.tb.Fatal(err)
	}
	return zones
}

// request is a raw watch request of a node, as small as a client can be.
func (f *fixture) request(node, encoding, query string) []byte {
	f.tb.Helper()
	path := protocol.WatchPath("acme", "prod", node)
	p, err := protocol.NewProof(node, http.MethodGet, &url.URL{Scheme: "https", Host: f.addr, Path: path}, nil, time.Now())
	if err != nil {
		f.tb.Fatal(err)
	}
	token, err := p.Sign(f.id(node).Sign)
	if err != nil {
		f.tb.Fatal(err)
	}
	return fmt.Appendf(nil, "GET %s%s HTTP/1.1\r\nHost: %s\r\nAccept-Encoding: %s\r\n%s: %s\r\n\r\n", path, query, f.addr, encoding, protocol.ProofHeader, token)
}

// replacePort changes the endpoint of a node document.
func replacePort(doc string, port int) string {
	return strings.Replace(doc, ":51820", fmt.Sprintf(":%d", port), 1)
}

// pipes is a listener within the process. Its connections hold nothing, so that who does not read is noticed at once.
type pipes struct {
	next   chan net.Conn
	closed chan struct{}
	close  func()
}

func newPipes() *pipes {
	p := &pipes{next: make(chan net.Conn), closed: make(chan struct{})}
	p.close = sync.OnceFunc(func() { close(p.closed) })
	return p
}

func (p *pipes) dial() net.Conn {
	here, there := net.Pipe()
	p.next <- there
	return here
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-p.next:
		return conn, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.close(); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }
