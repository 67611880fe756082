package load

import (
	"net"
	"net/netip"
	"testing"
	"time"
)

func TestTrickle(t *testing.T) {
	serve(t)
	c, err := Gather(loopback, 50)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	got := c.Trickle(time.Second)
	if got.Messages != 50 || got.Lost != 0 || got.Wrong != 0 || got.Example != "" {
		t.Errorf("%+v", got)
	}
	// Of two connections one ends, and one answers wrongly.
	here, there := net.Pipe()
	there.Close()
	c.conns[7].Close()
	c.conns[7] = here
	liar, lie := net.Pipe()
	go func() {
		buf := make([]byte, trickleSize)
		n, _ := lie.Read(buf)
		buf[3] ^= 1
		_, _ = lie.Write(buf[:n])
	}()
	c.conns[9].Close()
	c.conns[9] = liar
	got = c.Trickle(time.Second)
	if got.Messages != 50 || got.Lost != 2 || got.Wrong != 1 || got.Example == "" {
		t.Errorf("%+v", got)
	}
}

func TestChurn(t *testing.T) {
	serve(t)
	if got := Churn(loopback, 500, 8, nil); got.Done != 500 || got.Failed != 0 || got.PerSecond <= 0 {
		t.Errorf("%+v", got)
	}
	if got := Churn(netip.MustParseAddr("127.7.1.2"), 20, 4, nil); got.Done != 0 || got.Failed != 20 || got.Wrong != 0 || got.Example == "" {
		t.Errorf("nobody listens: %+v", got)
	}
	stop := make(chan struct{})
	close(stop)
	if got := Churn(loopback, 500, 8, stop); got.Done+got.Failed != 0 {
		t.Errorf("stopped before it began: %+v", got)
	}
}

func TestMessagesDiffer(t *testing.T) {
	seen := make(map[string]bool)
	for who := range uint64(50) {
		for n := range uint64(50) {
			seen[string(message(who, n))] = true
		}
	}
	if len(seen) != 2500 {
		t.Errorf("%d of 2500 messages differ", len(seen))
	}
}

func TestPing(t *testing.T) {
	l, err := Ping(loopback, 100*time.Millisecond)
	if err != nil || l.Exchanges != 50 || l.Lost != 0 || l.P50 <= 0 || l.P99 < l.P50 || l.P99 > time.Second {
		t.Errorf("%+v, %v", l, err)
	}
	if l, err := Ping(netip.MustParseAddr("192.0.2.200"), 20*time.Millisecond); err == nil {
		t.Errorf("nobody answers: %+v", l)
	}
	// One answer in ten is missing: the 99th percentile is that of a request without answer.
	p := prober{took: make([]time.Duration, 10)}
	for i := range 9 {
		p.took[i] = time.Millisecond
	}
	if l, err := p.latency(); err != nil || l.P50 != time.Millisecond || l.P99 != pingGrace || l.Lost != 1 || l.Exchanges != 9 {
		t.Errorf("%+v, %v", l, err)
	}
}

func TestInternetChecksum(t *testing.T) {
	// The example of RFC 1071, section 3.
	if got := internetChecksum([]byte{0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7}); got != ^uint16(0xddf2) {
		t.Errorf("%#x", got)
	}
}
