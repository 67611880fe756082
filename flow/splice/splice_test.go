package splice_test

import (
	"bytes"
	"testing"

	"github.com/vasta-net/vasta/flow/splice"
	"github.com/vasta-net/vasta/pagepool"
	"pgregory.net/rapid"
)

// socket is one end as its kernel has it: what its peer has sent, and what it was given.
type socket struct {
	in       []byte // arrived, not read
	ended    bool   // the peer has sent its end
	space    int    // bytes that it takes now
	got      []byte // was given
	shutDown bool
	stale    bool // something has happened since the last event
}

// pair is a Conn between two sockets, driven as the worker drives it.
type pair struct {
	t    *rapid.T
	conn splice.Conn
	pool *pagepool.Pool
	ends [2]socket
	sent [2][]byte // all that peers have sent
	done bool
	seed byte
}

// notify tells of what has happened at an end, as an edge-triggered event does.
func (p *pair) notify(e splice.End) {
	s := &p.ends[e]
	if s.stale {
		s.stale = false
		p.conn.Event(e, len(s.in) > 0 || s.ended, s.space > 0, s.ended)
	}
}

// work does what the Conn asks for until it waits.
func (p *pair) work() {
	for {
		op, e := p.conn.Next()
		s := &p.ends[e]
		switch op {
		case splice.Wait:
			return
		case splice.Finish:
			p.done = true
			return
		case splice.Shutdown:
			if s.shutDown {
				p.t.Fatal("told of the end twice")
			}
			s.shutDown = true
			p.conn.Told(e)
		case splice.Write:
			held := bytes.Join(p.conn.Held(p.pool, e, nil), nil)
			if len(held) == 0 {
				p.t.Fatal("nothing is held that is to be written")
			}
			p.conn.Wrote(p.pool, e, s.take(p.t, held))
		case splice.Read:
			p.read(e)
		}
	}
}

func (p *pair) read(from splice.End) {
	s, to := &p.ends[from], &p.ends[from.Other()]
	n := rapid.IntRange(1, splice.MaxHeld).Draw(p.t, "pages")
	pages := make([]pagepool.Page, n)
	var room []byte
	for i := range pages {
		pages[i], _ = p.pool.Get()
	}
	switch {
	case len(s.in) == 0 && s.ended:
		p.conn.Ended(from)
	case len(s.in) == 0:
		p.conn.Empty(from)
	default:
		k := 0
		for i := 0; i < n && k < len(s.in); i++ {
			b := p.pool.Bytes(pages[i])
			room = append(room, b[:copy(b, s.in[k:])]...)
			k = len(room)
		}
		s.in = s.in[k:]
		p.conn.Moved(from, k < n*pagepool.PageSize)
		if taken := to.take(p.t, room); taken < k {
			pages = pages[p.conn.Hold(p.pool, from.Other(), pages, taken, k):]
		}
	}
	for _, page := range pages {
		p.pool.Put(page)
	}
}

// take gives the socket what it has space for.
func (s *socket) take(t *rapid.T, b []byte) int {
	if s.shutDown {
		t.Fatal("bytes after the end")
	}
	n := min(len(b), s.space)
	s.got = append(s.got, b[:n]...)
	s.space -= n
	return n
}

// TestModel: whatever comes in whatever order, each end is given just what the other's peer has sent, and told of its end once, after the last byte; and when nothing holds
// it up, all of it arrives, and no page is left.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pool, err := pagepool.New(64 * pagepool.PageSize)
		if err != nil {
			t.Fatal(err)
		}
		p := &pair{t: t, pool: pool}
		defer func() {
			p.conn.Release(pool)
			if n := pool.InUse(); n != 0 {
				t.Errorf("%d pages left", n)
			}
			if err := pool.Close(); err != nil {
				t.Error(err)
			}
		}()
		end := rapid.SampledFrom([]splice.End{splice.Inside, splice.Outside})
		if rapid.Bool().Draw(t, "connected") {
			p.conn.Connect()
		}
		t.Repeat(map[string]func(*rapid.T){
			"connect": func(*rapid.T) { p.conn.Connect() },
			"send": func(t *rapid.T) {
				e := end.Draw(t, "end")
				if s := &p.ends[e]; !s.ended {
					b := make([]byte, rapid.SampledFrom([]int{1, 100, pagepool.PageSize - 1, pagepool.PageSize, 3 * pagepool.PageSize, 5*pagepool.PageSize + 7}).Draw(t, "bytes"))
					for i := range b {
						p.seed = p.seed*31 + 7
						b[i] = p.seed
					}
					s.in, p.sent[e], s.stale = append(s.in, b...), append(p.sent[e], b...), true
				}
			},
			"end": func(t *rapid.T) {
				s := &p.ends[end.Draw(t, "end")]
				s.ended, s.stale = true, true
			},
			"space": func(t *rapid.T) {
				s := &p.ends[end.Draw(t, "end")]
				s.space += rapid.SampledFrom([]int{1, 1000, pagepool.PageSize, 2*pagepool.PageSize + 1}).Draw(t, "bytes")
				s.stale = true
			},
			"event": func(t *rapid.T) {
				p.notify(end.Draw(t, "end"))
				p.work()
			},
			"events": func(t *rapid.T) {
				p.notify(splice.Inside)
				p.notify(splice.Outside)
				p.work()
			},
			"": func(t *rapid.T) {
				for e := range p.ends {
					s, from := &p.ends[e], 1-e
					if !bytes.HasPrefix(p.sent[from], s.got) {
						t.Fatalf("end %d was given what was not sent to it", e)
					}
					if s.shutDown && (!p.ends[from].ended || len(s.got) != len(p.sent[from])) {
						t.Fatalf("end %d was told of the end after %d of %d bytes", e, len(s.got), len(p.sent[from]))
					}
				}
				if p.done && !(p.ends[0].shutDown && p.ends[1].shutDown) {
					t.Fatal("finished too early")
				}
			},
		})
		p.conn.Connect()
		for e := range p.ends {
			p.ends[e].ended, p.ends[e].stale, p.ends[e].space = true, true, 1<<30
			p.notify(splice.End(e))
		}
		p.work()
		for e := range p.ends {
			if !bytes.Equal(p.ends[e].got, p.sent[1-e]) || !p.ends[e].shutDown {
				t.Errorf("end %d has %d of %d bytes, told of the end: %v", e, len(p.ends[e].got), len(p.sent[1-e]), p.ends[e].shutDown)
			}
		}
		if !p.done {
			t.Error("not finished")
		}
	})
}

// TestTurns: with something to do both ways, each way has its turn.
func TestTurns(t *testing.T) {
	var c splice.Conn
	c.Connect()
	for e := range splice.End(2) {
		c.Event(e, true, true, false)
	}
	var order []splice.End
	for range 6 {
		op, e := c.Next()
		if op != splice.Read {
			t.Fatalf("operation %d", op)
		}
		c.Moved(e, false)
		order = append(order, e)
	}
	for i, e := range order {
		if want := splice.End(i % 2); e != want {
			t.Fatalf("order %v", order)
		}
	}
}
