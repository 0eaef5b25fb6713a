package login

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"runtime"
	"strings"
)

// Environ reads an environment variable; os.Getenv is one.
type Environ func(string) string

// HasBrowser says whether a browser can be expected on this machine: $BROWSER names one, or the system has a desktop.
// Over SSH a browser would open on the wrong screen, or on none.
func HasBrowser(goos string, env Environ) bool {
	switch {
	case env("BROWSER") != "":
		return true
	case env("SSH_CONNECTION") != "" || env("SSH_TTY") != "":
		return false
	case goos == "darwin" || goos == "windows":
		return true
	}
	return env("DISPLAY") != "" || env("WAYLAND_DISPLAY") != ""
}

// opener is the program that shows a page, with its arguments.
func opener(goos string, env Environ, page string) []string {
	switch browser := env("BROWSER"); {
	case browser != "":
		return []string{browser, page}
	case goos == "darwin":
		return []string{"open", page}
	case goos == "windows":
		return []string{"rundll32", "url.dll,FileProtocolHandler", page}
	}
	return []string{"xdg-open", page}
}

// Open shows page in the person's browser and does not wait for it: $BROWSER, or what the system has for that. Under sudo it
// runs as who called that. Only https addresses, and http ones of the loopback, are handed to the other program.
func Open(ctx context.Context, page string) error {
	if !isPage(page) {
		return errors.New("open a browser: the provider's address is not one to open")
	}
	argv := opener(runtime.GOOS, os.Getenv, page)
	// The browser outlives the command that asked for it.
	browser := exec.CommandContext(context.WithoutCancel(ctx), argv[0], argv[1:]...)
	if err := asUser(browser, os.Geteuid(), os.Getenv); err != nil {
		return fmt.Errorf("open a browser: %w", err)
	}
	if err := browser.Start(); err != nil {
		return fmt.Errorf("open a browser: %w", err)
	}
	go func() { _ = browser.Wait() }()
	return nil
}

// isPage says whether text is the address of a web page: https, or http of the loopback, and nothing that a shell or a
// terminal could take for more.
func isPage(text string) bool {
	u, err := url.Parse(text)
	unfit := func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune("\"'`<>\\", r) }
	if err != nil || u.Host == "" || strings.ContainsFunc(text, unfit) {
		return false
	}
	addr, err := netip.ParseAddr(u.Hostname())
	return u.Scheme == "https" || u.Scheme == "http" && (u.Hostname() == "localhost" || err == nil && addr.IsLoopback())
}
