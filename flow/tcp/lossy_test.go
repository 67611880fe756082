package tcp

import (
	cli "flag" // flag is a type here
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/vasta-net/vasta/pagepool"
	"github.com/vasta-net/vasta/stats"
)

var (
	lossySeed  = cli.Uint64("lossy.seed", 0, "play this schedule of the lossy path alone; 0: many")
	lossyCount = cli.Uint64("lossy.count", 3000, "how many schedules of the lossy path to play")
	lossyTime  = cli.Duration("lossy.time", 0, "play schedules of the lossy path for so long instead, from a seed of the clock on")
	lossyTrace = cli.Bool("lossy.trace", false, "print every segment of a schedule that fails, or is played alone")
)

// lossySeeds are schedules beyond the first ones that failed once.
var lossySeeds = []uint64{
	1795305241476139238, // half a megabyte and more, said 3 bytes every 20 ms: more than an hour without a loss
}

// Two TCPs over a path that loses, repeats, reorders, delays, corrupts and fills up: whatever it does, both streams arrive, nothing else
// does, in time, and nothing stays behind.
func TestLossyPath(t *testing.T) {
	g := newGround(t)
	switch {
	case *lossySeed != 0:
		g.play(*lossySeed)
	case *lossyTime > 0:
		first, end := uint64(time.Now().UnixNano()), time.Now().Add(*lossyTime)
		seed := first
		for ; time.Now().Before(end); seed++ {
			g.play(seed)
		}
		t.Logf("%d schedules, from seed %d on", seed-first, first)
	default:
		for seed := uint64(1); seed <= *lossyCount; seed++ {
			g.play(seed)
		}
		for _, seed := range lossySeeds {
			g.play(seed)
		}
	}
	g.close()
}

// ground is what schedules are played on, one after the other: the memory of the two ends.
type ground struct {
	t   *testing.T
	env [2]Env
}

const groundMemory = 16 << 20 // bytes, of each pool

func newGround(t *testing.T) *ground {
	g := &ground{t: t}
	for i := range g.env {
		e := &g.env[i]
		for _, p := range []**pagepool.Pool{&e.Hold, &e.Send} {
			var err error
			if *p, err = pagepool.New(groundMemory); err != nil {
				t.Fatal(err)
			}
		}
		e.Budget, e.Stats = new(Budget), new(stats.Worker)
		e.KeepIdle = 7200e9
	}
	return g
}

func (g *ground) close() {
	for i := range g.env {
		for _, p := range []*pagepool.Pool{g.env[i].Hold, g.env[i].Send} {
			if err := p.Close(); err != nil {
				g.t.Error(err)
			}
		}
	}
}

// lossyRun is one schedule: everything in it follows from its seed.
type lossyRun struct {
	g      *ground
	seed   uint64
	p      *path
	conns  [2]*connEnd // nil for an end of another kind
	totals [2]int64    // what each end says
	ideal  int64       // nanoseconds that everything takes without a loss, generously
	abort  bool        // one end is aborted on the way
}

func (g *ground) play(seed uint64) {
	s := &lossyRun{g: g, seed: seed}
	p := &path{random: rand.New(rand.NewPCG(seed, 0x7661737461)), now: 1e9}
	s.p = p
	p.model = &model{p: p, failf: s.failf, again: map[lossy]int{}}
	if *lossyTrace {
		p.trace = new(strings.Builder)
	}
	s.lay()
	started := p.now
	events := 0
	for {
		a, _ := p.ends[0].over()
		b, _ := p.ends[1].over()
		if a && b || !p.step() {
			break
		}
		if events++; events > 2_000_000 {
			s.failf("no end after %d events", events)
		}
		if p.now > started+hour || p.model.hostile && p.now > started+20*minute {
			break
		}
	}
	s.judge(p.now - started)
	if *lossyTrace && *lossySeed != 0 {
		fmt.Print(p.trace)
	}
}

const (
	minute = 60 * 1000 * millisecond
	hour   = 60 * minute
)

// failf ends the test: what is wrong, and how to see it again.
func (s *lossyRun) failf(format string, args ...any) {
	s.g.t.Helper()
	trace := ""
	if s.p.trace != nil {
		trace = "\n" + s.p.trace.String()
	}
	s.g.t.Fatalf("%sschedule %d, at %.6f s: %s\nagain: go test ./flow/tcp -run 'TestLossyPath$' -lossy.trace -lossy.seed=%d",
		trace, s.seed, float64(s.p.now)/1e9, fmt.Sprintf(format, args...), s.seed)
}

// pick is one of the choices.
func pick[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

// lay makes the path and its ends.
func (s *lossyRun) lay() {
	p, r := s.p, s.p.random
	for i := range p.legs {
		p.legs[i] = leg{
			loss: pick(r, 0, 0, 0, 0.002, 0.01, 0.05, 0.2), burst: pick(r, 0, 0, 0, 0.003), reorder: pick(r, 0, 0, 0, 0.05, 0.3),
			dup: pick(r, 0, 0, 0.01, 0.1), corrupt: pick(r, 0, 0, 0, 0.01),
			delay: pick[int64](r, 0, 20e3, 1e6, 10e6, 50e6), jitter: pick[int64](r, 0, 0, 100e3, 5e6), late: pick[int64](r, 0, 1e6, 20e6),
		}
		l := &p.legs[i]
		if r.IntN(3) == 0 {
			l.rate = pick[int64](r, 1e6, 12.5e6, 125e6)
			l.limit = max(l.rate*pick[int64](r, 5, 50)/1000, 140000)
		}
		if r.IntN(10) == 0 {
			l.deadFrom = p.now + r.Int64N(500e6)
			l.deadTo = l.deadFrom + r.Int64N(3e9)
		}
		l.strip = [3]bool{r.IntN(4) == 0, r.IntN(4) == 0, r.IntN(4) == 0}
		s.totals[i] = pick(r, 0, r.Int64N(3000), r.Int64N(100000), r.Int64N(100000), r.Int64N(1<<20))
	}
	p.legs[1].strip = p.legs[0].strip
	if r.IntN(40) == 0 {
		p.model.hostile = true
		p.legs[r.IntN(2)].hostile = 0.05
	}
	s.abort = r.IntN(20) == 0
	v6, whole := r.IntN(2) == 0, r.IntN(3) == 0
	mss := pick(r, 536, 1460, 1460, 8960)
	if whole {
		mss = pick(r, 1460, 8960, 65420)
	}
	plain := r.IntN(6) // which end is a guest, if one is
	for i := range p.ends {
		p.sides[i].says = [2]pattern{fromHost, fromGuest}[i]
		if plain == 0 {
			p.sides[i].says = [2]pattern{fromGuest, fromHost}[i]
		}
	}
	for i := range p.ends {
		if i == plain {
			s.layGuest(i, v6, mss)
		} else {
			s.layConn(i, v6, whole, mss)
		}
	}
	s.reckon()
	if c := s.conns[0]; c != nil {
		c.env.Now = p.now
		c.begun = true
		c.c.FromHost(c.env, c.config)
		c.wake = p.now
	}
}

// maxChunks is about how often an application speaks at the most: 200 s go by until everything is said.
const maxChunks = 10_000

// layConn makes end i a Conn. End 0 is who opens.
func (s *lossyRun) layConn(i int, v6, whole bool, mss int) {
	p, r := s.p, s.p.random
	env := &s.g.env[i]
	env.MaxWindow, env.MaxFlight = pick[int64](r, 4000, 20000, 65535, 1<<20, 4<<20), pick[int64](r, 20000, 200000, 4<<20)
	env.NearWindow = min(env.MaxWindow, 1<<20)
	env.GapACKs = pick(r, 1, 3)
	*env.Budget, *env.Stats = Budget{Limit: groundMemory - 64<<10}, stats.Worker{}
	e := &connEnd{
		p: p, i: i, env: env, v6: v6, split: !whole, eager: r.IntN(3) == 0, full: pick(r, 0, 0, 0, 0.05), connect: pick[int64](r, 0, 1e6, 100e6), writable: true,
		config: Config{MSS: mss, MaxGSO: pick(r, 0, 65435), V6: v6, ISS: pick(r, r.Uint32(), -uint32(r.IntN(100000))), TSBase: pick(r, r.Uint32(), -uint32(r.IntN(1000)))},
		app:    application{p: p, says: p.sides[i].says, hears: p.sides[1-i].says, total: s.totals[i], want: s.totals[1-i]},
	}
	if r.IntN(4) == 0 {
		e.app.sayChunk, e.app.sayEvery = max(1+r.Int64N(5000), s.totals[i]/maxChunks), pick[int64](r, 1e6, 20e6)
	}
	if r.IntN(4) == 0 {
		e.app.hearChunk, e.app.hearEvery = 500+r.Int64N(20000), pick[int64](r, 1e6, 20e6)
	}
	if s.abort && i == 1 {
		e.abortAt = p.now + r.Int64N(300e6)
	}
	e.app.start()
	s.conns[i], p.ends[i], p.sides[i].checked = e, e, true
}

// layGuest makes end i a guest.
func (s *lossyRun) layGuest(i int, v6 bool, mss int) {
	p, r := s.p, s.p.random
	e := &guestEnd{p: p, i: i, v6: v6, opens: i == 0, mss: int64(mss - 40), reads: pick[int64](r, 0, 0, 5e6), cwnd: 10 * int64(mss)}
	e.g = guest{
		iss: r.Uint32(), mss: uint16(mss), scale: int8(r.IntN(16) - 1), times: r.IntN(2) == 0, sack: r.IntN(2) == 0,
		buffer: pick[int64](r, 3000, 65535, 1<<20), total: s.totals[i],
	}
	for e.g.scale > 0 && e.g.buffer>>e.g.scale < 8 {
		e.g.scale--
	}
	p.ends[i] = e
}

// reckon works out how long everything may take.
func (s *lossyRun) reckon() {
	p := s.p
	rtt := int64(0)
	for _, l := range p.legs {
		rtt += l.delay + l.jitter + l.late
		if l.rate > 0 {
			rtt += l.limit * 1e9 / l.rate
		}
	}
	p.model.rto = 1000e6 + 3*rtt
	window := int64(1 << 20)
	for i := range p.ends {
		if e, ok := p.ends[i].(*guestEnd); ok {
			e.rto = 200e6 + 3*rtt
			e.wait = e.rto
			window = min(window, e.g.buffer)
			s.ideal += s.totals[1-i] / e.g.buffer * 2 * e.reads
			continue
		}
		e := s.conns[i]
		window = min(window, e.env.MaxWindow, e.env.MaxFlight, floorWindow)
		s.ideal += e.connect
		if a := &e.app; a.sayChunk > 0 {
			s.ideal += (a.total/a.sayChunk + 1) * a.sayEvery
		}
		if a := &e.app; a.hearChunk > 0 {
			s.ideal += (a.want/a.hearChunk + 1) * a.hearEvery
		}
	}
	for i, l := range p.legs {
		if l.rate > 0 {
			s.ideal += s.totals[i] * 1e9 / l.rate
		}
		s.ideal += rtt * (s.totals[i]/window + 10)
	}
	for _, l := range p.legs {
		s.ideal += l.deadTo - l.deadFrom
	}
	if s.ideal > hour/4 {
		s.failf("takes %d s without a loss: that is no schedule to play", s.ideal/1e9)
	}
}

// judge looks at how a schedule ended, after so many nanoseconds.
func (s *lossyRun) judge(took int64) {
	p, m := s.p, s.p.model
	if m.hostile || m.hopeless || s.abort {
		for i, e := range s.conns {
			if e != nil && e.c.State() != Closed {
				e.fullAt, e.full = 0, 0
				e.c.HostFailed(e.env)
				e.c.Output(e.env, e)
			}
			s.clean(i)
		}
		return
	}
	for i, e := range p.ends {
		over, why := e.over()
		if !over {
			s.failf("end %d is not over after %d s", i, took/1e9)
		}
		if other := s.conns[1-i]; why != Finished && (other == nil || !other.expired) {
			s.failf("end %d ended as %d", i, why)
		}
		s.clean(i)
	}
	for i, e := range s.conns {
		if e != nil && e.c.Why() == Finished && (e.app.got != e.app.want || !e.app.heard) {
			s.failf("end %d heard %d bytes of %d, the end %t", i, e.app.got, e.app.want, e.app.heard)
		}
	}
	s.judgeTimers()
	if limit := 2*(s.ideal+m.costs) + 2e9; took > limit {
		s.failf("took %.3f s, at most %.3f are in order: %.3f without losses, %d frames lost", float64(took)/1e9, float64(limit)/1e9, float64(s.ideal)/1e9, p.legs[0].lost+p.legs[1].lost)
	}
}

// judgeTimers checks that what was lost accounts for what a retransmission timer had to notice: where nothing was, and nothing was
// overtaken, that is nothing.
func (s *lossyRun) judgeTimers() {
	lost, reorders := 0, false
	for i := range s.p.legs {
		l := &s.p.legs[i]
		lost += l.lost
		reorders = reorders || l.reorder > 0
	}
	for i, e := range s.conns {
		if e == nil {
			continue
		}
		n := int(e.env.Stats.TCPTimeouts)
		if n > lost+4 {
			s.failf("end %d: %d timeouts for %d frames that were lost", i, n, lost)
		}
		if lost == 0 && !reorders && n > 0 {
			s.failf("end %d: %d timeouts, though nothing was lost or overtaken", i, n)
		}
	}
}

// clean checks that end i has given everything back.
func (s *lossyRun) clean(i int) {
	e := s.conns[i]
	if e == nil {
		return
	}
	if n := e.env.Budget.Promised; n != 0 {
		s.failf("end %d: %d bytes are promised at the end", i, n)
	}
	if h, q := e.env.Hold.InUse(), e.env.Send.InUse(); h != 0 || q != 0 {
		s.failf("end %d: %d pages of the hold and %d to send stay in use", i, h, q)
	}
	if n := e.env.Stats.Drops[stats.NoBuffers]; n != 0 {
		s.failf("end %d: %d segments found no memory, though what is promised is reserved", i, n)
	}
}
