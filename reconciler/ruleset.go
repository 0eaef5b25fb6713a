package reconciler

import "context"

// FirewallBackend holds one table per interface.
type FirewallBackend interface {
	Delete(ctx context.Context, table string) error
}
