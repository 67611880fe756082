package timer

import (
	"math"
	"testing"

	"pgregory.net/rapid"
)

const hour = int64(3600e9)

// model is a wheel that scans: deadlines by id, and the due ones not yet popped.
type model struct {
	now  int64
	at   map[int32]int64 // armed, in nanoseconds
	tick map[int32]int64 // the first time at which it may be popped
}

// earliest is the first time a timer set for at may fire: rounded up to a tick, and after the present tick.
func earliest(at, now int64) int64 {
	at = (max(at, 0) + Tick - 1) / Tick * Tick
	return max(at, now/Tick*Tick+Tick)
}

func (m *model) due() map[int32]bool {
	d := map[int32]bool{}
	for id, t := range m.tick {
		if t <= m.now {
			d[id] = true
		}
	}
	return d
}

func TestWheelAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		start := rapid.Int64Range(0, 100*hour).Draw(t, "start")
		w := New(start)
		m := &model{now: start, at: map[int32]int64{}, tick: map[int32]int64{}}
		ids := rapid.Int32Range(0, 40)
		delays := rapid.OneOf(rapid.Int64Range(-hour, hour), rapid.Int64Range(0, 70*Tick),
			rapid.Int64Range(0, 3*Tick), rapid.Int64Range(0, 100000*hour))
		set := func(t *rapid.T) {
			id, at := ids.Draw(t, "id"), m.now+delays.Draw(t, "delay")
			w.Set(id, at)
			m.at[id], m.tick[id] = at, earliest(at, m.now)
		}
		pop := func(t *rapid.T) bool {
			id, ok := w.Pop()
			if !ok {
				if d := m.due(); len(d) != 0 {
					t.Fatalf("nothing popped at %d, but %v are due", m.now, d)
				}
				return false
			}
			at, armed := m.at[id]
			switch {
			case !armed:
				t.Fatalf("popped %d, which is not armed", id)
			case at > m.now:
				t.Fatalf("popped %d at %d, early: it is due at %d", id, m.now, at)
			case w.Armed(id):
				t.Fatalf("%d is still armed after it was popped", id)
			}
			delete(m.at, id)
			delete(m.tick, id)
			return true
		}
		t.Repeat(map[string]func(*rapid.T){
			"set": set,
			"stop": func(t *rapid.T) {
				id := ids.Draw(t, "id")
				w.Stop(id)
				delete(m.at, id)
				delete(m.tick, id)
			},
			"pop": func(t *rapid.T) { pop(t) },
			"advance": func(t *rapid.T) {
				m.now = max(m.now, m.now+delays.Draw(t, "step"))
				w.Advance(m.now)
			},
			"advance to next": func(t *rapid.T) {
				at, ok := w.Next()
				if !ok {
					return
				}
				m.now = max(m.now, at)
				w.Advance(m.now)
			},
			"drain, setting in between": func(t *rapid.T) {
				for pop(t) {
					if rapid.Bool().Draw(t, "set") {
						set(t)
					}
				}
			},
			"": func(t *rapid.T) {
				if w.Len() != len(m.at) {
					t.Fatalf("%d armed, want %d", w.Len(), len(m.at))
				}
				for id := int32(0); id <= 41; id++ {
					if _, armed := m.at[id]; w.Armed(id) != armed {
						t.Fatalf("Armed(%d) = %v", id, !armed)
					}
				}
				at, ok := w.Next()
				if ok != (len(m.at) != 0) {
					t.Fatalf("Next reports %v with %d timers armed", ok, len(m.at))
				}
				for id, first := range m.tick {
					if at > max(first, m.now) {
						t.Fatalf("Next is %d, late for timer %d, due at %d", at, id, first)
					}
				}
			},
		})
	})
}

// A caller that sleeps until Next, and then advances, must see each timer within one tick of its deadline
// and after a few wake-ups only, however far it is away.
func TestSleepingCaller(t *testing.T) {
	for _, delay := range []int64{0, 1, Tick - 1, Tick, Tick + 1, 63 * Tick, 64 * Tick, 65*Tick + 1, 4095 * Tick,
		5e9, 2 * hour, 432000e9, 1 << 60} {
		for _, now := range []int64{0, 1, Tick - 1, 12345678901234, 63 * Tick, 4095 * Tick} {
			w := New(now)
			w.Set(7, now+delay)
			clock, wakes := now, 0
			for {
				at, ok := w.Next()
				if !ok || at < clock/Tick*Tick {
					t.Fatalf("delay %d from %d: Next is %d, %v at %d", delay, now, at, ok, clock)
				}
				clock = max(clock, at)
				wakes++
				w.Advance(clock)
				if id, ok := w.Pop(); ok {
					if id != 7 {
						t.Fatalf("popped %d", id)
					}
					break
				}
			}
			if late := clock - (now + delay); late < 0 || late > Tick {
				t.Errorf("delay %d from %d: fired %d ns after the deadline", delay, now, late)
			}
			if wakes > levels {
				t.Errorf("delay %d from %d: %d wake-ups", delay, now, wakes)
			}
		}
	}
}

func TestExtremeTimes(t *testing.T) {
	w := New(-5)
	w.Set(0, math.MaxInt64)
	w.Set(1, math.MinInt64)
	w.Advance(-1)
	if id, ok := w.Pop(); ok {
		t.Fatalf("timer %d fired before time moved", id)
	}
	w.Advance(Tick)
	if id, ok := w.Pop(); !ok || id != 1 {
		t.Fatalf("popped %d, %v; want timer 1, long past", id, ok)
	}
	w.Advance(math.MaxInt64)
	if id, ok := w.Pop(); ok {
		t.Fatalf("timer %d, due within the last tick there is, fired before the end of it", id)
	}
	if at, ok := w.Next(); !ok || at != math.MaxInt64 {
		t.Fatalf("Next is %d, %v; want the end of time", at, ok)
	}
}

func TestOrderOfTicks(t *testing.T) {
	w := New(0)
	for id, at := range []int64{900, 3, 70, 5000, 69, 4} {
		w.Set(int32(id), at*Tick)
	}
	w.Advance(5000 * Tick)
	for _, want := range []int32{1, 5, 4, 2, 0, 3} {
		if id, ok := w.Pop(); !ok || id != want {
			t.Fatalf("popped %d, %v; want %d", id, ok, want)
		}
	}
}

func TestNoAllocations(t *testing.T) {
	w, now := New(0), int64(0)
	step := churn(w, &now, 1000)
	step() // grows the wheel
	if n := testing.AllocsPerRun(100, step); n != 0 {
		t.Errorf("%v allocations in steady state, want 0", n)
	}
}

// churn returns a round of what a worker does: re-arm all, let a third fire, stop a third.
func churn(w *Wheel, now *int64, timers int32) func() {
	return func() {
		for id := range timers {
			w.Set(id, *now+int64(id%3)*200*Tick+Tick)
		}
		for id := int32(1); id < timers; id += 3 {
			w.Stop(id)
		}
		*now += 100 * Tick
		w.Advance(*now)
		for {
			if _, ok := w.Pop(); !ok {
				return
			}
		}
	}
}

func BenchmarkRearm(b *testing.B) {
	w := New(0)
	for id := range int32(10000) {
		w.Set(id, int64(id)*Tick)
	}
	b.ReportAllocs()
	id, now := int32(0), int64(0)
	for b.Loop() {
		now += 1000
		w.Set(id, now+200e6)
		if id++; id == 10000 {
			id = 0
		}
	}
}

func BenchmarkFire(b *testing.B) {
	w, now := New(0), int64(0)
	step := churn(w, &now, 300)
	b.ReportAllocs()
	for b.Loop() {
		step()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/300, "ns/timer")
}
