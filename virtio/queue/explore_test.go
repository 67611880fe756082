//go:build explore

package queue

import (
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"iter"
	"testing"
)

// The explorer runs the two ends of a queue, the code that is shipped, in two simulated threads, and tries every order in which their
// accesses to shared memory can happen (go test -tags explore). Only the accesses of access_unsafe.go are replaced.
//
// The machine has store buffers, as amd64 has and as arm64 allows: a store waits in its thread's buffer, first in, first out, until it is drained to memory at
// any later time; a load sees its own thread's buffer, then memory; a fence waits until the buffer is empty. Plain writes go to memory
// at once: what publishes them comes later in any case. To sleep is to wait for an event that the other thread sets (an eventfd).
//
// What is looked for is a lost wake-up: both threads stand still though not all buffers have come back. A state is memory, buffers and events, and
// for each thread what it knew at the head of its loop and what it has read since, which determines where it is, since the code is deterministic.
// A state that was seen before is not followed again.

// location is what an access goes to.
type location struct {
	word *uint32
	half *uint16
}

func (l location) get() uint32 {
	if l.word != nil {
		return *l.word
	}
	return uint32(*l.half)
}

func (l location) set(v uint32) {
	if l.word != nil {
		*l.word = v
	} else {
		*l.half = uint16(v)
	}
}

type write struct {
	at location
	v  uint32
}

// access is what a thread wants to do next.
type access uint8

const (
	accessLoad access = iota
	accessFence
	accessKick
	accessSleep
	accessEnd
)

// thread is one end of the queue with its program.
type thread struct {
	resume func() (access, bool)
	stop   func()
	yield  func(access) bool
	next   access
	buffer []write
	event  bool   // set by the other, cleared by waking up
	past   uint64 // everything read
}

// machine is one run. running is the one whose thread is being executed.
type machine struct {
	threads [2]thread
	now     int // the thread that runs
	noFence bool
	memory  [][]byte
}

var (
	running *machine
	seed    = maphash.MakeSeed()
)

type abandoned struct{}

// pause gives control to the explorer, which comes back when the access is to be carried out.
func (m *machine) pause(a access) {
	t := &m.threads[m.now]
	if !t.yield(a) {
		panic(abandoned{})
	}
}

func (m *machine) load(at location) uint32 {
	t := &m.threads[m.now]
	m.pause(accessLoad)
	v := at.get()
	for _, w := range t.buffer {
		if w.at == at {
			v = w.v
		}
	}
	m.remember(uint64(v))
	return v
}

// store is seen by nobody yet, so that its place among the other thread's accesses does not matter.
func (m *machine) store(at location, v uint32) {
	t := &m.threads[m.now]
	t.buffer = append(t.buffer, write{at, v})
}

func (m *machine) fence() {
	if !m.noFence {
		m.pause(accessFence)
	}
}

// kick sets the other thread's event; sleep waits for the own one.
func (m *machine) kick() {
	m.pause(accessKick)
	m.threads[1-m.now].event = true
}

func (m *machine) sleep() {
	m.pause(accessSleep)
	m.threads[m.now].event = false
	m.remember(1 << 40)
}

func (m *machine) remember(v uint64) {
	t := &m.threads[m.now]
	var b [16]byte
	binary.LittleEndian.PutUint64(b[:], t.past)
	binary.LittleEndian.PutUint64(b[8:], v)
	t.past = maphash.Bytes(seed, b[:])
}

// forget replaces what the running thread has read by all that it still knows of it: the private state of its end, and its program's.
// Without it two ways to the same place would count as two.
func (m *machine) forget(private ...any) {
	m.threads[m.now].past = maphash.String(seed, fmt.Sprint(private...))
}

// private is the private state of an end. Whatever a call leaves behind for later calls has to be in here.
func private(end any) string {
	switch d := end.(type) {
	case *splitDriver:
		return fmt.Sprint(d.slots, d.free, d.freeHead, d.nfree, d.order, d.inFlight, d.next, d.availIdx, d.usedIdx, d.flags, d.told, d.untold, d.batch, d.lastLen)
	case *packedDriver:
		return fmt.Sprint(d.slots, d.free, d.freeHead, d.nfree, d.order, d.inFlight, d.avail, d.used, d.nslot, d.moved, d.batch, d.lastLen)
	case *splitDevice:
		return fmt.Sprint(d.taken, d.inFlight, d.order, d.nth, d.availIdx, d.usedIdx, d.flags, d.told, d.untold)
	case *packedDevice:
		return fmt.Sprint(d.taken, d.inFlight, d.order, d.nth, d.avail, d.used, d.slots, d.moved)
	}
	panic("unknown end")
}

// start makes a thread of a program and runs it to its first access.
func (m *machine) start(i int, program func(m *machine)) {
	t := &m.threads[i]
	t.resume, t.stop = iter.Pull(func(yield func(access) bool) {
		defer func() {
			if r := recover(); r != nil && r != (abandoned{}) {
				panic(r)
			}
		}()
		t.yield = yield
		program(m)
		for yield(accessEnd) {
		}
	})
	m.run(i)
}

func (m *machine) run(i int) {
	m.now, running = i, m
	m.threads[i].next, _ = m.threads[i].resume()
	running = nil
}

// A choice is thread 0 or 1 to go on, or 2 or 3: the oldest store of thread 0 or 1 to reach memory.
func (m *machine) choices(to []byte) []byte {
	for i := range m.threads {
		t := &m.threads[i]
		switch {
		case t.next == accessEnd, t.next == accessSleep && !t.event, t.next == accessFence && len(t.buffer) > 0:
		default:
			to = append(to, byte(i))
		}
		if len(t.buffer) > 0 {
			to = append(to, byte(2+i))
		}
	}
	return to
}

func (m *machine) do(choice byte) {
	if choice < 2 {
		m.run(int(choice))
		return
	}
	t := &m.threads[choice-2]
	w := t.buffer[0]
	t.buffer = t.buffer[1:]
	w.at.set(w.v)
}

func (m *machine) state() uint64 {
	var h maphash.Hash
	h.SetSeed(seed)
	for _, area := range m.memory {
		h.Write(area)
	}
	for i := range m.threads {
		t := &m.threads[i]
		maphash.WriteComparable(&h, struct {
			past   uint64
			next   access
			event  bool
			stores int
		}{t.past, t.next, t.event, len(t.buffer)})
		for _, w := range t.buffer {
			maphash.WriteComparable(&h, w.v) // where to and how much follows from past
		}
	}
	return h.Sum64()
}

func (m *machine) end() {
	for i := range m.threads {
		m.threads[i].stop()
	}
}

// explore tries all orders from a fresh machine on. It answers the number of states, and the choices that lead to a lost wake-up, if any do.
func explore(t *testing.T, fresh func() *machine) (states int, lost []byte) {
	seen := map[uint64]bool{}
	todo := [][]byte{{}}
	for len(todo) > 0 {
		path := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		m := fresh()
		for _, c := range path {
			m.do(c)
		}
		for {
			s := m.state()
			if seen[s] {
				break
			}
			seen[s] = true
			choices := m.choices(nil)
			if len(choices) == 0 {
				if m.threads[0].next != accessEnd || m.threads[1].next != accessEnd {
					m.end()
					return len(seen), path
				}
				break
			}
			for _, c := range choices[1:] {
				todo = append(todo, append(path[:len(path):len(path)], c))
			}
			path = append(path[:len(path):len(path)], choices[0])
			m.do(choices[0])
		}
		m.end()
		if len(seen) > 5_000_000 {
			t.Fatal("too many states")
		}
	}
	return len(seen), nil
}

// scenario is what the two ends do.
type scenario struct {
	ring    Ring
	buffers int
	batch   int
	after   int  // as in Driver.Listen
	room    int  // as in Device.Listen: a driver that goes to sleep with less in flight kicks
	quiet   bool // suppress notifications while awake
	silent  bool // it does not
}

func (s scenario) String() string {
	return fmt.Sprintf("%v,%d entries,event=%v,%d buffers by %d,after=%d,room=%d,quiet=%v", s.ring.Format, s.ring.Size, s.ring.EventIdx, s.buffers,
		s.batch, s.after, s.room, s.quiet)
}

// machine puts the two ends on a fresh one.
func (s scenario) machine(t *testing.T, noFence bool) *machine {
	block := make([]byte, LayoutOf(s.ring.Format, s.ring.Size).Len+CacheLine)
	block = block[-int(address(block))&(CacheLine-1):]
	r := s.ring
	r.Areas = LayoutOf(r.Format, r.Size).Areas(block)
	mem, _ := NewMemory(Region{Addr: 0x1000, Mem: block[:64]})
	driver, err := NewDriver(DriverConfig{Ring: r})
	if err != nil {
		t.Fatal(err)
	}
	device, err := NewDevice(DeviceConfig{Ring: r, Memory: mem})
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{noFence: noFence, memory: [][]byte{r.Areas.Descriptor, r.Areas.Driver, r.Areas.Device}}
	m.start(0, func(m *machine) { s.drive(t, m, driver) })
	m.start(1, func(m *machine) { s.serve(t, m, device) })
	return m
}

func (s scenario) drive(t *testing.T, m *machine, d Driver) {
	seg := []Segment{{Addr: 0x1000, Len: 1}}
	used := make([]Used, s.batch)
	if s.quiet {
		d.Suppress()
	}
	for sent, got := 0, 0; got < s.buffers; {
		m.forget(sent, got, private(d))
		bufs := make([]Buffer, min(s.batch, s.buffers-sent))
		for i := range bufs {
			bufs[i] = Buffer{Out: seg, Token: uint64(sent + i)}
		}
		n, err := d.Publish(bufs)
		sent += n
		if err != nil {
			t.Error(err)
		}
		if d.ShouldNotify() {
			m.kick()
		}
		n, err = d.Reap(used)
		if err != nil {
			t.Error(err)
		}
		for i := range n {
			if used[i].Token != uint64(got+i) {
				t.Errorf("token %d came back as the %dth", used[i].Token, got+i)
			}
		}
		got += n
		if n > 0 || got == s.buffers || (sent < s.buffers && d.Free() > 0) {
			continue
		}
		if !d.Listen(s.after) {
			if d.InFlight() < s.room && !s.silent {
				m.kick()
			}
			m.sleep()
		}
		if s.quiet {
			d.Suppress()
		}
	}
}

func (s scenario) serve(t *testing.T, m *machine, d Device) {
	chains := make([]Chain, s.batch)
	done := make([]Done, s.batch)
	if s.quiet {
		d.Suppress()
	}
	for served := 0; served < s.buffers; {
		m.forget(served, private(d))
		n, err := d.Take(chains)
		if err != nil {
			t.Error(err)
		}
		if n == 0 {
			if !d.Listen(s.room) {
				m.sleep()
			}
			if s.quiet {
				d.Suppress()
			}
			continue
		}
		for i := range n {
			done[i] = Done{ID: chains[i].ID}
		}
		if err := d.Return(done[:n]); err != nil {
			t.Error(err)
		}
		served += n
		if d.ShouldNotify() {
			m.kick()
		}
	}
}

func scenarios() (all []scenario) {
	for _, format := range []Format{Split, Packed} {
		for size := 1; size <= 4; size++ {
			if format == Split && size == 3 {
				continue
			}
			for _, eventIdx := range []bool{false, true} {
				for _, quiet := range []bool{false, true} {
					// More than a lap in any case, more than two of the smallest rings.
					s := scenario{ring: Ring{Format: format, Size: size, EventIdx: eventIdx}, buffers: max(size+1, 5), batch: 1, after: 1, room: 1, quiet: quiet}
					all = append(all, s)
					if size > 1 {
						s.batch, s.after = size, size
						all = append(all, s)
					}
					if size > 1 && eventIdx && quiet {
						// A device that waits for more than the driver offers at once, and in the end for more than it offers at all.
						s.batch, s.after, s.room = 1, 1, (size+2)/2
						all = append(all, s)
					}
				}
			}
		}
	}
	return all
}

// TestNoWakeUpLost: the publish and suppress protocol of both formats, rows 21, 23, 24, 37, over all interleavings.
func TestNoWakeUpLost(t *testing.T) {
	total := 0
	for _, s := range scenarios() {
		states, lost := explore(t, func() *machine { return s.machine(t, false) })
		total += states
		t.Logf("%v: %d states", s, states)
		if lost != nil {
			t.Errorf("%v: both ends sleep after %v", s, lost)
		}
	}
	t.Logf("%d states", total)
}

// TestExplorerFindsMissingKick: when a driver that has nothing more to offer goes to sleep without a word, a device that waits for more may sleep for ever.
func TestExplorerFindsMissingKick(t *testing.T) {
	for _, s := range scenarios() {
		if s.silent = true; s.room > 1 {
			if _, lost := explore(t, func() *machine { return s.machine(t, false) }); lost == nil {
				t.Errorf("%v: nothing was found", s)
			}
		}
	}
}

// TestExplorerFindsMissingFence: without the fences the explorer must find what it is made to find, in either format, with and without the event
// index.
func TestExplorerFindsMissingFence(t *testing.T) {
	found := map[string]bool{}
	for _, s := range scenarios() {
		if _, lost := explore(t, func() *machine { return s.machine(t, true) }); lost != nil {
			found[fmt.Sprint(s.ring.Format, s.ring.EventIdx)] = true
		}
	}
	if len(found) != 4 {
		t.Errorf("found only in %v", found)
	}
}
