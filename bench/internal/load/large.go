package load

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// LargestDatagram is the most that an IPv4 datagram carries over UDP, in bytes.
	LargestDatagram = 65507
	// largeGiveUp is how many unanswered datagrams in a row, none having been answered, say that none will be.
	largeGiveUp = 20
)

// Answered is what became of a number of requests.
type Answered struct {
	Right   int
	Wrong   int    // answered with other bytes
	Lost    int    // not answered in time
	Example string // says of one that was wrong what was wrong with it
}

// LargeDatagrams sends count requests of size bytes to a Server, each when the last was answered or given up, and compares the answers.
func LargeDatagrams(server netip.Addr, count, size int) (Answered, error) {
	return largeDatagrams(server, count, size, udpTimeout)
}

// largeDatagrams gives a request up when it has not been answered within timeout.
func largeDatagrams(server netip.Addr, count, size int, timeout time.Duration) (Answered, error) {
	fd, err := socket(unix.SOCK_DGRAM, timeout)
	if err != nil {
		return Answered{}, err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, sockaddr(server, PortUDP)); err != nil {
		return Answered{}, fmt.Errorf("large datagrams: connect: %w", err)
	}
	var a Answered
	buf := make([]byte, size+1)
	var request []byte
	for i := range count {
		if a.Right+a.Wrong == 0 && a.Lost == largeGiveUp {
			a.Lost = count
			break
		}
		request = request[:0]
		for part := uint64(0); len(request) < size; part++ {
			request = append(request, message(uint64(i), part)...)
		}
		request = request[:size]
		if _, err := retry(func() (int, error) { return unix.Write(fd, request) }); err != nil {
			return Answered{}, fmt.Errorf("large datagrams: send: %w", err)
		}
		if err := a.await(fd, request, buf); err != nil {
			return Answered{}, err
		}
	}
	return a, nil
}

// await waits for the answer to a request. Late ones to earlier requests, whose numbers are smaller, are passed over: they are counted as lost already.
func (a *Answered) await(fd int, request, buf []byte) error {
	for {
		n, err := retry(func() (int, error) { return unix.Read(fd, buf) })
		switch {
		case errors.Is(err, unix.EAGAIN):
			a.Lost++
			return nil
		case err != nil:
			return fmt.Errorf("large datagrams: receive: %w", err)
		case bytes.Equal(buf[:n], request):
			a.Right++
			return nil
		case a.Lost > 0 && n == len(request) && bytes.Compare(buf[:8], request[:8]) < 0:
			continue
		}
		a.Wrong++
		a.Example = fmt.Sprintf("%d bytes came back of %d, the same up to byte %d", n, len(request), common(buf[:n], request))
		return nil
	}
}

// common is how many bytes two begin with in common.
func common(a, b []byte) int {
	n := 0
	for n < min(len(a), len(b)) && a[n] == b[n] {
		n++
	}
	return n
}
