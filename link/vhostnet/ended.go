package vhostnet

import (
	"github.com/vasta-net/vasta/link"
	"github.com/vasta-net/vasta/packet"
)

// ended is what is left of a queue that goes on neither with rings nor without.
type ended struct {
	inner   link.Queue // what it was; closed, if it has rings
	refused uint64
}

func (*ended) Fd() int                             { return -1 }
func (*ended) Receive([]packet.Frame) (int, error) { return 0, link.ErrGone }
func (*ended) Flush()                              {}
func (e *ended) Features() link.Features           { return e.inner.Features() }
func (e *ended) Counters() link.Counters           { return link.Counters{Refused: e.refused} }

func (e *ended) Send(*link.Out) bool {
	e.refused++
	return true
}

func (e *ended) Close() error { return nil }
