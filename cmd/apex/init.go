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
spec: {}
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
  # deny: only what a Policy allows; mesh: every node reaches every node.
  default: deny
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
	Network, Zone string
	Ranges        []netip.Prefix
}

func newInit(s cli.Streams) *cobra.Command {
	var zone string
	var ranges []string
	c := &cobra.Command{
		Use:   "init NETWORK [DIR]",
		Short: "Begin a network: write network.yaml",
		Long: `Init writes network.yaml for a new network with one zone into DIR (default: this folder). It changes no file that is
there already. Next: apex trust init, then apex node add.`,
		Example: "  apex init acme --zone prod --range 10.20.0.0/16",
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(_ *cobra.Command, args []string) error {
			v := starterValues{Network: args[0], Zone: zone}
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
	fmt.Fprintf(s.Err, "wrote %s\nnext: apex trust init, then apex node add; commit with git commit -S\n", path)
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
