package machine

import "syscall"

// The two ends talk over a virtio serial port, in gob. The host sends orders, the guest sends reports.

// order is what the host asks for. Exactly one of the pointers is set.
type order struct {
	ID   uint64 // of the command
	Run  *runOrder
	Kill *killOrder
}

// runOrder starts a command.
type runOrder struct {
	Args     []string
	Env      []string
	Dir      string
	UID, GID uint32
}

// killOrder sends a signal to the command's process group.
type killOrder struct {
	Signal syscall.Signal
}

// report is what the guest tells. ID is that of the command, 0 for the machine itself.
type report struct {
	ID uint64
	// Ready is true in the first report, when the guest takes orders, and only there.
	Ready bool
	// Output has been written by the command.
	Output *output
	// Ended is the last report of a command.
	Ended *ended
}

type output struct {
	Stderr bool
	Data   []byte
}

// ended tells how a command ended: by Signal when that is not 0, otherwise with Status. Err says why it was not started.
type ended struct {
	Err    string
	Status int
	Signal syscall.Signal
}
