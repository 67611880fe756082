package vasta_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"hash/crc32"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/vasta-net/vasta"
	"github.com/vasta-net/vasta/link"
	"github.com/vasta-net/vasta/link/mem"
	"github.com/vasta-net/vasta/netns"
	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/stats"
)

// experiment is the Ethernet type of the frames that are redirected here (IEEE 802, local experiments).
const experiment = 0x88b5

// Of a frame for the tests: a checksum, a number and its sender behind the Ethernet header, and room for more.
const (
	sumAt    = packet.EtherLen
	numberAt = sumAt + 4
	senderAt = numberAt + 4
	leastLen = 60
)

// signed is frame number n of a sender, in b.
func signed(b []byte, n uint32, sender byte) []byte {
	binary.BigEndian.PutUint16(b[12:], experiment)
	binary.BigEndian.PutUint32(b[numberAt:], n)
	b[senderAt] = sender
	b[len(b)-1] = byte(n * 7)
	binary.BigEndian.PutUint32(b[sumAt:], crc32.ChecksumIEEE(b[numberAt:]))
	return b
}

// checked is what signed has put into a frame; false when it is another's or damaged.
func checked(f *packet.Frame) (n uint32, sender byte, ok bool) {
	b := make([]byte, f.Len)
	if f.CopyAt(b, 0); len(b) < leastLen || binary.BigEndian.Uint16(b[12:]) != experiment {
		return 0, 0, false
	}
	return binary.BigEndian.Uint32(b[numberAt:]), b[senderAt], crc32.ChecksumIEEE(b[numberAt:]) == binary.BigEndian.Uint32(b[sumAt:])
}

// joined is a configuration whose hook redirects the frames of the tests to whom target names at the time.
func joined(target *atomic.Pointer[vasta.Network]) vasta.Config {
	c := plain()
	c.Hook = func(int) packet.Hook {
		return func(frames []packet.Frame, verdicts []packet.Verdict) {
			for i := range frames {
				var kind [2]byte
				if frames[i].CopyAt(kind[:], 12); binary.BigEndian.Uint16(kind[:]) == experiment {
					verdicts[i] = packet.RedirectTo(7)
				}
			}
		}
	}
	c.Redirect = func(number int, f *packet.Frame) bool { return number == 7 && target.Load().Deliver(f) }
	return c
}

// send sends a frame when there is room; to wait for that is the affair of who receives (mem.Guest).
func send(guest *mem.Guest, b []byte) {
	for out := (link.Out{Payload: [][]byte{b}}); !guest.Send(&out); {
		runtime.Gosched()
	}
}

// total are a network's counters.
func total(t *testing.T, n *vasta.Network) vasta.Stats {
	t.Helper()
	s, err := n.Stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestJoined: two guests whose networks redirect to each other: every frame, short or 64 KiB long, comes whole and in order at the other one, both ways at once, while both sleep and
// wake as they like. No sender is further ahead than what has room.
func TestJoined(t *testing.T) {
	const frames, ahead = 4000, 32
	ctx, fail := context.WithCancel(t.Context())
	defer fail()
	var guests [2]*mem.Guest
	var networks [2]*vasta.Network
	var targets [2]atomic.Pointer[vasta.Network]
	for i := range guests {
		var l vasta.Link
		l, guests[i] = memory(t)
		networks[i] = running(t, joined(&targets[i]), l)
		defer guests[i].Close()
	}
	targets[0].Store(networks[1])
	targets[1].Store(networks[0])
	var all sync.WaitGroup
	for i, g := range guests {
		room := make(chan struct{}, ahead) // a place for each frame that is on its way to g
		all.Go(func() {
			rng, b := rand.New(rand.NewPCG(uint64(i), 1)), make([]byte, 65_000)
			for n := range frames {
				select {
				case room <- struct{}{}:
				case <-ctx.Done():
					return
				}
				size := leastLen + rng.IntN(2000)
				if rng.IntN(10) == 0 {
					size = leastLen + rng.IntN(len(b)-leastLen)
				}
				send(guests[1-i], signed(b[:size], uint32(n), byte(1-i)))
			}
		})
		all.Go(func() {
			var batch [link.MaxBatch]packet.Frame
			for next := uint32(0); next < frames; {
				got, err := g.Receive(batch[:])
				if err == nil && got == 0 {
					err = g.Wait(ctx)
				}
				if err != nil {
					fail()
					t.Errorf("guest %d after %d frames: %v", i, next, err)
					return
				}
				for k := range batch[:got] {
					if n, sender, ok := checked(&batch[k]); !ok {
						continue // the network's own
					} else if n != next || int(sender) != 1-i {
						fail()
						t.Errorf("guest %d: frame %d of %d, want %d", i, n, sender, next)
						return
					}
					next++
					<-room
				}
			}
		})
	}
	all.Wait()
}

// TestNeighbours: the kernels of two guests, joined at layer 2 by hooks that know the other's addresses: a connection between the two goes past both gateways, in frames of up to 64 KiB at an MTU of 1500,
// with checksums left to the link, while both reach their own routers; whatever the number of workers is.
func TestNeighbours(t *testing.T) {
	addresses := [2]netip.Prefix{netip.MustParsePrefix("10.0.2.15/24"), netip.MustParsePrefix("10.0.2.16/24")}
	for _, queues := range []int{1, 3} {
		t.Run(itoa(queues)+" queues", func(t *testing.T) {
			var spaces [2]*space
			var networks [2]atomic.Pointer[vasta.Network]
			var longest [2]atomic.Int64 // bytes
			for i := range spaces {
				c, other := plain(), addresses[1-i].Addr().As4()
				c.Guest.NoIPv6, c.Guest.Address6, c.Guest.Gateway.V6 = true, netip.Prefix{}, netip.Addr{}
				c.Guest.Address4, c.Guest.MAC = addresses[i], netns.MAC{2, 0, 0, 0, 0, byte(1 + i)}
				c.Guest.MTU, c.Limits.Queues = 1500, queues
				c.Hook = func(int) packet.Hook {
					return func(frames []packet.Frame, verdicts []packet.Verdict) {
						for k := range frames {
							var b [42]byte
							n := frames[k].CopyAt(b[:], 0)
							asked := n == len(b) && binary.BigEndian.Uint16(b[12:]) == packet.EtherARP && [4]byte(b[38:]) == other
							if asked || netns.MAC(b[:6]) == (netns.MAC{2, 0, 0, 0, 0, byte(2 - i)}) {
								verdicts[k] = packet.RedirectTo(1 - i)
							}
						}
					}
				}
				c.Redirect = func(target int, f *packet.Frame) bool {
					longest[i].Store(max(longest[i].Load(), int64(f.Len)))
					return networks[target].Load().Deliver(f)
				}
				spaces[i] = newSpace(t)
				networks[i].Store(running(t, c, spaces[i].link()))
			}
			l := spaces[1].listen("tcp", "10.0.2.16:7000")
			defer l.Close()
			go echo(l)
			spaces[0].comesBack("10.0.2.16:7000", bytes.Repeat([]byte("neighbour"), 1_000_000))
			for i := range networks {
				s := total(t, networks[i].Load()).Total
				if s.Redirected == 0 || s.Delivered == 0 || s.TCPOpened+s.TCPAccepted != 0 {
					t.Errorf("guest %d: %d frames were redirected, %d delivered, %d connections went through the gateway", i, s.Redirected, s.Delivered, s.TCPOpened+s.TCPAccepted)
				}
				if n := longest[i].Load(); n < 10_000 {
					t.Errorf("the longest frame from guest %d had %d bytes: segments did not pass whole", i, n)
				}
			}
		})
	}
}

// TestDeliverToNobody: frames for a network that does not run wait for it, as far as there is room; what finds none is counted, by who redirects and by who has no room.
func TestDeliverToNobody(t *testing.T) {
	const sent, room = 1500, 1024
	var target atomic.Pointer[vasta.Network]
	l, guest := memory(t)
	network := running(t, joined(&target), l)
	defer guest.Close()
	l, idle := memory(t)
	defer idle.Close()
	waiting, err := vasta.New(plain(), l)
	if err != nil {
		t.Fatal(err)
	}
	target.Store(waiting)
	b := make([]byte, leastLen)
	for n := range sent {
		send(guest, signed(b, uint32(n), 0))
	}
	for s := total(t, network); s.Total.Redirected+s.Total.Dropped() < sent; s = total(t, network) {
	}
	if s := total(t, network).Total; s.Redirected != room || s.Dropped() != sent-room || drops(t, s)["redirect_refused"] != sent-room {
		t.Errorf("%d frames were redirected, and %v dropped", s.Redirected, drops(t, s))
	}
	if s := total(t, waiting).Total; s.Dropped() != sent-room || drops(t, s)["delivery_full"] != sent-room {
		t.Errorf("%v were dropped for want of room", drops(t, s))
	}
	ended := make(chan error, 1)
	go func() { ended <- waiting.Run(t.Context()) }()
	var batch [link.MaxBatch]packet.Frame
	for next := uint32(0); next < room; {
		got, err := idle.Receive(batch[:])
		if err == nil && got == 0 {
			err = idle.Wait(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		for k := range batch[:got] {
			if n, _, ok := checked(&batch[k]); ok {
				if n != next {
					t.Fatalf("frame %d, want %d", n, next)
				}
				next++
			}
		}
	}
	if err := waiting.Close(); err != nil {
		t.Error(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if waiting.Deliver(&packet.Frame{Bufs: [][]byte{b}, Len: len(b)}) {
		t.Error("a network that is closed takes a frame")
	}
}

// TestTargetCloses: networks come and go at any time while a guest's frames are redirected to them, and others deliver too: what comes is whole and in each
// sender's order, every frame is counted, and the one that redirects goes on.
func TestTargetCloses(t *testing.T) {
	const rounds, others = 20, 2
	var target atomic.Pointer[vasta.Network]
	l, guest := memory(t)
	first, unused := memory(t)
	defer unused.Close()
	before, err := vasta.New(plain(), first)
	if err != nil {
		t.Fatal(err)
	}
	if err := before.Close(); err != nil {
		t.Fatal(err)
	}
	target.Store(before)
	network := running(t, joined(&target), l)
	over := make(chan struct{})
	var senders sync.WaitGroup
	sent := uint32(0)
	senders.Go(func() {
		rng, b := rand.New(rand.NewPCG(1, 1)), make([]byte, 20_000)
		for ; ; sent++ {
			select {
			case <-over:
				return
			default:
			}
			send(guest, signed(b[:leastLen+rng.IntN(len(b)-leastLen)], sent, 0))
		}
	})
	for s := range others {
		senders.Go(func() {
			b := make([]byte, 300)
			for n := uint32(0); ; n++ {
				select {
				case <-over:
					return
				default:
				}
				target.Load().Deliver(&packet.Frame{Bufs: [][]byte{signed(b, n, byte(1+s))}, Len: len(b)})
			}
		})
	}
	rng := rand.New(rand.NewPCG(2, 1))
	for range rounds {
		l, far := memory(t)
		n, err := vasta.New(plain(), l)
		if err != nil {
			t.Fatal(err)
		}
		target.Store(n)
		ended := make(chan error, 1)
		go func() { ended <- n.Run(t.Context()) }()
		var batch [link.MaxBatch]packet.Frame
		var last [1 + others]int64
		for i := range last {
			last[i] = -1
		}
		for left := 1 + rng.IntN(300); left > 0; {
			got, err := far.Receive(batch[:])
			if err == nil && got == 0 {
				err = far.Wait(t.Context())
			}
			if err != nil {
				t.Fatal(err)
			}
			for k := range batch[:got] {
				b := make([]byte, batch[k].Len)
				if batch[k].CopyAt(b, 0); len(b) < packet.EtherLen || binary.BigEndian.Uint16(b[12:]) != experiment {
					continue // the network's own
				}
				number, sender, ok := checked(&batch[k])
				if !ok || int(sender) >= len(last) || int64(number) <= last[sender] {
					t.Fatalf("frame %d of %d is damaged, or out of order", number, sender)
				}
				last[sender] = int64(number)
				left--
			}
		}
		if rng.IntN(2) == 0 { // the guest goes first
			if err := far.Close(); err != nil {
				t.Error(err)
			}
		} else {
			defer far.Close()
		}
		if err := n.Close(); err != nil {
			t.Error(err)
		}
		<-ended
	}
	close(over)
	senders.Wait()
	s := total(t, network).Total
	for ; s.RxFrames < uint64(sent); s = total(t, network).Total {
	}
	if s.Redirected+drops(t, s)["redirect_refused"] != uint64(sent) || s.Redirected == 0 {
		t.Errorf("of %d frames %d were redirected, and %v dropped", sent, s.Redirected, drops(t, s))
	}
	if err := guest.Close(); err != nil {
		t.Error(err)
	}
}

// drops are the frames that a network has dropped, by the reason's name.
func drops(t *testing.T, s stats.Worker) map[string]uint64 {
	t.Helper()
	all := make(map[string]uint64)
	for why, n := range s.Drops {
		if n > 0 {
			all[stats.Reason(why).String()] = n
		}
	}
	return all
}
