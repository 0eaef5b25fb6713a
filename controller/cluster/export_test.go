package cluster

import (
	"time"

	"github.com/nats-io/nats.go"
)

// MaxArriving is how many bodies of one resource are read at once.
const MaxArriving = maxArriving

// NewPatientBus is for both ends in one process: while that is not scheduled, neither says that it is alive.
func NewPatientBus(conn *nats.Conn) Bus { return natsBus{conn, 5 * time.Minute} }
