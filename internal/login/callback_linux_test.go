package login

import (
	"fmt"
	"syscall"
	"testing"
)

// TestFixedCallback waits at the port that is registered with a provider: what Okta compares, port and all.
func TestFixedCallback(t *testing.T) {
	p := &provider{}
	f := p.serve(t)
	f.Callback = held(t)
	if _, err := f.Browser(t.Context(), visit(t)); err != nil {
		t.Error(err)
	}
	if got := p.asked.Get("redirect_uri"); got != "http://"+f.Callback+"/callback" {
		t.Errorf("redirect_uri %q", got)
	}
}

// held gives a port of 127.0.0.1 that only who names it gets: its socket is bound and does not listen, so that a listener may
// still have the port, and nobody who takes whatever port is free.
func held(t *testing.T) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	// As listeners of Go have it.
	if err := syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	at, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", at.(*syscall.SockaddrInet4).Port)
}
