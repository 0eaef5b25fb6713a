package idp

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
)

// program is a provider that is built from a nested module of this folder.
type program struct {
	folder  string // below internal/idp; holds the nested go.mod
	target  string // the package to build, as seen from folder
	sources bool   // the folder holds code of ours, which then counts for the cache too
	cgo     bool   // Dex keeps its state in SQLite, which is C
}

var (
	dexProgram     = program{folder: "dex", target: "github.com/dexidp/dex/cmd/dex", cgo: true}
	zitadelProgram = program{folder: "zitadel", target: ".", sources: true}
)

// Prepare builds the providers that are not in the cache yet: a minute or two the first time, then nothing. Tests that
// run cut off from the network (lab.Isolate) call it before they cut themselves off; without it they still work once
// anything else has built the providers. The cache is $APEX_CACHE/idp, by default apex/idp in the user's cache folder.
func Prepare(ctx context.Context) error {
	for _, p := range []program{dexProgram, zitadelProgram} {
		if _, err := p.build(ctx); err != nil {
			return err
		}
	}
	return nil
}

// build gives the path of the built program. Programs of the same sources and the same Go are built once per cache;
// parallel builds wait for the first one.
func (p program) build(ctx context.Context) (string, error) {
	fail := func(err error) (string, error) { return "", fmt.Errorf("build provider %s: %w", p.folder, err) }
	root, err := moduleRoot()
	if err != nil {
		return fail(err)
	}
	source := filepath.Join(root, "internal", "idp", p.folder)
	digest, err := p.digest(source)
	if err != nil {
		return fail(err)
	}
	cache, err := cacheFolder()
	if err != nil {
		return fail(err)
	}
	binary := filepath.Join(cache, p.folder+"-"+digest)
	if _, err := os.Stat(binary); err == nil {
		return binary, nil
	}
	unlock, err := lockFile(ctx, binary+".lock")
	if err != nil {
		return fail(err)
	}
	defer unlock()
	if _, err := os.Stat(binary); err == nil {
		return binary, nil // somebody else built it while we waited
	}
	if err := p.compile(ctx, source, binary); err != nil {
		return fail(err)
	}
	return binary, nil
}

// compile builds beside the target and renames, so that the target is whole whenever it exists.
func (p program) compile(ctx context.Context, source, binary string) error {
	scratch, err := os.MkdirTemp(filepath.Dir(binary), p.folder+"-building-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	built := filepath.Join(scratch, p.folder)
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", built, p.target)
	cmd.Dir = source
	cmd.Env = append(os.Environ(), "GOFLAGS=-mod=readonly", "GOWORK=off", "GOOS=", "GOARCH=", "CGO_ENABLED="+p.cgoFlag())
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s\n(a build needs the Go modules: run `go run ./internal/idp/prepare` with a network, "+
			"and gcc for Dex)", err, bytes.TrimSpace(out))
	}
	return os.Rename(built, binary)
}

func (p program) cgoFlag() string {
	if p.cgo {
		return "1"
	}
	return "0"
}

// digest names what the program is made from: go.mod, go.sum, our own sources if there are any, and the Go release.
func (p program) digest(source string) (string, error) {
	files := []string{filepath.Join(source, "go.mod"), filepath.Join(source, "go.sum")}
	if p.sources {
		own, err := filepath.Glob(filepath.Join(source, "*.go"))
		if err != nil {
			return "", err
		}
		files = append(files, own...)
	}
	h := sha256.New()
	fmt.Fprintln(h, runtime.Version(), runtime.GOOS, runtime.GOARCH, p.target, p.cgo)
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(h, "%s %x\n", filepath.Base(name), sha256.Sum256(b))
	}
	return hex.EncodeToString(h.Sum(nil)[:8]), nil
}

func cacheFolder() (string, error) {
	base := os.Getenv("APEX_CACHE")
	if base == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("no cache folder: set APEX_CACHE or HOME: %w", err)
		}
		base = filepath.Join(user, "apex")
	}
	folder := filepath.Join(base, "idp")
	return folder, os.MkdirAll(folder, 0o755)
}

var ownModule = regexp.MustCompile(`(?m)^module github\.com/apex-network/apex$`)

// moduleRoot finds the source tree from the working folder, which `go test` and `go run` set inside it.
func moduleRoot() (string, error) {
	folder, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		b, err := os.ReadFile(filepath.Join(folder, "go.mod"))
		if err == nil && ownModule.Match(b) {
			return folder, nil
		}
		parent := filepath.Dir(folder)
		if parent == folder {
			return "", errors.New("not inside the Apex source tree, from which the providers are built")
		}
		folder = parent
	}
}
