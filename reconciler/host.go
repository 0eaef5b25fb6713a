package reconciler

import "log/slog"

// WireGuardMode says which WireGuard implementation new interfaces use.
type WireGuardMode string

// The modes. Auto takes the kernel's where it has one.
const (
	WireGuardAuto      WireGuardMode = "auto"
	WireGuardKernel    WireGuardMode = "kernel"
	WireGuardUserspace WireGuardMode = "userspace"
)

// HostOptions of Host.
type HostOptions struct {
	WireGuard WireGuardMode // "": auto
	Logger    *slog.Logger  // nil: discard
}
