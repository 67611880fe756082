package pktgen

import (
	"errors"
	"time"
)

// ErrGone says that a port's interface does not exist any more.
var ErrGone = errors.New("the port is gone")

// Port is where frames go out of and come in by. It belongs to one goroutine.
type Port interface {
	// Send gives frames to the port, in their order, and returns how many it has taken. Fewer than there are says that it is full.
	Send(frames [][]byte) (int, error)
	// AwaitRoom waits, for so long at most, until a port that was full may have room.
	AwaitRoom(limit time.Duration) error
	// Receive waits for frames, for so long at most, and returns those that are there then. They are the port's again with the next call.
	Receive(limit time.Duration) ([][]byte, error)
	// Calls is how many system calls the others have made so far.
	Calls() uint64
	Close() error
}
