package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"text/template"
	"time"

	"github.com/spf13/cobra"

	"github.com/apex-network/apex/internal/cli"
	"github.com/apex-network/apex/spec"
)

// starter is what a new network begins with: one file, one screen.
const starter = `# The network {{.Network}}: who can reach whom, changed by pull request.
# Check it with: apex validate
apiVersion: apex/v1alpha1
kind: Network
metadata:
  name: {{.Network}}
{{- if .Issuer}}
spec:
  issuers:
    # People sign in here to join hosts: see docs/identity.md.
    - name: login
      url: {{.Issuer}}
      clientID: {{.ClientID}}
{{- else}}
spec: {}
{{- end}}
---
apiVersion: apex/v1alpha1
kind: Zone
metadata:
  name: {{.Zone}}
spec:
  ranges:
{{- range .Ranges}}
    - {{.}}
{{- end}}
{{- if .Issuer}}
  # Addresses for hosts that join by identity; Node documents take the others.
  dynamic:
{{- range .Dynamic}}
    - {{.}}
{{- end}}
{{- end}}
  # deny: only what a Policy allows; mesh: every node reaches every node.
  default: deny
{{- if .Issuer}}
  # Who may join a host, and what it gets. The first rule that matches counts; without one nobody may.
  # members:
  #   - name: staff
  #     issuer: login
  #     groups: [staff]
  #     labels: {kind: laptop}
  #     ttl: 168h
{{- end}}
---
apiVersion: apex/v1alpha1
kind: Policy
metadata:
  name: base
  zone: {{.Zone}}
spec:
  allow:
    # Every node may ping every node. Add rules below; see docs/policy.md.
    - from:
        - any: true
      to:
        - any: true
      ports: [icmp]
`

type starterValues struct {
	Network, Zone    string
	Issuer, ClientID string
	Ranges           []netip.Prefix
}

// Dynamic is the upper half of each range.
func (v starterValues) Dynamic() []netip.Prefix {
	var upper []netip.Prefix
	for _, r := range v.Ranges {
		if b := r.Addr().AsSlice(); r.Bits() < len(b)*8 {
			b[r.Bits()/8] |= 0x80 >> (r.Bits() % 8)
			a, _ := netip.AddrFromSlice(b)
			upper = append(upper, netip.PrefixFrom(a, r.Bits()+1))
		}
	}
	return upper
}

func newInit(s cli.Streams) *cobra.Command {
	var zone, issuer, clientID string
	var ranges []string
	c := &cobra.Command{
		Use:   "init NETWORK [DIR]",
		Short: "Begin a network: write network.yaml",
		Long: `Init writes network.yaml for a new network with one zone into DIR (default: this folder). It changes no file that is
there already. Next: apex trust init, then apex node add.

With --issuer and --client-id, people can be let in by the OpenID provider they have: the file then names it, keeps half of
each range for their hosts, and shows a member rule to fill in.`,
		Example: "  apex init acme --zone prod --range 10.20.0.0/16\n" +
			"  apex init acme --issuer https://login.example.com --client-id apex",
		Args: cobra.RangeArgs(1, 2),
		RunE: func(_ *cobra.Command, args []string) error {
			if (issuer == "") != (clientID == "") {
				return cli.WithCode(cli.Invalid, errors.New("--issuer and --client-id go together"))
			}
			v := starterValues{Network: args[0], Zone: zone, Issuer: issuer, ClientID: clientID}
			for _, r := range ranges {
				p, err := netip.ParsePrefix(r)
				if err != nil {
					return cli.WithCode(cli.Invalid, fmt.Errorf("--range %q: want a prefix such as 10.20.0.0/16", r))
				}
				v.Ranges = append(v.Ranges, p)
			}
			return initNetwork(s, folderArg(args, 1), v, time.Now())
		},
	}
	c.Flags().StringVar(&zone, "zone", "main", "name of the first zone")
	c.Flags().StringVar(&issuer, "issuer", "", "URL of the OpenID provider that people sign in at")
	c.Flags().StringVar(&clientID, "client-id", "", "public client that the provider knows apex by")
	c.Flags().StringArrayVar(&ranges, "range", []string{"10.20.0.0/16"}, "address range of the zone, IPv4 or IPv6; repeatable")
	return c
}

func initNetwork(s cli.Streams, dir string, v starterValues, now time.Time) error {
	var text strings.Builder
	if err := template.Must(template.New("starter").Parse(starter)).Execute(&text, v); err != nil {
		return fmt.Errorf("write starter: %w", err)
	}
	// What init writes has to pass the checks that everything else has to: bad names and ranges end here.
	file := spec.File{Path: "network.yaml", Data: []byte(text.String())}
	w := &workspace{dir: dir, files: []spec.File{file}}
	w.repo, w.found = spec.Load(w.files)
	if !w.found.HasErrors() {
		w.found = append(w.found, w.repo.Validate(now)...)
	}
	if err := w.found.Err(); err != nil {
		return cli.WithCode(cli.Invalid, fmt.Errorf("cannot begin such a network: %w", err))
	}
	path := filepath.Join(dir, file.Path)
	if err := createFile(path, file.Data); err != nil {
		return err
	}
	next := "apex trust init"
	if v.Issuer != "" {
		next += " with --enrolment"
	}
	fmt.Fprintf(s.Err, "wrote %s\nnext: %s, then apex node add; commit with git commit -S\n", path, next)
	return nil
}

// createFile writes a file that must not exist yet, making its folder.
func createFile(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return cli.WithCode(cli.Invalid, fmt.Errorf("%s is there already; nothing was changed", path))
	}
	if err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", path, err), f.Close())
	}
	return f.Close()
}
