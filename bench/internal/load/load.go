// Package load holds the generators of traffic, client and server: request and
// response (TCP_RR, UDP_RR, TCP_CRR, ICMP echo), a crowd of connections, short
// connections, and streams whose every byte is checked.
//
// Where times are measured, blocking sockets and one thread each are used, so
// that the runtime's poller does not add its wake-ups. Only [Streams] speak IPv6.
package load

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Ports of a [Server]. They are fixed: server and clients live in namespaces
// that nobody else uses.
const (
	PortRR  = 7001 // TCP, one thread for each connection
	PortUDP = 7001 // UDP
)

// Several ports widen the room of address pairs: one pair has about 28,000
// source ports, and a closed connection keeps its own for a while.
var (
	// PortsCRR take one connection at a time each.
	PortsCRR = []uint16{7100, 7101, 7102, 7103, 7104, 7105, 7106, 7107}
	// PortsHold take any number of connections.
	PortsHold = []uint16{7200, 7201, 7202, 7203}
)

const (
	// maxSamples bounds a generator's memory; when it is reached the generator
	// stops before its time.
	maxSamples = 1 << 19
	// replyTimeout is when a TCP exchange is given up as failed.
	replyTimeout = 3 * time.Second
	// udpTimeout is when a datagram is counted as lost.
	udpTimeout = 100 * time.Millisecond
)

// Latency sums up a run of exchanges.
type Latency struct {
	Exchanges int           // answered ones
	Lost      int           // unanswered ones; always 0 for TCP
	P50, P99  time.Duration // of the answered ones
	PerSecond float64       // answered ones per second of the whole run
}

// summarise sorts samples.
func summarise(samples []time.Duration, lost int, elapsed time.Duration) (Latency, error) {
	if len(samples) == 0 {
		return Latency{}, fmt.Errorf("no exchange was answered, %d were lost", lost)
	}
	slices.Sort(samples)
	return Latency{
		Exchanges: len(samples),
		Lost:      lost,
		P50:       samples[len(samples)/2],
		P99:       samples[len(samples)*99/100],
		PerSecond: float64(len(samples)) / elapsed.Seconds(),
	}, nil
}

// repeat calls exchange on a locked thread until d is over or maxSamples are
// taken. exchange reports whether it was answered.
func repeat(d time.Duration, exchange func() (bool, error)) (Latency, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	samples := make([]time.Duration, 0, maxSamples)
	lost := 0
	start := time.Now()
	last := start
	for last.Sub(start) < d && len(samples) < maxSamples {
		answered, err := exchange()
		if err != nil {
			return Latency{}, err
		}
		now := time.Now()
		if answered {
			samples = append(samples, now.Sub(last))
		} else {
			lost++
		}
		last = now
	}
	return summarise(samples, lost, last.Sub(start))
}

// RR exchanges bytes over one TCP connection for about d.
func RR(server netip.Addr, d time.Duration) (Latency, error) {
	fd, err := dial(server, PortRR)
	if err != nil {
		return Latency{}, fmt.Errorf("TCP_RR: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		return Latency{}, fmt.Errorf("TCP_RR: TCP_NODELAY: %w", err)
	}
	buf := make([]byte, 1)
	l, err := repeat(d, func() (bool, error) { return true, ping(fd, buf) })
	if err != nil {
		return Latency{}, fmt.Errorf("TCP_RR: %w", err)
	}
	return l, nil
}

// CRR opens a connection, exchanges a byte and closes it, one after the other and
// from port to port of the server, for about d.
func CRR(server netip.Addr, d time.Duration) (Latency, error) {
	buf := make([]byte, 1)
	next := 0
	l, err := repeat(d, func() (bool, error) {
		fd, err := dial(server, PortsCRR[next])
		if err != nil {
			return false, err
		}
		next = (next + 1) % len(PortsCRR)
		return true, errors.Join(ping(fd, buf), unix.Close(fd))
	})
	if err != nil {
		return Latency{}, fmt.Errorf("TCP_CRR: %w", err)
	}
	return l, nil
}

// UDPRR exchanges datagrams from one socket for about d. A datagram without an
// answer within 100 ms is lost.
func UDPRR(server netip.Addr, d time.Duration) (Latency, error) {
	fd, err := socket(unix.SOCK_DGRAM, udpTimeout)
	if err != nil {
		return Latency{}, fmt.Errorf("UDP_RR: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, sockaddr(server, PortUDP)); err != nil {
		return Latency{}, fmt.Errorf("UDP_RR: connect: %w", err)
	}
	var seq byte
	buf := make([]byte, 1)
	l, err := repeat(d, func() (bool, error) {
		seq++
		buf[0] = seq
		if _, err := unix.Write(fd, buf); err != nil {
			return false, fmt.Errorf("send: %w", err)
		}
		for {
			_, err := unix.Read(fd, buf)
			switch {
			case errors.Is(err, unix.EAGAIN):
				return false, nil
			case errors.Is(err, unix.EINTR):
			case err != nil:
				return false, fmt.Errorf("receive: %w", err)
			case buf[0] == seq: // any other is the late answer to a lost one
				return true, nil
			}
		}
	})
	if err != nil {
		return Latency{}, fmt.Errorf("UDP_RR: %w", err)
	}
	return l, nil
}

// ping sends the byte in buf over a connected stream and waits for one back.
func ping(fd int, buf []byte) error {
	if _, err := retry(func() (int, error) { return unix.Write(fd, buf) }); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	n, err := retry(func() (int, error) { return unix.Read(fd, buf) })
	if err != nil {
		return fmt.Errorf("receive: %w", err)
	}
	if n == 0 {
		return errors.New("receive: the server closed the connection")
	}
	return nil
}

// retry repeats a system call that a signal interrupted: the runtime preempts
// goroutines with signals.
func retry(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// dial returns a blocking connected TCP socket.
func dial(server netip.Addr, port uint16) (int, error) {
	fd, err := socket(unix.SOCK_STREAM, replyTimeout)
	if err != nil {
		return -1, err
	}
	// Called again after a signal, connect goes on waiting for the same handshake.
	_, err = retry(func() (int, error) { return 0, unix.Connect(fd, sockaddr(server, port)) })
	if err != nil && !errors.Is(err, unix.EISCONN) {
		return -1, errors.Join(fmt.Errorf("connect to %v port %d: %w", server, port, err), unix.Close(fd))
	}
	return fd, nil
}

// socket returns a blocking socket whose calls wait no longer than timeout.
func socket(kind int, timeout time.Duration) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	tv := unix.NsecToTimeval(timeout.Nanoseconds())
	for _, opt := range []int{unix.SO_RCVTIMEO, unix.SO_SNDTIMEO} {
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, opt, &tv); err != nil {
			return -1, errors.Join(fmt.Errorf("socket timeout: %w", err), unix.Close(fd))
		}
	}
	return fd, nil
}

func sockaddr(addr netip.Addr, port uint16) *unix.SockaddrInet4 {
	return &unix.SockaddrInet4{Port: int(port), Addr: addr.Unmap().As4()}
}
