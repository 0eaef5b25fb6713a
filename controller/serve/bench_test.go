package serve_test

import (
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"
)

// cpu is the processor time of this process so far.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// crowd is n raw clients that count what they get.
type crowd struct {
	conns []net.Conn
	got   chan arrival
}

type arrival struct {
	client, bytes int
	at            time.Time
}

func (f *fixture) crowd(n int) *crowd {
	f.tb.Helper()
	c := &crowd{got: make(chan arrival, 16*n)}
	for i := range n {
		conn, err := net.Dial("tcp", f.addr)
		if err != nil {
			f.tb.Fatal(err)
		}
		f.tb.Cleanup(func() { _ = conn.Close() })
		c.conns = append(c.conns, conn)
		if _, err := conn.Write(f.request(name(i), "zstd", "")); err != nil {
			f.tb.Fatal(err)
		}
		go func() {
			buf := make([]byte, 4<<10)
			for {
				n, err := conn.Read(buf)
				if err != nil {
					return
				}
				c.got <- arrival{i, n, time.Now()}
			}
		}()
	}
	return c
}

// wait collects until every client got something and it is quiet; it gives the times of last arrival per client and the
// bytes in all.
func (c *crowd) wait() (last []time.Time, bytes int) {
	last = make([]time.Time, len(c.conns))
	missing := len(c.conns)
	for {
		timeout := 30 * time.Second
		if missing == 0 {
			timeout = 300 * time.Millisecond
		}
		select {
		case a := <-c.got:
			if last[a.client].IsZero() {
				missing--
			}
			last[a.client] = a.at
			bytes += a.bytes
		case <-time.After(timeout):
			return last, bytes
		}
	}
}

func BenchmarkFanOut(b *testing.B) {
	for _, bc := range []struct {
		name   string
		groups int
		pairs  [][2]string
	}{
		{"allowAll", 1, [][2]string{{"", ""}}},
		{"segmented", 20, ring(20)},
	} {
		for _, change := range []string{"policyLine", "onePeer", "noEffect"} {
			b.Run(bc.name+"/"+change, func(b *testing.B) {
				const n = 1000
				f := newFixture(b)
				docs := f.nodes(n, bc.groups)
				docs["policy.yaml"] = rules("", bc.pairs...)
				f.publish(docs)
				c := f.crowd(n)
				c.wait()
				var spent time.Duration
				var latencies []time.Duration
				total := 0
				b.ResetTimer()
				for i := range b.N {
					switch change {
					case "policyLine":
						docs["policy.yaml"] = rules(fmt.Sprintf(", ports: [tcp/%d]", 1000+i), bc.pairs...)
					case "onePeer":
						docs[name(7)+".yaml"] = f.node(7, bc.groups) + fmt.Sprintf("  listenPort: %d\n", 2000+i)
						docs[name(8)+".yaml"] = replacePort(f.node(8, bc.groups), 3000+i)
					case "noEffect":
						docs["notes.yaml"] = ""
						delete(docs, "notes.yaml")
					}
					zones := f.compile(docs)
					runtime.GC()
					before, start := cpu(), time.Now()
					if err := f.publisher.Publish(b.Context(), zones, f.root); err != nil {
						b.Fatal(err)
					}
					last, bytes := c.wait()
					spent += cpu() - before
					total += bytes
					for _, at := range last {
						latencies = append(latencies, at.Sub(start))
					}
				}
				slices.Sort(latencies)
				b.ReportMetric(spent.Seconds()/float64(b.N), "cpu-s/change")
				b.ReportMetric(float64(total)/float64(b.N*n), "B/agent")
				b.ReportMetric(latencies[len(latencies)*99/100].Seconds()*1000, "p99-ms")
				b.ReportMetric(latencies[len(latencies)-1].Seconds()*1000, "last-ms")
			})
		}
	}
}

func ring(n int) (pairs [][2]string) {
	for i := range n {
		pairs = append(pairs, [2]string{fmt.Sprintf("g%d", i), fmt.Sprintf("g%d", (i+1)%n)})
	}
	return pairs
}

// BenchmarkStorm is n agents that connect at once, with nothing and with everything in hand, without TLS.
func BenchmarkStorm(b *testing.B) {
	const n = 1000
	f := newFixture(b)
	docs := f.nodes(n, 1)
	docs["policy.yaml"] = rules("", [2]string{"", ""})
	f.publish(docs)
	z, _ := f.publisher.Zone("prod")
	snap, _ := z.Snapshot()
	for _, bc := range []string{"firstMap", "current"} {
		b.Run(bc, func(b *testing.B) {
			for range b.N {
				requests := make([][]byte, n)
				for i := range requests {
					query := ""
					if bc == "current" {
						node, _, _ := snap.Node(name(i))
						query = "?manifest=" + snap.Digest.String() + "&have=" + node.Digest.String()
					}
					requests[i] = f.request(name(i), "zstd", query)
				}
				before, start := cpu(), time.Now()
				var wg sync.WaitGroup
				conns := make([]net.Conn, n)
				for i := range n {
					wg.Go(func() {
						conn, err := net.Dial("tcp", f.addr)
						if err != nil {
							b.Error(err)
							return
						}
						conns[i] = conn
						if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
							b.Error(err)
						}
						if _, err := conn.Write(requests[i]); err != nil {
							b.Error(err)
							return
						}
						want := 500
						if bc == "firstMap" {
							want = 30_000
						}
						if _, err := io.CopyN(io.Discard, conn, int64(want)); err != nil {
							b.Error(err)
						}
					})
				}
				wg.Wait()
				b.ReportMetric((cpu() - before).Seconds(), "cpu-s/storm")
				b.ReportMetric(time.Since(start).Seconds(), "s/storm")
				for _, c := range conns {
					if c != nil {
						_ = c.Close()
					}
				}
			}
		})
	}
}

// BenchmarkMemory is the memory of one connected agent: heap and stacks of server and raw client together.
func BenchmarkMemory(b *testing.B) {
	const n = 1000
	for range b.N {
		f := newFixture(b)
		docs := f.nodes(n, 1)
		docs["policy.yaml"] = rules("", [2]string{"", ""})
		f.publish(docs)
		before := inUse()
		c := f.crowd(n)
		c.wait()
		b.ReportMetric(float64(inUse()-before)/n/1024, "KiB/agent")
	}
}

func inUse() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}
