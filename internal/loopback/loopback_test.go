package loopback

import (
	"net"
	"testing"
)

// TestAddress: what is given can be listened at, twice in a row, as by a program that restarts.
func TestAddress(t *testing.T) {
	at, err := Address()
	if err != nil {
		t.Fatal(err)
	}
	if !at.Addr().IsLoopback() {
		t.Fatalf("%s is not of the loopback", at)
	}
	for range 2 {
		l, err := net.Listen("tcp", at.String())
		if err != nil {
			t.Fatal(err)
		}
		client, err := net.Dial("tcp", at.String())
		if err != nil {
			t.Fatal(err)
		}
		if from := client.LocalAddr().(*net.TCPAddr).IP; from.String() == at.Addr().String() {
			t.Errorf("connections come from %s: one may take the port of a server", from)
		}
		client.Close()
		l.Close()
	}
}
