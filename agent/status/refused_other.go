//go:build !unix

package status

// isRefused recognises a socket file without a listener.
func isRefused(error) bool { return false }
