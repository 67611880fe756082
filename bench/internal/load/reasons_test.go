package load

import (
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func TestReasonsLeaveOutWhatDiffers(t *testing.T) {
	var sum Reasons
	sum.add(nil)
	if sum != nil {
		t.Errorf("%v of nothing", sum)
	}
	for i := range 2 {
		peer := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 7000 + i}
		refused := &net.OpError{Op: "dial", Net: "tcp", Addr: peer, Err: os.NewSyscallError("connect", unix.ENETUNREACH)}
		reset := &net.OpError{Op: "read", Net: "tcp", Addr: peer, Err: os.NewSyscallError("read", unix.ECONNRESET)}
		silent := &net.OpError{Op: "dial", Net: "tcp", Addr: peer, Err: os.ErrDeadlineExceeded}
		sum.add(because("connection", refused))
		sum.add(because("stream", fmt.Errorf("receive, after %d bytes: %w", i, reset)))
		sum.add(because("stream", silent))
		sum.add(because("connection", fmt.Errorf("response, after %d bytes: %w", i, io.ErrUnexpectedEOF)))
	}
	want := Reasons{
		"connection, connect: network is unreachable": 2, "stream: connection reset by peer": 2,
		"stream, connect: timeout": 2, "connection: unexpected EOF": 2,
	}
	if !maps.Equal(sum, want) {
		t.Errorf("%v", sum)
	}
}
