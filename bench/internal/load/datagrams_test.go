package load

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// Every stream arrives whole over the loopback, both ways, at about its rate, whatever its datagrams are.
func TestDatagrams(t *testing.T) {
	serve(t)
	const d, rate = 200 * time.Millisecond, 5000
	for name, s := range map[string]Stream{
		"small":    {Size: 64, Rate: rate, Duration: d},
		"full":     {Size: 1472, Rate: rate, Duration: d},
		"segments": {Size: 1200, Segments: true, Rate: rate, Duration: d},
	} {
		for _, download := range []bool{false, true} {
			p, err := Datagrams(loopback, s, download)
			if err != nil {
				t.Fatalf("%s, download %t: %v", name, download, err)
			}
			a := p.Arrivals
			if p.Sent.Datagrams == 0 || p.Lost() != 0 || a.Duplicates != 0 || a.OutOfOrder != 0 || a.Wrong != 0 || a.Span <= 0 || p.Offered() > 1.1*rate {
				t.Errorf("%s, download %t: %+v", name, download, p)
			}
		}
	}
	if _, err := Datagrams(loopback, Stream{Size: seqLen - 1, Duration: d}, false); err == nil {
		t.Error("datagrams without a number were sent")
	}
	if _, err := Datagrams(netip.MustParseAddr("127.7.1.2"), Stream{Size: 64, Duration: d}, false); err == nil {
		t.Error("a stream to nobody")
	}
}

// TestTally holds the count against what was done to a sequence: some lost, some twice, some moved back.
func TestTally(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 300).Draw(t, "datagrams")
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		var seqs []int
		lost, twice := 0, 0
		for i := range n {
			switch r.IntN(6) {
			case 0:
				lost++
				continue
			case 1:
				twice++
				seqs = append(seqs, i)
			}
			seqs = append(seqs, i)
		}
		if rapid.Bool().Draw(t, "reordered") {
			r.Shuffle(len(seqs), func(i, j int) { seqs[i], seqs[j] = seqs[j], seqs[i] })
		}
		const size = 20
		var count tally
		for left := seqs; len(left) > 0; {
			k := min(len(left), 1+r.IntN(5))
			msg := make([]byte, k*size)
			for i, seq := range left[:k] {
				binary.BigEndian.PutUint64(msg[i*size:], uint64(seq))
			}
			count.take(msg, size)
			left = left[k:]
		}
		// Of those that came for the first time, the ones behind a higher number are out of order.
		highest, late := -1, 0
		for i, seq := range seqs {
			if slices.Contains(seqs[:i], seq) {
				continue
			}
			if seq < highest {
				late++
			}
			highest = max(highest, seq)
		}
		if count.Received != n-lost || count.Duplicates != twice || count.OutOfOrder != late || count.Wrong != 0 {
			t.Fatalf("%+v, want %d received, %d twice, %d out of order", count.Arrivals, n-lost, twice, late)
		}
	})
	var count tally
	count.take(make([]byte, 30), 20)
	msg := make([]byte, 20)
	binary.BigEndian.PutUint64(msg, maxSequence)
	count.take(msg, 20)
	if count.Received != 1 || count.Wrong != 2 {
		t.Errorf("a datagram, a part of one, and a number too high: %+v", count.Arrivals)
	}
}

// TestPace lets a schedule run in virtual time, with a sender that is kept from its turns now and then.
func TestPace(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := pace{perSecond: rapid.Float64Range(10, 1e6).Draw(t, "rate"), whole: rapid.Bool().Draw(t, "whole")}
		stalls := rapid.SliceOfN(rapid.Int64Range(0, 20e6), 0, 5).Draw(t, "stalls")
		const d = time.Second
		var now, stalled time.Duration
		sent := 0
		for now < d {
			n, wait := p.due(now, sent)
			if (n == 0) == (wait <= 0) || n > paceBatch {
				t.Fatalf("at %v: %d are due and %v is to be waited", now, n, wait)
			}
			sent += n
			now += wait + 100*time.Nanosecond
			if n > 0 && len(stalls) > 0 {
				now, stalled, stalls = now+time.Duration(stalls[0]), stalled+time.Duration(stalls[0]), stalls[1:]
			}
		}
		most := p.perSecond*now.Seconds() + 1
		least := p.perSecond*(d-paceStep).Seconds() - 1
		if !p.whole {
			least -= p.perSecond * stalled.Seconds()
		} else {
			least -= p.perSecond * (20 * time.Millisecond).Seconds() // the last stall is not made up for
		}
		if capacity := float64(paceBatch) / 100e-9; p.perSecond < capacity && (float64(sent) > most || float64(sent) < least) {
			t.Fatalf("%d sent, want %.0f to %.0f", sent, least, most)
		}
	})
	unpaced := pace{}
	if n, wait := unpaced.due(0, 1e6); n != paceBatch || wait != 0 {
		t.Errorf("without a rate %d are due, and %v is to be waited", n, wait)
	}
}

func TestCarried(t *testing.T) {
	probe := func(spoil func(*Probe)) Probe {
		p := Probe{
			Sent:     Sent{Datagrams: 10_000, Took: time.Second, End: 5 * time.Second},
			Arrivals: Arrivals{Received: 9990, Span: time.Second, Last: 5*time.Second + lateLimit, OutOfOrder: 100},
		}
		spoil(&p)
		return p
	}
	for name, test := range map[string]struct {
		spoil func(*Probe)
		want  bool
	}{
		"as much lost as is tolerated": {func(*Probe) {}, true},
		"one more":                     {func(p *Probe) { p.Arrivals.Received-- }, false},
		"late":                         {func(p *Probe) { p.Arrivals.Last++ }, false},
		"wrong":                        {func(p *Probe) { p.Arrivals.Wrong++ }, false},
		"nothing sent":                 {func(p *Probe) { p.Sent.Datagrams = 0 }, false},
		"twice":                        {func(p *Probe) { p.Arrivals.Duplicates = 50 }, true},
	} {
		if got := probe(test.spoil).Carried(); got != test.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

// A search over the loopback finds what the flood shows, or a rate that was carried.
func TestSearch(t *testing.T) {
	serve(t)
	f, err := Search{Server: loopback, Stream: Stream{Size: 64, Duration: 20 * time.Millisecond}}.Run()
	if err != nil {
		t.Fatal(err)
	}
	if f.Flood.Sent.Datagrams == 0 || f.Best.Sent.Datagrams > 0 && !f.Best.Carried() || len(f.Probes) < searchFloods || len(f.Probes) > searchFloods+searchSteps*searchTries {
		t.Errorf("%+v", f)
	}
}

func TestLargeDatagrams(t *testing.T) {
	serve(t)
	if a, err := largeDatagrams(loopback, 20, LargestDatagram, patient); err != nil || a != (Answered{Right: 20}) {
		t.Errorf("%+v, %v", a, err)
	}
}

// patient is how long a client waits for an answer that comes: far longer than a busy machine takes.
const patient = time.Second

func TestWrongAnswersToLargeDatagrams(t *testing.T) {
	const size = 1000
	for name, test := range map[string]struct {
		answer  func(i int, request, last []byte) [][]byte
		timeout time.Duration
		want    Answered
	}{
		"cut": {func(_ int, b, _ []byte) [][]byte { return [][]byte{b[:size-1]} }, patient, Answered{Wrong: 3, Example: "999 bytes"}},
		"changed": {func(_ int, b, _ []byte) [][]byte { b[500] ^= 1; return [][]byte{b} }, patient,
			Answered{Wrong: 3, Example: "up to byte 500"}},
		"one lost, and late": {func(i int, b, last []byte) [][]byte {
			if i == 0 {
				return nil
			}
			if i == 1 {
				return [][]byte{last, b}
			}
			return [][]byte{b}
		}, patient, Answered{Right: 2, Lost: 1}},
		"never": {func(int, []byte, []byte) [][]byte { return nil }, udpTimeout, Answered{Lost: 3}},
	} {
		t.Run(name, func(t *testing.T) {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			if err := unix.Bind(fd, sockaddr(loopback, PortUDP)); err != nil {
				t.Fatal(err)
			}
			done := make(chan struct{})
			go func() {
				defer close(done)
				var last []byte
				for i := 0; ; i++ {
					b := make([]byte, size)
					n, from, err := unix.Recvfrom(fd, b, 0)
					if err != nil || n == 0 {
						return // an empty datagram: the client has been answered
					}
					before := last
					last = slices.Clone(b)
					for _, answer := range test.answer(i, b, before) {
						_ = unix.Sendto(fd, answer, 0, from)
					}
				}
			}()
			a, err := largeDatagrams(loopback, 3, size, test.timeout)
			if err != nil || a.Right != test.want.Right || a.Wrong != test.want.Wrong || a.Lost != test.want.Lost || !strings.Contains(a.Example, test.want.Example) {
				t.Errorf("%+v, %v; want %+v", a, err, test.want)
			}
			if err := unix.Sendto(fd, nil, 0, sockaddr(loopback, PortUDP)); err != nil {
				t.Fatal(err)
			}
			<-done
			if err := unix.Close(fd); err != nil {
				t.Error(err)
			}
		})
	}
}
