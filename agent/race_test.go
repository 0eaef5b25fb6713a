//go:build race

package agent

// raceEnabled: the race detector takes several times the memory.
const raceEnabled = true
