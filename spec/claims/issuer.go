package claims

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
)

// ErrIssuer says that a URL cannot be an issuer identifier.
var ErrIssuer = errors.New("bad issuer URL")

// CheckIssuer demands an issuer identifier as OpenID Connect Discovery 1.0 has it: https without user, query and fragment.
// http is for a loopback address only, which no other host can answer for. Errors: ErrIssuer.
func CheckIssuer(text string) error {
	u, err := url.Parse(text)
	if err != nil || len(text) > MaxPattern || u.Hostname() == "" || u.User != nil || strings.ContainsAny(text, "?# ") {
		return fmt.Errorf("%w %.80q: want https://host/path without user, query and fragment", ErrIssuer, text)
	}
	if u.Scheme == "https" || u.Scheme == "http" && isLoopback(u.Hostname()) {
		return nil
	}
	return fmt.Errorf("%w %.80q: want https (http only on a loopback address)", ErrIssuer, text)
}

func isLoopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}
