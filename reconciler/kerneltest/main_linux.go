// Command kerneltest runs the reconciler's tests of the host on a real Linux kernel with the WireGuard module, under
// QEMU software emulation, without installing anything and without privileges:
//
//	go run ./reconciler/kerneltest [-run REGEXP] [-timeout 30m]
//
// It fetches Debian's cloud kernel package (apt-get download, dpkg -x, depmod -b) into the user's cache folder
// ($APEX_CACHE, else the system's, folder "apex"), builds an initramfs of the static test binary, a static init
// (package guest) and the modules the tests need, and boots it. The exit code is 0 if the tests passed in the guest.
// It needs qemu-system-x86_64, kmod, dpkg and apt; an amd64 or any other machine will do.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

func main() {
	run := flag.String("run", "^TestHost", "which tests to run in the guest")
	bench := flag.String("bench", "", "which benchmarks to run in the guest")
	timeout := flag.Duration("timeout", 30*time.Minute, "limit for the guest, which is emulated: for one that hangs")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := kernelTest(ctx, *run, *bench, *timeout); err != nil {
		fmt.Fprintln(os.Stderr, "kerneltest:", err)
		os.Exit(1)
	}
}

func kernelTest(ctx context.Context, run, bench string, timeout time.Duration) error {
	started := time.Now()
	for _, tool := range []string{"qemu-system-x86_64", "depmod", "modprobe", "dpkg", "apt-get"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("%s is missing: install the packages qemu-system-x86 and kmod (on Debian): %w", tool, err)
		}
	}
	k, err := fetchKernel(ctx)
	if err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "apex-kerneltest-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	initramfs := filepath.Join(work, "initramfs")
	if err := buildInitramfs(ctx, k, work, initramfs, run, bench, timeout); err != nil {
		return err
	}
	fmt.Printf("kerneltest: kernel %s, prepared in %s\n", k.version, time.Since(started).Round(time.Millisecond))
	booted := time.Now()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	err = boot(ctx, k, initramfs)
	fmt.Printf("kerneltest: guest ran %s\n", time.Since(booted).Round(time.Millisecond))
	return err
}

// The last line of a guest's test run begins with one of these; nothing else counts.
const (
	sentinelPass = "APEX-KERNELTEST PASS"
	sentinelFail = "APEX-KERNELTEST FAIL"
)

// boot runs QEMU and copies the guest's console until it powers off.
func boot(ctx context.Context, k kernel, initramfs string) error {
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64",
		"-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "512", "-nographic", "-no-reboot", "-nic", "none",
		"-kernel", k.image, "-initrd", initramfs, "-append", "console=ttyS0 quiet panic=-1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	console, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start QEMU: %w", err)
	}
	verdict := watch(console, os.Stdout)
	err = cmd.Wait()
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("the guest did not finish in time: %w", ctx.Err())
	case err != nil:
		return fmt.Errorf("QEMU: %w", err)
	case verdict == "":
		return errors.New("the guest ended without a verdict; see its console above")
	case verdict != sentinelPass:
		return errors.New("the tests failed in the guest")
	}
	return nil
}

// watch copies a console and returns the sentinel it saw.
func watch(console io.Reader, out io.Writer) (verdict string) {
	lines := bufio.NewScanner(console)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := strings.TrimRight(lines.Text(), "\r")
		for _, s := range []string{sentinelPass, sentinelFail} {
			if strings.HasPrefix(line, s) {
				verdict = s
			}
		}
		fmt.Fprintln(out, line)
	}
	return verdict
}
