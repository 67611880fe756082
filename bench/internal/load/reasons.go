package load

import (
	"errors"
	"net"

	"golang.org/x/sys/unix"
)

// Reasons count failures by what failed and why: "connection: network is unreachable". What tells one from the next of its kind, as addresses
// and numbers of bytes, is left out.
type Reasons map[string]int

// because is one failure of the kind that what names.
func because(what string, err error) Reasons {
	var (
		errno   unix.Errno
		timeout net.Error
	)
	why := ""
	switch {
	case errors.As(err, &errno):
		why = errno.Error()
	case errors.As(err, &timeout) && timeout.Timeout():
		why = "timeout"
	default:
		for next := err; next != nil; next = errors.Unwrap(next) {
			why = next.Error()
		}
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		what += ", connect"
	}
	return Reasons{what + ": " + why: 1}
}

// add adds up two counts.
func (r *Reasons) add(o Reasons) {
	if *r == nil && len(o) > 0 {
		*r = Reasons{}
	}
	for reason, n := range o {
		(*r)[reason] += n
	}
}
