// Command guest is the init of the machine that kerneltest boots: it mounts what the tests need, loads the modules, runs
// the test binary, prints a verdict on the console and powers off.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	started := time.Now()
	err := run()
	if err != nil {
		fmt.Println("guest:", err)
		fmt.Println("\nAPEX-KERNELTEST FAIL")
	} else {
		fmt.Printf("\nAPEX-KERNELTEST PASS after %s\n", time.Since(started).Round(time.Millisecond))
	}
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func run() error {
	if os.Getpid() != 1 {
		return errors.New("this is the init of a test machine; run kerneltest instead")
	}
	for _, m := range []struct{ kind, where string }{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"tmpfs", "/tmp"}, {"tmpfs", "/run"}} {
		if err := unix.Mount(m.kind, m.where, m.kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.where, err)
		}
	}
	if err := loadModules(); err != nil {
		return err
	}
	args, err := os.ReadFile("/args")
	if err != nil {
		return err
	}
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return err
	}
	uptime, err := os.ReadFile("/proc/uptime")
	if err != nil {
		return err
	}
	fmt.Printf("guest: Linux %s, up %s s\n", strings.TrimSpace(string(release)), strings.Fields(string(uptime))[0])
	cmd := exec.Command("/reconciler.test", strings.Split(string(args), "\n")...)
	cmd.Env = []string{"PATH=/", "HOME=/tmp", "TMPDIR=/tmp", "APEX_TEST_WIREGUARD=kernel"}
	cmd.Dir, cmd.Stdout, cmd.Stderr = "/tmp", os.Stdout, os.Stdout
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("tests: %w", err)
	}
	return nil
}

// compressedFile is MODULE_INIT_COMPRESSED_FILE: the kernel unpacks the module itself.
const compressedFile = 4

func loadModules() error {
	order, err := os.ReadFile("/modules/order")
	if err != nil {
		return err
	}
	for name := range strings.FieldsSeq(string(order)) {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		flags := 0
		if !strings.HasSuffix(name, ".ko") {
			flags = compressedFile
		}
		err = unix.FinitModule(int(f.Fd()), "", flags)
		_ = f.Close()
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("load %s: %w", name, err)
		}
	}
	return nil
}
