package tap

import (
	"testing"

	"github.com/vasta-net/vasta/link"
	"github.com/vasta-net/vasta/packet"
	"golang.org/x/sys/unix"
)

// newPair is a queue over a datagram socket, which can be made to do what a device hardly ever does, and the other end.
func newPair(t *testing.T) (*Queue, int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	q, err := open(fds[0], link.Features{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		unix.Close(fds[1])
		if err := q.Close(); err != nil {
			t.Error(err)
		}
	})
	return q, fds[1]
}

func TestMessagesWithoutAHeaderAreRefused(t *testing.T) {
	q, peer := newPair(t)
	for _, n := range []int{0, packet.NetHdrLen - 1, packet.NetHdrLen, packet.NetHdrLen + 60} {
		if _, err := unix.Write(peer, make([]byte, n)); err != nil {
			t.Fatal(err)
		}
	}
	frames := make([]packet.Frame, 8)
	n, err := q.Receive(frames)
	if n != 2 || err != nil || frames[0].Len != 0 || frames[1].Len != 60 {
		t.Errorf("Receive = %d, %v, lengths %d and %d", n, err, frames[0].Len, frames[1].Len)
	}
	if got := q.Counters().Refused; got != 2 {
		t.Errorf("%d refused, want 2", got)
	}
}

func TestFullQueueTakesNothing(t *testing.T) {
	q, peer := newPair(t)
	out := link.Out{Head: make([]byte, 60), Payload: [][]byte{make([]byte, 1000)}}
	sent := 0
	for q.Send(&out) {
		if sent++; sent > 1e6 {
			t.Fatal("the queue never fills up")
		}
	}
	if got := q.Counters(); got.Refused != 0 || got.Writes != uint64(sent+1) {
		t.Errorf("counters %+v after %d frames", got, sent)
	}
	b := make([]byte, 4096)
	if n, err := unix.Read(peer, b); n != packet.NetHdrLen+1060 || err != nil {
		t.Errorf("the other end read %d, %v", n, err)
	}
	if !q.Send(&out) {
		t.Error("Send with room: still full")
	}
}

func TestOtherReadErrorsAreReported(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	q, err := open(fds[0], link.Features{})
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	// Closing an end with unread data resets the other.
	if _, err := unix.Write(fds[0], []byte{1}); err != nil {
		t.Fatal(err)
	}
	unix.Close(fds[1])
	n, err := q.Receive(make([]packet.Frame, 1))
	if n != 0 || err == nil || err == link.ErrGone {
		t.Errorf("Receive = %d, %v; want the errno", n, err)
	}
}
