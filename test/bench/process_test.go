//go:build linux

package bench

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/apex-network/apex/internal/keyfile"
	"github.com/apex-network/apex/internal/loopback"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/signer"
)

// buildCommand compiles a command and gives the binary's path.
func buildCommand(tb testing.TB, name string) string {
	tb.Helper()
	out := filepath.Join(tb.TempDir(), name)
	cmd := exec.CommandContext(tb.Context(), "go", "build", "-o", out, "../../cmd/"+name)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("build %s: %v\n%s", name, err, text)
	}
	return out
}

// process is apex-controller over a network.
type process struct {
	tb           testing.TB
	binary, dir  string
	api, metrics string
	secret       []byte
	log          *os.File
	cmd          *exec.Cmd
	client       *http.Client
}

func newProcess(tb testing.TB, binary string, n *network) *process {
	tb.Helper()
	p := &process{tb: tb, binary: binary, dir: tb.TempDir(), api: ownAddress(tb), metrics: ownAddress(tb), secret: []byte("a-secret-of-the-benchmark")}
	text, err := signer.MarshalPrivate(n.env.ControllerKey())
	if err == nil {
		err = keyfile.Create(filepath.Join(p.dir, "controller.key"), text)
	}
	if err == nil {
		err = keyfile.Create(filepath.Join(p.dir, "webhook.secret"), p.secret)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(p.dir, "controller.yaml"), fmt.Appendf(nil, `storage: state
listen: {api: %q, metrics: %q}
tls: {selfSigned: true}
log: {level: warn}
networks:
  - name: %s
    repository: {url: %s}
    trustRoot: %s
    keys: {manifestFiles: [controller.key], timestampFiles: [controller.key]%s}
    webhookSecretFile: webhook.secret
    poll: {interval: 24h, jitterPercent: 0}
%s`, p.api, p.metrics, networkName, n.remote, n.root.Pin(), n.enrols.keys(), n.enrols.config()), 0o600)
	}
	if err == nil {
		err = n.enrols.writeKey(p.dir)
	}
	if err == nil {
		p.log, err = os.Create(filepath.Join(p.dir, "log"))
	}
	if err != nil {
		tb.Fatal(err)
	}
	p.client = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	tb.Cleanup(func() {
		p.stop()
		p.client.CloseIdleConnections()
		p.log.Close()
	})
	return p
}

// ownAddress is where a server may listen, again and again.
func ownAddress(tb testing.TB) string {
	tb.Helper()
	at, err := loopback.Address()
	if err != nil {
		tb.Fatal(err)
	}
	return at.String()
}

// start runs the controller and gives the time until it is ready: every network serves a generation.
func (p *process) start() time.Duration {
	p.tb.Helper()
	began := time.Now()
	p.cmd = exec.Command(p.binary, "--config", filepath.Join(p.dir, "controller.yaml"))
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	p.cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		p.tb.Fatal(err)
	}
	p.await("controller is ready", 2*time.Millisecond, func() bool {
		resp, err := p.client.Get("http://" + p.metrics + "/readyz")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	return time.Since(began)
}

// stop ends the controller in order and waits for it.
func (p *process) stop() {
	p.tb.Helper()
	if p.cmd == nil {
		return
	}
	cmd := p.cmd
	p.cmd = nil
	if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
		p.tb.Errorf("stop controller: %v", err)
	}
	if err := cmd.Wait(); err != nil {
		p.tb.Errorf("controller ended: %v\n%s", err, p.tail())
	}
}

func (p *process) tail() []byte {
	data, _ := os.ReadFile(p.log.Name()) // what cannot be read is only missing from a failure's message
	return data[max(0, len(data)-2000):]
}

// await waits for a condition. It asks seldom enough not to show in what is measured: an answer of /metrics costs the
// controller a millisecond.
func (p *process) await(what string, every time.Duration, ok func() bool) {
	p.tb.Helper()
	ctx, cancel := context.WithTimeout(p.tb.Context(), 2*time.Minute)
	defer cancel()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			p.tb.Fatalf("%s: not within two minutes\n%s", what, p.tail())
		case <-tick.C:
		}
	}
}

// poke is a forge's webhook.
func (p *process) poke() {
	p.tb.Helper()
	body := []byte("{}")
	mac := hmac.New(sha256.New, p.secret)
	mac.Write(body)
	req, err := http.NewRequestWithContext(p.tb.Context(), http.MethodPost, "https://"+p.api+protocol.WebhookPath(networkName), bytes.NewReader(body))
	if err != nil {
		p.tb.Fatal(err)
	}
	req.Header.Set("X-Apex-Signature", hex.EncodeToString(mac.Sum(nil)))
	resp, err := p.client.Do(req)
	if err != nil {
		p.tb.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusAccepted {
		p.tb.Fatalf("webhook: %s", resp.Status)
	}
}

// metric sums the controller's samples of a name, of those whose labels contain label.
func (p *process) metric(name, label string) (sum float64) {
	p.tb.Helper()
	resp, err := p.client.Get("http://" + p.metrics + "/metrics")
	if err != nil {
		p.tb.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		p.tb.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		sample, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		base, labels, _ := strings.Cut(sample, "{")
		if base != name || !strings.Contains(labels, label) {
			continue
		}
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			p.tb.Fatal(err)
		}
		sum += v
	}
	return sum
}

// pin is the SHA-256 of the controller's TLS key.
func (p *process) pin() string {
	p.tb.Helper()
	conn, err := tls.Dial("tcp", p.api, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		p.tb.Fatal(err)
	}
	defer conn.Close()
	sum := sha256.Sum256(conn.ConnectionState().PeerCertificates[0].RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// cpu is the processor time the controller has used, in steps of the kernel's tick, its children's (git) included once
// they have ended.
func (p *process) cpu() time.Duration {
	p.tb.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		p.tb.Fatal(err)
	}
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	ticks := 0
	for _, f := range fields[11:15] { // utime, stime, cutime, cstime
		n, err := strconv.Atoi(f)
		if err != nil {
			p.tb.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / 100
}

// connections counts the controller's open sockets: an agent that has just reported holds two.
func (p *process) connections() (n float64) {
	p.tb.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		p.tb.Fatal(err)
	}
	for _, e := range entries {
		// A descriptor may be gone by now; it is not counted then.
		if target, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil && strings.HasPrefix(target, "socket:") {
			n++
		}
	}
	return n
}

// resident is the controller's resident memory in bytes.
func (p *process) resident() float64 {
	p.tb.Helper()
	return residentOf(p.tb, p.cmd.Process.Pid)
}

// stored is the size of everything that the controller has on disk, in bytes.
func (p *process) stored() (bytes float64) {
	p.tb.Helper()
	err := filepath.WalkDir(filepath.Join(p.dir, "state"), func(_ string, d os.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) || err == nil && d.IsDir() {
			return nil // a file that went meanwhile
		}
		if err != nil {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil {
			bytes += float64(info.Size())
		}
		return err
	})
	if err != nil {
		p.tb.Fatal(err)
	}
	return bytes
}

func residentOf(tb testing.TB, pid int) float64 {
	tb.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		tb.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			if err != nil {
				tb.Fatal(err)
			}
			return kb * 1024
		}
	}
	tb.Fatal("no VmRSS")
	return 0
}

// ownCPU is the processor time this process has used, without its children.
func ownCPU(tb testing.TB) time.Duration {
	tb.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
