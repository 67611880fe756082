// Package interleave has atomic words whose operations a test can put in every order.
//
// Code without locks is right when it is right for every order of its atomic operations. Uint64, Uint32, Bool and Pointer are those of
// sync/atomic, but for one thing: Explore runs functions that use them one operation at a time, and goes through all orders. What it
// runs is the code itself, not a model of it. Go's atomic operations are sequentially consistent, so there are no other outcomes.
//
// Outside Explore an operation costs a look at a variable that nobody writes.
package interleave

import (
	"fmt"
	"iter"
	"sync/atomic"
)

// step, if set, is called before each operation.
var step func()

// Uint64 is an atomic word.
type Uint64 struct{ v atomic.Uint64 }

// Load reads the word.
func (w *Uint64) Load() uint64 {
	if step != nil {
		step()
	}
	return w.v.Load()
}

// Store writes the word.
func (w *Uint64) Store(x uint64) {
	if step != nil {
		step()
	}
	w.v.Store(x)
}

// CompareAndSwap replaces old by x, and reports whether old was there.
func (w *Uint64) CompareAndSwap(old, x uint64) bool {
	if step != nil {
		step()
	}
	return w.v.CompareAndSwap(old, x)
}

// Uint32 is an atomic half word.
type Uint32 struct{ v atomic.Uint32 }

// Load reads the half word.
func (w *Uint32) Load() uint32 {
	if step != nil {
		step()
	}
	return w.v.Load()
}

// Store writes the half word.
func (w *Uint32) Store(x uint32) {
	if step != nil {
		step()
	}
	w.v.Store(x)
}

// Bool is an atomic truth value.
type Bool struct{ v atomic.Bool }

// Load reads the value.
func (b *Bool) Load() bool {
	if step != nil {
		step()
	}
	return b.v.Load()
}

// Store writes the value.
func (b *Bool) Store(x bool) {
	if step != nil {
		step()
	}
	b.v.Store(x)
}

// CompareAndSwap replaces old by x, and reports whether old was there.
func (b *Bool) CompareAndSwap(old, x bool) bool {
	if step != nil {
		step()
	}
	return b.v.CompareAndSwap(old, x)
}

// Pointer is an atomic pointer.
type Pointer[T any] struct{ v atomic.Pointer[T] }

// Load reads the pointer.
func (p *Pointer[T]) Load() *T {
	if step != nil {
		step()
	}
	return p.v.Load()
}

// Store writes the pointer.
func (p *Pointer[T]) Store(x *T) {
	if step != nil {
		step()
	}
	p.v.Store(x)
}

// Await has the calling process of Explore go on only once ready is true. It is how a process sleeps.
func Await(ready func() bool) { await(ready) }

var await func(ready func() bool)

// process is one of the functions that run interleaved.
type process struct {
	next  func() (struct{}, bool) // runs it up to its next operation; false at its end
	yield func(struct{}) bool
	ready func() bool // it can go on once this is true; nil for at once
	done  bool
}

func (p *process) canGo() bool { return !p.done && (p.ready == nil || p.ready()) }

// explorer goes through the orders depth first.
type explorer struct {
	preemptions int
	processes   []*process
	current     *process
	path        []choice
}

// choice is one step of a run: which of the processes that could take it did.
type choice struct{ taken, possible int }

// Explore calls setup, runs the processes that it returns in one order of their operations, and calls check; again and again, for each
// order in which processes that could go on are interrupted at most so many times in all; -1 for as often as there are operations. It
// returns the number of orders. An error of check ends it, and so does an order in which all processes wait for ever.
func Explore(preemptions int, setup func() (processes []func(), check func() error)) (orders int, err error) {
	e := &explorer{preemptions: preemptions}
	defer func() { step, await = nil, nil }()
	for {
		step, await = nil, nil
		functions, check := setup()
		step = func() { e.current.yield(struct{}{}) }
		await = func(ready func() bool) {
			e.current.ready = ready
			e.current.yield(struct{}{})
			e.current.ready = nil
		}
		err := e.run(functions)
		step, await = nil, nil
		if err == nil {
			err = check()
		}
		orders++
		if err != nil {
			taken := make([]int, len(e.path))
			for i, c := range e.path {
				taken[i] = c.taken
			}
			return orders, fmt.Errorf("order %d, choices %v: %w", orders, taken, err)
		}
		if !e.backtrack() {
			return orders, nil
		}
	}
}

// run runs the functions along e.path, and then on by the first choice at each step.
func (e *explorer) run(functions []func()) error {
	e.processes = e.processes[:0]
	for _, f := range functions {
		p := &process{}
		p.next, _ = iter.Pull(func(yield func(struct{}) bool) { // one that cannot go on is left as it is
			p.yield = yield
			f()
		})
		e.processes = append(e.processes, p)
	}
	e.current = nil
	preemptions := e.preemptions
	for at := 0; ; at++ {
		var able []*process
		// The one that runs comes first: the first choice at each step is to let it.
		if e.current != nil && e.current.canGo() {
			able = append(able, e.current)
		}
		runs := len(able) > 0
		for _, p := range e.processes {
			if p != e.current && p.canGo() {
				able = append(able, p)
			}
		}
		if len(able) == 0 {
			return e.end()
		}
		if runs && preemptions == 0 {
			able = able[:1]
		}
		if at == len(e.path) {
			e.path = append(e.path, choice{0, len(able)})
		}
		taken := e.path[at].taken
		if runs && taken > 0 {
			preemptions--
		}
		e.current = able[taken]
		_, more := e.current.next()
		e.current.done = !more
	}
}

// end is the end of a run: nobody can go on.
func (e *explorer) end() error {
	for i, p := range e.processes {
		if !p.done {
			return fmt.Errorf("process %d waits for ever", i)
		}
	}
	return nil
}

// backtrack sets the path to the next order; false when that was the last.
func (e *explorer) backtrack() bool {
	for n := len(e.path) - 1; n >= 0; n-- {
		if c := &e.path[n]; c.taken+1 < c.possible {
			c.taken++
			e.path = e.path[:n+1]
			return true
		}
	}
	return false
}
