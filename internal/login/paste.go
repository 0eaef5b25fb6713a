package login

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"strconv"
	"strings"
)

// ErrPaste says that what was pasted is not the address of this signing in's last page; asking again may help.
var ErrPaste = errors.New("that is not the address that the browser ended at")

// maxPasted bounds a pasted address, in bytes.
const maxPasted = 64 << 10

// Paste signs in with a browser on another machine: show is given the address to open there. The browser ends at a
// page of its own loopback that cannot be loaded, whose address ask has to bring back. Unlike a device code, this way
// carries the commitment. ask is asked again, with the reason, until it gives an address that belongs to this signing
// in, or an error.
func (f *Flow) Paste(
	ctx context.Context, show func(url string), ask func(context.Context, error) (string, error),
) (*Session, error) {
	redirect, err := f.unheard()
	if err != nil {
		return nil, err
	}
	flow, err := f.code(ctx, redirect)
	if err != nil {
		return nil, err
	}
	show(flow.url())
	var why error
	for {
		text, err := ask(ctx, why)
		if err != nil {
			return nil, fmt.Errorf("wait for the pasted address: %w", err)
		}
		code, err := flow.pasted(text)
		switch {
		case errors.Is(err, errForeign) || errors.Is(err, ErrPaste):
			why = err
		case err != nil:
			return nil, err
		default:
			return flow.redeem(ctx, code)
		}
	}
}

// unheard is a redirect address on the other machine's loopback, where nobody should listen.
func (f *Flow) unheard() (string, error) {
	host, port, err := f.callback()
	if err != nil {
		return "", err
	}
	if port == "0" {
		// From the range for private use (RFC 6335 §6).
		port = strconv.Itoa(49152 + rand.IntN(65536-49152))
	}
	return "http://" + net.JoinHostPort(host, port) + callbackPath, nil
}

// pasted reads an address as a person copies it: the whole of it, or its query alone.
func (c *codeFlow) pasted(text string) (string, error) {
	text = strings.TrimSpace(text)
	if text == "" || len(text) > maxPasted {
		return "", ErrPaste
	}
	query := strings.TrimPrefix(text, "?")
	if i := strings.IndexByte(text, '?'); i >= 0 {
		query, _, _ = strings.Cut(text[i+1:], "#")
	}
	values, err := url.ParseQuery(query)
	if err != nil || !values.Has("state") {
		return "", ErrPaste
	}
	return c.accept(values)
}
