//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// members finds the processes, other than this one, whose network namespace is one of inodes.
func members(inodes map[uint64]string) (map[int]string, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	found := map[int]string{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		// A process that has ended, or is not ours to see, has no readable namespace and is not ours to kill.
		inode, ok := nsInode(filepath.Join("/proc", e.Name(), "ns/net"))
		if name, member := inodes[inode]; ok && member {
			found[pid] = name
		}
	}
	return found, nil
}

// nsInode reads the inode number out of a link such as net:[4026531840].
func nsInode(path string) (uint64, bool) {
	target, err := os.Readlink(path)
	if err != nil {
		return 0, false
	}
	rest, ok := strings.CutPrefix(target, "net:[")
	if !ok {
		return 0, false
	}
	inode, err := strconv.ParseUint(strings.TrimSuffix(rest, "]"), 10, 64)
	return inode, err == nil
}

// killMembers kills what still runs inside the namespaces: descendants that left their process group, say.
func killMembers(ctx context.Context, inodes map[uint64]string) error {
	return Await(ctx, "kill what runs in the lab", func(context.Context) error {
		found, err := members(inodes)
		if err != nil {
			return err
		}
		var left []error
		for pid, host := range found {
			if err := unix.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				left = append(left, fmt.Errorf("host %s: kill process %d: %w", host, pid, err))
				continue
			}
			left = append(left, fmt.Errorf("host %s: process %d still runs", host, pid))
		}
		return errors.Join(left...)
	})
}

// findHolders looks for processes, threads and file descriptors of this program that hold one of the namespaces.
func findHolders(inodes map[uint64]string) error {
	found, err := members(inodes)
	if err != nil {
		return err
	}
	var left []error
	for pid, host := range found {
		left = append(left, fmt.Errorf("host %s: process %d still runs", host, pid))
	}
	for pattern, what := range map[string]string{"/proc/self/task/*/ns/net": "thread", "/proc/self/fd/*": "file descriptor"} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			return err
		}
		for _, path := range paths {
			inode, ok := nsInode(path)
			if host, member := inodes[inode]; ok && member {
				left = append(left, fmt.Errorf("host %s: %s %s still holds the namespace", host, what, path))
			}
		}
	}
	return errors.Join(left...)
}
