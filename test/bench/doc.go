// Package bench measures Apex as a whole: real repositories, the real controller as a process of its own, and real agents
// over hosts in memory, on loopback. What one room does alone is measured by that room's own benchmarks; `make bench` runs
// both, and docs/performance.md says what the figures mean.
//
// It promises to report what it measured, whatever that is: a benchmark here fails when something does not work, never
// because it is slow. Every figure is the median of its rounds. CPU seconds are told apart by process where the process is
// the controller's; the agents of a fleet share one process, and their figures are said per agent.
package bench
