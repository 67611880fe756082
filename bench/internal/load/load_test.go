package load

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// loopback is an address of the machine's loopback that nobody else listens on.
var loopback = netip.MustParseAddr("127.7.1.1")

func serve(t *testing.T) {
	t.Helper()
	s, err := Listen(loopback)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestListenTwice(t *testing.T) {
	serve(t)
	if s, err := Listen(loopback); s != nil || !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("a second server on the same ports: %v, %v", s, err)
	}
}

func TestGenerators(t *testing.T) {
	serve(t)
	const d = 100 * time.Millisecond
	for name, run := range map[string]func(netip.Addr, time.Duration) (Latency, error){
		"TCP_RR": RR, "TCP_CRR": CRR, "UDP_RR": UDPRR,
	} {
		t.Run(name, func(t *testing.T) {
			var l Latency
			for range 5 { // a busy machine may spoil some
				var err error
				if l, err = run(loopback, d); err != nil {
					t.Fatal(err)
				}
				fit := float64(l.Exchanges) / d.Seconds()
				if l.Exchanges >= 10 && l.Lost == 0 && 0 < l.P50 && l.P50 <= l.P99 && l.P99 <= d && fit/5 <= l.PerSecond && l.PerSecond <= 1.01*fit {
					return
				}
			}
			t.Errorf("in none of 5 runs of %v all came back in time, at a rate that fits: %+v", d, l)
		})
	}
}

func TestNobodyAnswers(t *testing.T) {
	nobody := netip.MustParseAddr("127.7.1.2")
	for name, run := range map[string]func(netip.Addr, time.Duration) (Latency, error){
		"TCP_RR": RR, "TCP_CRR": CRR, "UDP_RR": UDPRR,
	} {
		if l, err := run(nobody, 10*time.Millisecond); err == nil {
			t.Errorf("%s: %+v", name, l)
		}
	}
	if _, err := Gather(nobody, 3); err == nil || strings.Contains(err.Error(), "\n") {
		t.Errorf("a crowd gathered where nobody listens: %v, want one line", err)
	}
}

func TestLostDatagramsAreCountedAndLateAnswersIgnored(t *testing.T) {
	fd, err := socket(unix.SOCK_DGRAM, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, sockaddr(loopback, PortUDP)); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	requests := 0
	go func() {
		defer close(done)
		buf := make([]byte, 1)
		for i := 1; ; i++ {
			var from unix.Sockaddr
			_, err := retry(func() (n int, err error) { n, from, err = unix.Recvfrom(fd, buf, 0); return n, err })
			if err != nil {
				return // the generator has stopped
			}
			requests = i
			switch {
			case i%3 == 0: // lost
			case i%3 == 1 && i > 1: // the lost one's answer comes first, late
				_ = unix.Sendto(fd, []byte{buf[0] - 1}, 0, from)
				fallthrough
			default:
				_ = unix.Sendto(fd, buf, 0, from)
			}
		}
	}()
	l, err := UDPRR(loopback, 10*udpTimeout)
	if err != nil {
		t.Fatal(err)
	}
	<-done
	// On a busy machine more are given up than were lost. A late answer taken for one in time would make it fewer.
	if lost := requests / 3; lost == 0 || l.Lost < lost || l.Exchanges+l.Lost != requests {
		t.Errorf("every third of %d datagrams was lost: %+v", requests, l)
	}
}

func TestCrowd(t *testing.T) {
	serve(t)
	c, err := Gather(loopback, 100)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if len(c.conns) != 100 {
		t.Fatalf("%d connections, want 100", len(c.conns))
	}
	for i, conn := range c.conns { // all are still served
		buf := []byte{byte(i)}
		if _, err := conn.Write(buf); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(buf); err != nil || buf[0] != byte(i) {
			t.Fatalf("connection %d: %v, byte %d", i, err, buf[0])
		}
	}
}

func TestSummarise(t *testing.T) {
	samples := make([]time.Duration, 100)
	for i := range samples {
		samples[i] = time.Duration(100-i) * time.Microsecond // 1 to 100 µs, unsorted
	}
	got, err := summarise(samples, 3, 2*time.Second)
	want := Latency{Exchanges: 100, Lost: 3, P50: 51 * time.Microsecond, P99: 100 * time.Microsecond, PerSecond: 50}
	if err != nil || got != want {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
}
