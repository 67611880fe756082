package pktgen

import (
	"context"
	"errors"
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Traffic is what a generator sends.
type Traffic struct {
	Addresses
	Size  int     // bytes of each frame, MinSize to MaxSize
	Burst int     // frames that are sent one behind the other; with a Rate there is a pause between bursts
	Flows int     // at least one for each port
	Rate  float64 // frames a second, of all ports together; 0: as many as go
	Count uint64  // frames in all; 0: until the context ends
	Drop  bool    // what a full port does not take is lost, instead of being sent when there is room
}

// Sent is what a generator has done.
type Sent struct {
	Frames   uint64        `json:"frames"`  // that the port has taken
	Refused  uint64        `json:"refused"` // that it has not taken, and were lost
	Waits    uint64        `json:"waits"`   // times that it waited for room
	Elapsed  time.Duration `json:"elapsed_ns"`
	Busy     time.Duration `json:"busy_ns"`      // processor time of all threads
	Switches uint64        `json:"switches"`     // context switches of all threads
	Calls    uint64        `json:"system_calls"` // of the ports
}

// Progress is what is known while it happens. Each word may be read by anybody.
type Progress struct {
	Sent, Refused, Received, Missing atomic.Uint64
}

// sendBatch is how many frames are made for one call of Send.
const sendBatch = 64

// roomWait is how long a generator waits for room before it looks whether it is to end.
const roomWait = 100 * time.Millisecond

// behind is how much of a rate is made up for: who was kept from sending for longer does not send it all at once.
const behind = 10 * time.Millisecond

// Generate sends the traffic out of the ports, with a thread for each, until it is all sent or the context ends. p is kept up to date; nil for nobody who looks.
func Generate(ctx context.Context, ports []Port, t Traffic, p *Progress) (Sent, error) {
	if p == nil {
		p = &Progress{}
	}
	began := time.Now()
	results := make([]Sent, len(ports))
	failures := make([]error, len(ports))
	var all sync.WaitGroup
	for i, port := range ports {
		all.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			g := newGenerator(t, i, len(ports), port, p)
			failures[i] = g.run(ctx)
			results[i] = g.sent
		})
	}
	all.Wait()
	sum := Sent{Elapsed: time.Since(began)}
	for _, r := range results {
		sum.Frames += r.Frames
		sum.Refused += r.Refused
		sum.Waits += r.Waits
		sum.Busy += r.Busy
		sum.Switches += r.Switches
		sum.Calls += r.Calls
	}
	return sum, errors.Join(failures...)
}

// generator is one thread's part.
type generator struct {
	port     Port
	t        Traffic
	progress *Progress
	sent     Sent
	left     uint64        // frames to be made
	pause    time.Duration // from the beginning of a burst to that of the next; 0: none

	flows   []uint16 // of this thread
	numbers []uint32 // the next of each
	turn    int      // whose flow is next
	frames  [sendBatch][]byte
}

func newGenerator(t Traffic, thread, threads int, port Port, p *Progress) *generator {
	g := &generator{port: port, t: t, progress: p}
	g.left = math.MaxUint64
	if t.Count > 0 {
		if g.left = t.Count / uint64(threads); uint64(thread) < t.Count%uint64(threads) {
			g.left++
		}
	}
	if t.Rate > 0 {
		g.pause = time.Duration(float64(t.Burst) / t.Rate * float64(threads) * float64(time.Second))
	}
	for f := thread; f < max(t.Flows, threads); f += threads {
		g.flows = append(g.flows, uint16(f))
	}
	g.numbers = make([]uint32, len(g.flows))
	for i := range g.frames {
		g.frames[i] = make([]byte, t.Size)
		t.build(g.frames[i])
	}
	return g
}

func (g *generator) run(ctx context.Context) error {
	before, calls := usage(), g.port.Calls()
	defer func() {
		after := usage()
		g.sent.Calls = g.port.Calls() - calls
		g.sent.Busy, g.sent.Switches = after.busy-before.busy, after.switches-before.switches
	}()
	for next := time.Now(); g.left > 0 && ctx.Err() == nil; {
		if g.pause > 0 {
			if late := time.Since(next); late > behind {
				next = next.Add(late - behind)
			}
			await(next)
			next = next.Add(g.pause)
		}
		for burst := min(uint64(g.t.Burst), g.left); burst > 0 && ctx.Err() == nil; {
			n := min(burst, sendBatch)
			if err := g.send(ctx, int(n)); err != nil {
				return err
			}
			burst -= n
			g.left -= n
		}
	}
	return nil
}

// send makes n frames and gives them to the port.
func (g *generator) send(ctx context.Context, n int) error {
	at := now()
	for _, f := range g.frames[:n] {
		stamp(f, g.flows[g.turn], g.numbers[g.turn], at)
		g.numbers[g.turn]++
		if g.turn++; g.turn == len(g.flows) {
			g.turn = 0
		}
	}
	for at := 0; at < n; {
		got, err := g.port.Send(g.frames[at:n])
		if err != nil {
			return err
		}
		at += got
		g.sent.Frames += uint64(got)
		g.progress.Sent.Add(uint64(got))
		switch {
		case at == n:
		case g.t.Drop:
			at++
			g.sent.Refused++
			g.progress.Refused.Add(1)
		case ctx.Err() != nil:
			return nil // none of these is the port's
		default:
			g.sent.Waits++
			if err := g.port.AwaitRoom(roomWait); err != nil {
				return err
			}
		}
	}
	return nil
}

// sleepError is how much later than asked for a sleep may end; the rest is spun.
const sleepError = 150 * time.Microsecond

// await returns at the given time.
func await(at time.Time) {
	if d := time.Until(at); d > sleepError {
		time.Sleep(d - sleepError)
	}
	for time.Until(at) > 0 {
		runtime.Gosched()
	}
}

// threadUsage is what a thread has used.
type threadUsage struct {
	busy     time.Duration
	switches uint64
}

// usage is that of the calling thread.
func usage() threadUsage {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_THREAD, &u); err != nil {
		return threadUsage{}
	}
	return threadUsage{time.Duration(u.Utime.Nano() + u.Stime.Nano()), uint64(u.Nvcsw + u.Nivcsw)}
}
