package status

import (
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// TestABusyAgentKeepsItsSocket: that a connection fails does not mean that nobody listens. Here the queue of a listener
// that does not get to it is full.
func TestABusyAgentKeepsItsSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	if err := syscall.Bind(fd, &syscall.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	for {
		conn, err := net.Dial("unix", path)
		if err != nil {
			break
		}
		defer conn.Close()
	}
	if l, err := Listen(t.Context(), path); err == nil {
		l.Close()
		t.Error("the socket of a busy agent was taken")
	}
	if _, err := os.Stat(path); err != nil {
		t.Error("it is gone: ", err)
	}
}
