package load

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// The parts of a mix.
const (
	mixStreams  = 4               // at a time, to each server and in each direction
	mixStreamed = 2 * time.Second // how long each stream is, at most
	mixClients  = 4               // of short connections
	// datagramSize is how long each datagram is, in bytes.
	datagramSize = 64
)

// Mix is a load of all kinds at once: streams both ways, short connections, datagrams and echo requests.
type Mix struct {
	Server   netip.Addr   // of all kinds
	Far      []netip.Addr // more servers of streams
	Duration time.Duration
}

// Mixed is what became of a mix.
type Mixed struct {
	Bytes       int64 // of streams, right ones
	Streams     int   // whole ones
	Connections int   // short ones
	Datagrams   int   // answered
	Pings       int   // answered
	// Wrong counts streams, short connections and datagrams with wrong bytes.
	Wrong int
	// Failed counts streams and short connections that were refused, reset or stuck; Lost datagrams and pings without answer.
	Failed, Lost int
	Reasons      Reasons // why they failed
	Example      string  // says of one that was wrong or failed why
}

// Add adds up two mixes.
func (m *Mixed) Add(o Mixed) {
	m.Bytes += o.Bytes
	m.Streams += o.Streams
	m.Connections += o.Connections
	m.Datagrams += o.Datagrams
	m.Pings += o.Pings
	m.Wrong += o.Wrong
	m.Failed += o.Failed
	m.Lost += o.Lost
	m.Reasons.add(o.Reasons)
	if o.Example != "" && (m.Example == "" || o.Wrong > 0) {
		m.Example = o.Example
	}
}

// Run has the mix. Nothing that fails ends it.
func (x Mix) Run() Mixed {
	var (
		sum  Mixed
		mu   sync.Mutex
		wg   sync.WaitGroup
		end  = time.Now().Add(x.Duration)
		stop = make(chan struct{})
	)
	part := func(run func() Mixed) {
		wg.Go(func() {
			m := run()
			mu.Lock()
			defer mu.Unlock()
			sum.Add(m)
		})
	}
	for _, server := range append([]netip.Addr{x.Server}, x.Far...) {
		for _, download := range []bool{false, true} {
			for range mixStreams {
				part(func() Mixed { return streamsUntil(server, download, end) })
			}
		}
	}
	part(func() Mixed {
		c := Churn(x.Server, 1<<30, mixClients, stop)
		return Mixed{Connections: c.Done, Failed: c.Failed - c.Wrong, Wrong: c.Wrong, Reasons: c.Reasons, Example: c.Example}
	})
	part(func() Mixed { return datagramsUntil(x.Server, end) })
	part(func() Mixed {
		l, err := Ping(x.Server, x.Duration)
		m := Mixed{Pings: l.Exchanges, Lost: l.Lost}
		if err != nil {
			m.Example = err.Error()
		}
		return m
	})
	time.Sleep(time.Until(end))
	close(stop)
	wg.Wait()
	return sum
}

// streamsUntil has one stream after the other.
func streamsUntil(server netip.Addr, download bool, end time.Time) (m Mixed) {
	for {
		d := min(mixStreamed, time.Until(end))
		if d <= 0 {
			return m
		}
		s, err := Streams{Server: server, Count: 1, Download: download, Duration: d}.Run()
		m.Bytes += s.Bytes
		switch {
		case err != nil:
			m.Add(Mixed{Failed: 1, Reasons: because("stream", err), Example: err.Error()})
			time.Sleep(pollInterval) // what refuses one refuses the next
		case s.Wrong > 0:
			m.Add(Mixed{Wrong: 1, Example: s.Example})
		case s.Stuck > 0:
			m.Add(Mixed{Failed: 1, Reasons: Reasons{"stream: stuck": 1}, Example: fmt.Sprintf("a stream was stuck after %d bytes", s.Bytes)})
		default:
			m.Streams++
		}
	}
}

// datagramsUntil exchanges one datagram after the other.
func datagramsUntil(server netip.Addr, end time.Time) (m Mixed) {
	fd, err := socket(unix.SOCK_DGRAM, udpTimeout)
	if err != nil {
		return Mixed{Failed: 1, Reasons: because("datagrams", err), Example: err.Error()}
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, sockaddr(server, PortUDP)); err != nil {
		return Mixed{Failed: 1, Reasons: because("datagrams", err), Example: err.Error()}
	}
	buf := make([]byte, 2*datagramSize)
	for n := uint64(0); time.Now().Before(end); n++ {
		right, err := datagram(fd, buf, n)
		switch {
		case err != nil:
			m.Lost++
			time.Sleep(time.Millisecond) // a link that is down refuses at once
		case right:
			m.Datagrams++
		default:
			m.Add(Mixed{Wrong: 1, Example: fmt.Sprintf("datagram %d: wrong bytes", n)})
		}
	}
	return m
}

// datagram sends the n-th datagram and waits for its answer. The late answer to an earlier one must be right, too.
func datagram(fd int, buf []byte, n uint64) (right bool, err error) {
	if _, err := unix.Write(fd, message(0, n)[:datagramSize]); err != nil {
		return false, err
	}
	for {
		size, err := retry(func() (int, error) { return unix.Read(fd, buf) })
		if err != nil {
			return false, err
		}
		if size != datagramSize {
			return false, nil
		}
		got := binary.BigEndian.Uint64(buf[8:])
		if got > n || !bytes.Equal(buf[:size], message(0, got)[:datagramSize]) {
			return false, nil
		}
		if got == n {
			return true, nil
		}
	}
}

// linkDown says whether err is what a socket call returns while a link is down or a route is missing.
func linkDown(err error) bool {
	for _, e := range []unix.Errno{unix.ENETUNREACH, unix.EHOSTUNREACH, unix.ENETDOWN, unix.ENOBUFS, unix.ECONNREFUSED, unix.EINTR} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
