package tokens_test

import (
	"encoding/base64"
	"errors"
	"strings"
	"testing"

	"github.com/apex-network/apex/controller/tokens"
	"github.com/apex-network/apex/internal/idp"
)

// TestSpellings: decoders of base64 skip line breaks and overlook the last bits, and a signature holds for what they decode. A
// token is used once in one spelling, and in no other.
func TestSpellings(t *testing.T) {
	for _, algorithm := range []string{"RS256", "ES256", "EdDSA"} {
		w := newWorld(t, idp.IssuerOptions{Algorithm: algorithm}, tokens.Options{})
		// A subject of this length leaves bits over at the end of the payload.
		raw := ""
		for _, sub := range []string{"a", "aa", "aaa"} {
			if raw = w.Mint(w.sound().Without("jti").With("sub", sub)); len(strings.Split(raw, ".")[1])%4 != 0 {
				break
			}
		}
		if _, err := w.verify(raw); err != nil {
			t.Fatal(err)
		}
		parts := strings.Split(raw, ".")
		for i, name := range []string{"header", "payload", "signature"} {
			spellings := map[string]string{
				"line feed": parts[i][:4] + "\n" + parts[i][4:], "return": parts[i] + "\r", "padding": parts[i] + "=", "space": " " + parts[i],
			}
			if other, ok := sameBits(parts[i]); ok {
				spellings["last bits"] = other
			} else if name == "payload" {
				t.Errorf("%s: no bits are left over", algorithm)
			}
			for how, text := range spellings {
				other := append([]string{}, parts...)
				other[i] = text
				respelled := strings.Join(other, ".")
				if _, err := w.verify(respelled); !errors.Is(err, tokens.ErrMalformed) {
					t.Errorf("%s: %s with %s: %v", algorithm, name, how, err)
				}
				if id := tokens.ID(w.Issuer.Issuer(), respelled); id != "" {
					t.Errorf("%s: %s with %s has an ID", algorithm, name, how)
				}
			}
		}
	}
}

// sameBits gives another spelling of a segment that decodes to the same, by the bits that its last character has too many.
func sameBits(segment string) (string, bool) {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	want, err := base64.RawURLEncoding.DecodeString(segment)
	if err != nil {
		return "", false
	}
	for _, c := range alphabet {
		other := segment[:len(segment)-1] + string(c)
		if got, err := base64.RawURLEncoding.DecodeString(other); err == nil && string(got) == string(want) && other != segment {
			return other, true
		}
	}
	return "", false
}
