//go:build linux

package onlab

import (
	"context"
	"net/netip"

	"github.com/apex-network/apex/internal/idp"
	"github.com/apex-network/apex/internal/lab"
)

// Place puts a provider on a host, with https at an address of the host's and the authority's certificate (nil: a new
// one). Tests reach it as from the host itself; a person or a client on another host sets its own DialContext.
func Place(h *lab.Host, listen netip.AddrPort, authority *idp.Authority) idp.Place {
	return idp.Place{
		Folder: h.Dir(), Addr: listen, TLS: true, Authority: authority, Dial: h.DialContext,
		Start: func(ctx context.Context, name string, argv ...string) (idp.Process, error) {
			return h.Start(ctx, lab.Command{Name: name, Argv: argv})
		},
	}
}
