package net

import (
	"context"
	"errors"
	"hash/maphash"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/pagepool"
)

// stream is traffic toward the driver of a pair: numbered frames of changing length, each with a hash, from one goroutine; another receives them and looks at each.
type stream struct {
	r     *rig
	seed  maphash.Seed
	stop  atomic.Bool
	got   atomic.Uint64
	wrong atomic.Uint64
	sent  uint64
	all   sync.WaitGroup
	errs  [2]error
}

const digest = 22 // the hash lies behind the Ethernet header and the number

func startStream(r *rig, step func()) *stream {
	s := &stream{r: r, seed: maphash.MakeSeed()}
	s.all.Go(s.deliver)
	s.all.Go(func() {
		var frames [32]packet.Frame
		pair, last := r.driver.Pairs()[0], uint64(0)
		for !s.stop.Load() {
			n, err := pair.Receive(frames[:])
			if err != nil {
				s.errs[1] = err
				return
			}
			for i := range frames[:n] {
				last = s.look(&frames[i], last)
			}
			s.got.Add(uint64(n))
			if step != nil {
				step()
			}
		}
	})
	return s
}

func (s *stream) deliver() {
	var f [8]packet.Frame
	for !s.stop.Load() {
		for i := range f {
			s.sent++
			b := pattern(60+int(s.sent*977%3000), uint32(s.sent))
			b[0] = 2
			putNumber(b, s.sent)
			clear(b[digest : digest+8])
			h := maphash.Bytes(s.seed, b)
			for k := range 8 {
				b[digest+k] = byte(h >> (8 * k))
			}
			f[i] = packet.Frame{Bufs: [][]byte{b}, Len: len(b)}
		}
		for at := 0; at < len(f) && !s.stop.Load(); {
			n, err := s.r.device.Pairs()[0].Deliver(f[at:])
			if err != nil {
				s.errs[0] = err
				return
			}
			at += n
		}
	}
}

func putNumber(b []byte, n uint64) {
	for k := range 8 {
		b[packet.EtherLen+k] = byte(n >> (8 * k))
	}
}

// look checks a frame's hash, and that its number is higher than the last.
func (s *stream) look(f *packet.Frame, last uint64) uint64 {
	b := make([]byte, f.Len)
	f.CopyAt(b, 0)
	var h, n uint64
	for k := range 8 {
		h |= uint64(b[digest+k]) << (8 * k)
		n |= uint64(b[packet.EtherLen+k]) << (8 * k)
	}
	clear(b[digest : digest+8])
	if maphash.Bytes(s.seed, b) != h || n <= last {
		s.wrong.Add(1)
	}
	return n
}

// until waits until more frames have come.
func (s *stream) until(t *testing.T, more uint64) {
	t.Helper()
	want := s.got.Load() + more
	for deadline := time.Now().Add(30 * time.Second); s.got.Load() < want; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d frames came, %d were to come", s.got.Load(), want)
		}
	}
}

func (s *stream) end(t *testing.T) {
	t.Helper()
	s.stop.Store(true)
	s.all.Wait()
	if err := errors.Join(s.errs[:]...); err != nil {
		t.Error(err)
	}
	if n := s.wrong.Load(); n > 0 {
		t.Errorf("%d frames have another hash, or came again", n)
	}
}

// promiscuous are the features of a driver that takes every frame.
const promiscuous = common | MrgRxbuf | GuestCsum | GuestTSO4 | IndirectDesc

// TestCirculation: 5 s of traffic, more than 10,000 frames in each mode: buffers go round, and what was handed out less what came back is what is posted (row 0.21).
func TestCirculation(t *testing.T) {
	for _, m := range modes {
		r := newRig(t, DeviceConfig{}, DriverConfig{Features: common | m.Features | IndirectDesc, CopyBreak: -1})
		s := startStream(r, nil)
		until := time.Now().Add(5 * time.Second / time.Duration(len(modes)))
		s.until(t, 10_000)
		for time.Now().Before(until) {
			s.until(t, 1)
		}
		s.end(t)
		p := r.driver.Pairs()[0]
		st := p.Pool.Stats()
		if int(st.Hold()-st.Release()) != p.Pool.InUse() || p.Pool.InUse() == 0 {
			t.Errorf("%v: %d pages went out, %d came back, %d are in use", m.Mode, st.Hold(), st.Release(), p.Pool.InUse())
		}
		again := p.ReceiveStats().Kept + st.AllocFast
		// What is in the ring has not come back yet.
		if ratio := float64(again) / float64(again+st.AllocSlow-uint64(p.Pool.InUse())); ratio < 0.99 {
			t.Errorf("%v: %.3f of the memory was used before: %+v", m.Mode, ratio, st)
		}
		if maps, unmaps := r.driver.arena.Mapped(); maps != 1 || unmaps != 0 {
			t.Errorf("%v: mapped %d times, unmapped %d times", m.Mode, maps, unmaps)
		}
		if err := r.driver.Close(t.Context()); err != nil {
			t.Errorf("%v: %v", m.Mode, err)
		}
	}
}

// TestUpDown: down and up a thousand times under load, and receive modes switched meanwhile by the control queue (rows 0.16, 0.23): buffers stay posted, no frame is
// lost or wrong, and frames come again.
func TestUpDown(t *testing.T) {
	r := newRig(t, DeviceConfig{}, DriverConfig{Features: promiscuous | CtrlVQ | CtrlRX | CtrlGuestOffloads})
	if err := r.driver.SetRXMode(t.Context(), Promisc, true); err != nil {
		t.Fatal(err)
	}
	s := startStream(r, nil)
	for i := range 1000 {
		r.driver.Down()
		if err := r.driver.SetRXMode(t.Context(), AllMulti, i%2 == 0); err != nil {
			t.Fatal(err)
		}
		r.driver.Up()
		if err := r.driver.SetOffloads(t.Context(), []Features{0, GuestCsum, GuestCsum | GuestTSO4}[i%3]); err != nil {
			t.Fatal(err)
		}
		if i%100 == 0 {
			s.until(t, 100)
		}
	}
	s.until(t, 1000)
	s.end(t)
}

// TestRebind: a driver ends and another one begins over the same device and memory, 200 times, while the device delivers (row 0.15).
func TestRebind(t *testing.T) {
	device, err := NewDevice(DeviceConfig{Config: Config{MTU: 1500, MaxPairs: 2}})
	if err != nil {
		t.Fatal(err)
	}
	arena, err := pagepool.NewArena(64 << 20)
	if err != nil {
		t.Fatal(err)
	}
	if err := arena.Map(device); err != nil {
		t.Fatal(err)
	}
	var stop atomic.Bool
	var all sync.WaitGroup
	all.Go(func() {
		f := []packet.Frame{{Bufs: [][]byte{pattern(9000, 5)}, Len: 9000}, {Bufs: [][]byte{pattern(100, 6)}, Len: 100}}
		for !stop.Load() {
			for _, p := range device.Pairs() {
				if _, err := p.Deliver(f); err != nil {
					t.Error(err)
					return
				}
			}
		}
	})
	for i := range 200 {
		m := modes[1+i%3]
		driver, err := NewDriver(DriverConfig{Transport: device, Arena: arena, Features: common | m.Features | []Features{0, RingPacked}[i%2], QueueSize: 128})
		if err != nil {
			t.Fatal(err)
		}
		var frames [16]packet.Frame
		for got, deadline := 0, time.Now().Add(10*time.Second); got < 50; {
			n, err := driver.Pairs()[0].Receive(frames[:])
			if err != nil || time.Now().After(deadline) {
				t.Fatalf("driver %d: %d frames, %v", i, got, err)
			}
			got += n
		}
		if err := driver.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := arena.Available(); n != 1024 {
			t.Fatalf("after driver %d, %d of 1024 pages are free", i, n)
		}
	}
	stop.Store(true)
	all.Wait()
	if err := arena.Close(); err != nil {
		t.Error(err)
	}
}

// TestToggleHook: programs change a thousand times under load: what is sent back, dropped and passed adds up.
func TestToggleHook(t *testing.T) {
	var verdict atomic.Uint32
	r := newRig(t, DeviceConfig{}, DriverConfig{Features: promiscuous, Headroom: 64, Hook: func(int) packet.Hook {
		return func(frames []packet.Frame, verdicts []packet.Verdict) {
			v := packet.Verdict(verdict.Load())
			for i := range verdicts {
				if v == packet.TX {
					packet.SwapMACs(frames[i:i+1], verdicts[i:i+1])
				}
				verdicts[i] = v
			}
		}
	}})
	back := uint64(0)
	s := startStream(r, func() {
		var frames [64]packet.Frame
		if n, _ := r.device.Pairs()[0].Take(frames[:]); n > 0 {
			back += uint64(n)
			if err := r.device.Pairs()[0].Done(); err != nil {
				t.Error(err)
			}
		}
	})
	verdicts := func() (sum uint64) { return s.got.Load() }
	for i := range 1000 {
		verdict.Store(uint32(i) % 3)
		if i%100 == 0 {
			verdict.Store(uint32(packet.Pass))
			s.until(t, 10)
		}
	}
	verdict.Store(uint32(packet.Pass))
	s.until(t, 100)
	s.end(t)
	st := r.driver.Pairs()[0].ReceiveStats()
	if st.Verdicts[packet.Pass] != verdicts() || st.Frames != st.Verdicts[0]+st.Verdicts[1]+st.Verdicts[2] || back > st.Verdicts[packet.TX] {
		t.Errorf("%+v; %d passed, %d came back", st, s.got.Load(), back)
	}
}

// TestRefillAfterFailure: a pool that is empty is said so, buffers are posted again when there is memory, and Close in between does no harm (row 0.19).
func TestRefillAfterFailure(t *testing.T) {
	for _, closeEarly := range []bool{false, true} {
		arena, err := pagepool.NewArena(32 << 20)
		if err != nil {
			t.Fatal(err)
		}
		r := newRig(t, DeviceConfig{}, DriverConfig{Features: promiscuous, Arena: arena, Pages: 16, CopyBreak: -1})
		p := r.driver.Pairs()[0]
		other, err := pagepool.NewPool(pagepool.Config{Provider: arena})
		if err != nil {
			t.Fatal(err)
		}
		// Whatever the pair could still have is somebody else's now.
		var taken []pagepool.Page
		for p.Pool.Free() > 0 {
			pg, ok := p.Pool.Get()
			if !ok {
				break
			}
			taken = append(taken, pg)
		}
		var frames [8]packet.Frame
		f := []packet.Frame{{Bufs: [][]byte{pattern(4000, 1)}, Len: 4000}}
		received := 0
		held := []pagepool.Page{}
		for range 2000 {
			if n, err := r.device.Pairs()[0].Deliver(f); err != nil {
				t.Fatal(err)
			} else if n == 0 {
				break
			}
			n, err := p.Receive(frames[:])
			if err != nil {
				t.Fatal(err)
			}
			received += n
			held = p.Hold(held, 0)
		}
		if !p.Starving() || received < 10 {
			t.Fatalf("%d frames were received, starving: %v, %d posted", received, p.Starving(), p.Posted())
		}
		if closeEarly {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
			if err := r.driver.Close(ctx); !errors.Is(err, pagepool.ErrInUse) || !strings.Contains(err.Error(), "receive ring") {
				t.Errorf("Close while pages are held: %v", err)
			}
			cancel()
		}
		for _, pg := range taken {
			p.Pool.Put(pg)
		}
		for _, pg := range held {
			p.Pool.PutRemote(pg)
		}
		if !closeEarly {
			if _, err := p.Receive(frames[:]); err != nil || p.Starving() || p.Posted() < 200 {
				t.Errorf("%v; starving: %v, %d posted", err, p.Starving(), p.Posted())
			}
		}
		if err := r.driver.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if err := errors.Join(other.Close(), arena.Close()); err != nil {
			t.Error(err)
		}
	}
}
