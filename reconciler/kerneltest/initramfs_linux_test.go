package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestCPIO(t *testing.T) {
	var out bytes.Buffer
	c := newCPIO(&out)
	c.dir("etc")
	c.file("etc/a", []byte("hello"), 0o644)
	if err := c.close(); err != nil {
		t.Fatal(err)
	}
	b := out.Bytes()
	if len(b)%4 != 0 {
		t.Errorf("length %d is not padded", len(b))
	}
	want := "070701" + "00000002" + "000081a4" + "00000000" + "00000000" + "00000001" + "00000000" + "00000005" +
		strings.Repeat("00000000", 4) + "00000006" + "00000000" + "etc/a\x00"
	at := bytes.Index(b, []byte(want))
	if at < 0 || at%4 != 0 {
		t.Fatalf("no entry for the file in %q", b)
	}
	body := b[(at+len(want)+3)/4*4:]
	if !bytes.HasPrefix(body, []byte("hello\x00\x00\x00070701")) {
		t.Errorf("the file is followed by %q", body[:20])
	}
	if !bytes.Contains(b, []byte("TRAILER!!!\x00")) {
		t.Error("no trailer")
	}
}

func TestWatchFindsTheVerdict(t *testing.T) {
	for console, want := range map[string]string{
		"boot\r\n\r\nAPEX-KERNELTEST PASS after 3s\r\n": sentinelPass,
		"APEX-KERNELTEST FAIL\r\n":                      sentinelFail,
		"log: APEX-KERNELTEST PASS\n":                   "",
		"Kernel panic\n":                                "",
	} {
		if got := watch(strings.NewReader(console), &bytes.Buffer{}); got != want {
			t.Errorf("%q: %q", console, got)
		}
	}
}
