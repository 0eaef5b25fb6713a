//go:build linux

package fleet

import (
	"context"
	"os"
)

// NewReplica makes a host with a further controller of the network: the same keys, the same configuration, a certificate
// and a folder of its own. It has to be made before the agents start, so that they know of it. Controller.NATS of all must
// name the same cluster before any of them starts.
func (f *Fleet) NewReplica(ctx context.Context, name string) (*Controller, error) {
	host, err := f.Lab.Host(name)
	if err != nil {
		return nil, err
	}
	nic, err := host.Join(ctx, f.Internet)
	if err != nil {
		return nil, err
	}
	first := f.Controller
	c := &Controller{Host: host, Dir: host.Dir(), CAFile: first.CAFile, Key: first.Key, EnrolmentKey: first.EnrolmentKey,
		NATS: first.NATS, binary: first.binary, serves: []*Fleet{f}, addr: nic.Addr4()}
	for _, key := range []string{"manifest.key", "enrolment.key"} {
		data, err := os.ReadFile(first.file(key))
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(c.file(key), data, 0o600); err != nil {
			return nil, err
		}
	}
	f.Replicas = append(f.Replicas, c)
	return c, c.certify(nic)
}

func appendFile(path string, data []byte) error {
	file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	if _, err := file.Write(data); err != nil {
		file.Close()
		return err
	}
	return file.Close()
}
