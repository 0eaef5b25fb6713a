// Package wgdevice runs a WireGuard device inside this process, for hosts whose kernel has none: wireguard-go on a TUN
// interface, with the UAPI socket that makes `wg show` and wgctrl work as if it were a kernel device. The device lives
// as long as the process; its interface goes with it.
//
// Memory: wireguard-go takes packet buffers of 64 KiB from pools that have no upper bound on Linux
// (device.PreallocatedBuffersPerPool is a constant 0). An idle device holds 25 MiB of them, in batches of 128 for the
// TUN and for each UDP socket, of which under 2 MiB are resident, because untouched pages are not; under load the queues may hold some hundred MiB, which the garbage collector takes back. The
// pools are not bounded here on purpose: a bound makes the TUN reader wait for buffers, and packets staged for peers
// that do not answer keep theirs for up to 90 s, so one dead peer could stop the traffic to all. Smaller batches cost
// throughput, because segmentation offload needs them. What is left is the soft limit of the Go runtime: set GOMEMLIMIT
// (or debug.SetMemoryLimit) on small machines.
package wgdevice
