package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"time"
)

const module = "github.com/apex-network/apex/reconciler"

// guestModules are what the tests use in the guest.
func guestModules() []string {
	return []string{"wireguard", "veth", "tun", "nf_tables", "nft_ct", "nf_conntrack"}
}

// buildInitramfs compiles the test binary and the guest's init, both static, and packs them with the modules.
func buildInitramfs(ctx context.Context, k kernel, work, file, run, bench string, timeout time.Duration) error {
	initBin, testBin := filepath.Join(work, "init"), filepath.Join(work, "reconciler.test")
	if err := goTool(ctx, "build", "-trimpath", "-o", initBin, module+"/kerneltest/guest"); err != nil {
		return err
	}
	if err := goTool(ctx, "test", "-c", "-trimpath", "-ldflags=-s -w", "-o", testBin, module); err != nil {
		return err
	}
	modules, err := k.modules(ctx, guestModules()...)
	if err != nil {
		return err
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer f.Close()
	w := newCPIO(f)
	for _, dir := range []string{"dev", "proc", "sys", "run", "tmp", "var", "modules"} {
		w.dir(dir)
	}
	w.copy("init", initBin, 0o755)
	w.copy("reconciler.test", testBin, 0o755)
	var order strings.Builder
	for i, m := range modules {
		name := fmt.Sprintf("modules/%02d-%s", i, path.Base(m))
		w.copy(name, m, 0o644)
		fmt.Fprintln(&order, "/"+name)
	}
	w.file("modules/order", []byte(order.String()), 0o644)
	args := []string{"-test.v", "-test.run=" + run, "-test.timeout=" + timeout.String()}
	if bench != "" {
		args = append(args, "-test.bench="+bench, "-test.benchtime=1x")
	}
	w.file("args", []byte(strings.Join(args, "\n")), 0o644)
	if err := w.close(); err != nil {
		return fmt.Errorf("write the initramfs: %w", err)
	}
	return f.Close()
}

func goTool(ctx context.Context, arg ...string) error {
	cmd := exec.CommandContext(ctx, "go", arg...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go %s: %w\n%s", strings.Join(arg, " "), err, out)
	}
	return nil
}

// cpio writes an archive in the "newc" format, the one the kernel unpacks (Documentation/driver-api/early-userspace/
// buffer-format.rst). The first error sticks.
type cpio struct {
	w     *bufio.Writer
	inode int
	err   error
}

func newCPIO(w io.Writer) *cpio { return &cpio{w: bufio.NewWriterSize(w, 1<<20)} }

const (
	modeDir  = 0o040000
	modeFile = 0o100000
)

// entry writes a header, the name, and size bytes from r, each padded to four bytes.
func (c *cpio) entry(name string, mode int, size int64, r io.Reader) {
	if c.err != nil {
		return
	}
	c.inode++
	if size >= 1<<32 {
		c.err = fmt.Errorf("%s is too large for a cpio archive", name)
		return
	}
	// magic, inode, mode, uid, gid, nlink, mtime, filesize, device and rdevice major and minor, namesize, check
	n, err := fmt.Fprintf(c.w, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		c.inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, len(name)+1, 0, name)
	if err == nil {
		err = c.pad(int64(n))
	}
	if err == nil && r != nil {
		_, err = io.CopyN(c.w, r, size)
	}
	if err == nil {
		err = c.pad(size)
	}
	c.err = err
}

func (c *cpio) pad(n int64) error {
	_, err := c.w.Write(make([]byte, (4-n%4)%4))
	return err
}

func (c *cpio) dir(name string) { c.entry(name, modeDir|0o755, 0, nil) }

func (c *cpio) file(name string, b []byte, mode int) {
	c.entry(name, modeFile|mode, int64(len(b)), strings.NewReader(string(b)))
}

func (c *cpio) copy(name, from string, mode int) {
	if c.err != nil {
		return
	}
	f, err := os.Open(from)
	if err != nil {
		c.err = err
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		c.err = err
		return
	}
	c.entry(name, modeFile|mode, info.Size(), f)
}

func (c *cpio) close() error {
	c.entry("TRAILER!!!", 0, 0, nil)
	if c.err == nil {
		c.err = c.w.Flush()
	}
	return c.err
}
