package verify_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/apex-network/apex/controller/gitsource"
	"github.com/apex-network/apex/controller/verify"
	"github.com/apex-network/apex/internal/gitobject"
	"github.com/apex-network/apex/internal/gittest"
	"github.com/apex-network/apex/signer"
)

// bigHistory is a repository of n files and m signed commits on top of the first, each changing one file.
func bigHistory(b *testing.B, n, m int) (*gittest.Repo, *gittest.TrustRoot, []string) {
	b.Helper()
	env := gittest.New(b)
	repo := env.Repo("net")
	root, anna := env.SSHKey("root"), env.SSHKey("anna")
	trust := env.TrustRoot("corp", 1, root)
	trust.Maintainer("all", anna, []string{"**"})
	trust.Write(repo, root)
	for i := range n {
		repo.Write(fmt.Sprintf("nodes/%02d/n%05d.yaml", i%100, i), fmt.Sprintf("node: %d\n", i))
	}
	ids := []string{repo.Commit(root, "Begin")}
	key := anna.Signer()
	for i := range m {
		// Plumbing, for `git commit -S` starts ssh-keygen each time.
		path := fmt.Sprintf("nodes/%02d/n%05d.yaml", i%100, i%n)
		repo.Write(path, fmt.Sprintf("node: changed %d\n", i))
		repo.Git("add", path)
		tree := repo.Git("write-tree")
		raw := fmt.Sprintf("tree %s\nparent %s\nauthor A <a@x> 1700000000 +0000\ncommitter A <a@x> 1700000000 +0000\n\nChange %d\n", tree, ids[i], i)
		sig, err := signer.SSHSign(key, signer.NamespaceGit, []byte(raw))
		if err != nil {
			b.Fatal(err)
		}
		id := strings.TrimSpace(env.Run(repo.Dir(), gittest.WithSignature([]byte(raw), string(sig)), "git", "hash-object", "-t", "commit", "-w", "--stdin"))
		repo.Git("update-ref", "refs/heads/main", id)
		ids = append(ids, id)
	}
	repo.Git("repack", "-q", "-a", "-d")
	return repo, trust, ids
}

func BenchmarkRange(b *testing.B) {
	repo, trust, ids := bigHistory(b, 10_000, 500)
	src, err := gitsource.Open(b.TempDir(), gitsource.Remote{URL: repo.Dir(), Branch: "main"}, gitsource.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer src.Close()
	if _, err := src.Fetch(context.Background()); err != nil {
		b.Fatal(err)
	}
	policy := verify.Trust{Network: "corp", Pin: trust.Pin()}
	head := ids[len(ids)-1]
	counted := &counting{Objects: src}
	before, err := verify.Range(context.Background(), src, policy, verify.Frontier{}, ids[len(ids)-2])
	if err != nil {
		b.Fatal(err)
	}
	b.Run("cold, 500 commits of 10000 files", func(b *testing.B) {
		for b.Loop() {
			if _, err := verify.Range(context.Background(), src, policy, verify.Frontier{}, head); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("one commit of 10000 files", func(b *testing.B) {
		for b.Loop() {
			counted.objects, counted.bytes = 0, 0
			if _, err := verify.Range(context.Background(), counted, policy, before.Accepted, head); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(counted.objects), "objects/op")
		b.ReportMetric(float64(counted.bytes), "bytes-read/op")
	})
	b.Run("list 10000 files", func(b *testing.B) {
		for b.Loop() {
			if _, err := src.Files(context.Background(), head); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("fetch without news", func(b *testing.B) {
		for b.Loop() {
			if _, err := src.Fetch(context.Background()); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("clone", func(b *testing.B) {
		for b.Loop() {
			fresh, err := gitsource.Open(b.TempDir(), gitsource.Remote{URL: repo.Dir(), Branch: "main"}, gitsource.Options{})
			if err != nil {
				b.Fatal(err)
			}
			if _, err := fresh.Fetch(context.Background()); err != nil {
				b.Fatal(err)
			}
			if err := fresh.Close(); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// counting counts what is read.
type counting struct {
	gitobject.Objects
	objects, bytes int
}

func (c *counting) Object(ctx context.Context, kind gitobject.Kind, id string, limit int64) ([]byte, error) {
	b, err := c.Objects.Object(ctx, kind, id, limit)
	c.objects++
	c.bytes += len(b)
	return b, err
}
