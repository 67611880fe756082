package tcp

import "testing"

// bulk is a connection in steady state, driven without the rules of watch, which allocate.
type bulk struct {
	env   *Env
	c     *Conn
	guest *guest
	seg   Segment
	data  []byte
	sent  int
}

func newBulk(tb testing.TB) *bulk {
	w := newWorld(tb, roomy)
	g := fullGuest
	g.buffer, g.scale = 8<<20, 9
	s := w.open(largeConfig, g)
	b := &bulk{env: &w.env, c: &s.c, guest: &s.guest, data: make([]byte, 65468)}
	b.seg = Segment{Scale: -1, HasTimes: g.times, Flags: ACK, Seq: s.guest.iss + 1, Ack: largeConfig.ISS + 1, Window: 65535, TSVal: s.guest.clock}
	for range 200 { // until the window is as large as it gets
		b.upload(len(b.data) / 3)
	}
	tb.Cleanup(func() {
		if !tb.Failed() {
			s.c.HostFailed(b.env)
			w.close()
		}
	})
	return b
}

func (b *bulk) SendTCP(_ *Conn, o *Out) bool {
	b.sent += o.Len
	return true
}

// upload takes one frame of 64 KiB to the host, which takes the first part bytes of it at once and the others after that.
func (b *bulk) upload(part int) {
	n := int(min(int64(len(b.data)), b.c.edge-b.c.rcvNxt))
	b.seg.Payload = append(b.seg.Payload[:0], b.data[:4096], b.data[4096:n])
	b.seg.Len = n
	b.c.Input(b.env, &b.seg)
	b.c.Settle(b.env, min(part, b.c.borrowLen))
	b.c.Output(b.env, b)
	for b.c.HeldBytes() > 0 {
		k := 0
		for _, p := range b.c.Held(b.env, b.env.iov[:0], maxPieces) {
			k += len(p)
		}
		b.c.Drained(b.env, k)
		b.c.Output(b.env, b)
	}
	b.seg.Seq += uint32(n)
}

// outOfOrder takes two frames to the host, the second one first.
func (b *bulk) outOfOrder() {
	half := len(b.data) / 2
	first := b.seg.Seq
	for _, part := range [][2]int{{half, len(b.data)}, {0, half}} {
		b.seg.Seq = first + uint32(part[0])
		b.seg.Payload = append(b.seg.Payload[:0], b.data[part[0]:part[1]])
		b.seg.Len = part[1] - part[0]
		b.c.Input(b.env, &b.seg)
		n := 0
		for _, p := range b.c.Borrowed() {
			n += len(p)
		}
		b.c.Settle(b.env, n)
		b.c.Output(b.env, b)
	}
	b.c.Drained(b.env, int(b.c.HeldBytes()))
	b.c.Output(b.env, b)
	b.seg.Seq = first + uint32(len(b.data))
}

// download takes one frame to the guest, which acknowledges it. It is one page, or pieces of piece bytes.
func (b *bulk) download(tb testing.TB, piece int) {
	n := b.c.WantRead(b.env, 1)
	if n != b.c.FrameLen() {
		tb.Fatalf("%d bytes are wanted", n)
	}
	if piece == 0 {
		page, ok := b.env.Send.Get()
		if !ok {
			tb.Fatal("no page left")
		}
		b.c.HostPage(page, 0, n)
	} else {
		for at := 0; at < n; at += piece {
			b.c.HostBytes(b.env, b.data[at:min(at+piece, n)])
		}
	}
	b.c.Output(b.env, b)
	b.seg.Ack += uint32(n)
	b.seg.Payload, b.seg.Len = b.seg.Payload[:0], 0
	b.c.Input(b.env, &b.seg)
	b.c.Settle(b.env, 0)
	b.c.Output(b.env, b)
}

// steps are the courses of the steady state.
var steps = []struct {
	name string
	do   func(testing.TB, *bulk)
}{
	{"upload", func(_ testing.TB, b *bulk) { b.upload(len(b.data)) }},
	{"upload/short write", func(_ testing.TB, b *bulk) { b.upload(10000) }},
	{"upload/full socket", func(_ testing.TB, b *bulk) { b.upload(0) }},
	{"upload/out of order", func(_ testing.TB, b *bulk) { b.outOfOrder() }},
	{"download", func(tb testing.TB, b *bulk) { b.download(tb, 0) }},
	{"download/small reads", func(tb testing.TB, b *bulk) { b.download(tb, 3000) }},
}

// Nothing is allocated in steady state.
func TestNoAllocations(t *testing.T) {
	for _, step := range steps {
		t.Run(step.name, func(t *testing.T) {
			b := newBulk(t)
			for range 200 { // until rings and queues have their size
				step.do(t, b)
			}
			before := b.sent
			if n := testing.AllocsPerRun(200, func() { step.do(t, b) }); n != 0 {
				t.Errorf("%v allocations", n)
			}
			if b.c.State() != Open || b.sent < before {
				t.Error("the connection does not work")
			}
			if held := b.c.HeldBytes(); held != 0 || b.c.hostNxt != b.c.rcvNxt || int64(b.seg.Seq-b.c.irs) != b.c.rcvNxt {
				t.Errorf("%d bytes held, next is %d", held, b.c.rcvNxt)
			}
		})
	}
}

// BenchmarkFrame is the cost of one frame of 64 KiB.
func BenchmarkFrame(b *testing.B) {
	for _, step := range steps {
		b.Run(step.name, func(b *testing.B) {
			k := newBulk(b)
			b.SetBytes(int64(len(k.data)))
			b.ReportAllocs()
			for b.Loop() {
				step.do(b, k)
			}
		})
	}
}
