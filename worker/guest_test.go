package worker_test

import (
	"bytes"
	"encoding/binary"
	"net/netip"

	"github.com/gopacket/gopacket/layers"
)

// guestConn is a guest's end of a TCP connection. Offsets are as in package flow/tcp: 0 is the SYN, data begins at 1. It checks
// what every guest may rely on: the right edge does not move left, nothing is acknowledged that was not sent, and the
// bytes are those of the flow's pattern.
type guestConn struct {
	r             *rig
	flow          int // names the pattern of both streams
	local, remote netip.AddrPort
	v4            bool

	// What the guest offers in its SYN.
	mss    uint16
	scale  int // of the guest's window, -1: no window scaling
	times  bool
	window int  // bytes the guest is ready to receive from now on
	quiet  bool // do not acknowledge by oneself

	iss, irs      uint32
	una, nxt      int64 // ours
	edge          int64 // as advertised by the worker
	peerScale     uint8
	rcvNxt        int64
	tsRecent      uint32
	opened, ended bool          // both SYNs are acknowledged; the peer's FIN was received
	segments      []*layers.TCP // all that came
	reset         *layers.TCP   // the RST that came
	dataFrames    int
	duplicates    int
}

// conn registers a connection of the guest's at local with remote.
func (r *rig) conn(local, remote netip.AddrPort) *guestConn {
	c := &guestConn{
		r: r, flow: len(r.conns), local: local, remote: remote, v4: local.Addr().Is4(),
		mss: 65460, scale: 7, window: 4 << 20, iss: 0x10000000 + uint32(len(r.conns))<<20,
	}
	r.conns[[2]netip.AddrPort{local, remote}] = c
	return c
}

// dial sends the SYN of a new connection.
func (r *rig) dial(remote netip.AddrPort) *guestConn {
	r.port++
	c := r.conn(at(like(remote.Addr()), r.port), remote)
	c.syn()
	return c
}

// connect opens a connection to remote, which has to succeed.
func (r *rig) connect(remote netip.AddrPort) *guestConn {
	r.t.Helper()
	c := r.dial(remote)
	r.pump()
	if !c.opened {
		r.t.Fatalf("no connection to %v", remote)
	}
	return c
}

func (c *guestConn) syn() {
	c.nxt = max(c.nxt, 1)
	c.send(layers.TCP{SYN: true}, 0, nil)
}

// send sends one segment at offset off. Flags are as in t; ACK is added once there is something to acknowledge.
func (c *guestConn) send(t layers.TCP, off int64, payload []byte) {
	c.r.inject(c.segment(t, off, payload))
}

func (c *guestConn) segment(t layers.TCP, off int64, payload []byte) []byte {
	t.Seq = c.iss + uint32(off)
	if c.rcvNxt > 0 {
		t.ACK = true
		t.Ack = c.irs + uint32(c.rcvNxt)
	}
	w := min(c.window, 65535)
	if !t.SYN {
		w = min(c.window>>max(c.scale, 0), 65535)
	}
	t.Window = uint16(w)
	if t.SYN {
		t.Options = c.synOptions()
	} else if c.times {
		t.Options = append(t.Options, layers.TCPOption{OptionType: layers.TCPOptionKindTimestamps, OptionLength: 10, OptionData: c.timestamp()})
	}
	return tcpFrame(c.local, c.remote, t, payload)
}

func (c *guestConn) timestamp() []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(c.r.host.Now()/millisecond))
	return binary.BigEndian.AppendUint32(b, c.tsRecent)
}

func (c *guestConn) synOptions() (o []layers.TCPOption) {
	o = append(o, layers.TCPOption{OptionType: layers.TCPOptionKindMSS, OptionLength: 4, OptionData: binary.BigEndian.AppendUint16(nil, c.mss)},
		layers.TCPOption{OptionType: layers.TCPOptionKindSACKPermitted, OptionLength: 2})
	if c.scale >= 0 {
		o = append(o, layers.TCPOption{OptionType: layers.TCPOptionKindWindowScale, OptionLength: 3, OptionData: []byte{byte(c.scale)}})
	}
	if c.times {
		o = append(o, layers.TCPOption{OptionType: layers.TCPOptionKindTimestamps, OptionLength: 10, OptionData: c.timestamp()})
	}
	return o
}

// ack sends a segment without data.
func (c *guestConn) ack() { c.send(layers.TCP{}, c.nxt, nil) }

// write sends the next n bytes of the flow's pattern, as far as the worker's window goes, in segments of at most size bytes,
// and returns how many were sent.
func (c *guestConn) write(n, size int) (sent int) {
	n = int(min(int64(n), c.edge-c.nxt))
	for sent < n {
		k := min(size, n-sent)
		c.send(layers.TCP{PSH: sent+k == n}, c.nxt, pattern(make([]byte, k), c.flow, c.nxt))
		c.nxt += int64(k)
		sent += k
	}
	return max(sent, 0)
}

// end sends the guest's FIN.
func (c *guestConn) end() {
	c.send(layers.TCP{FIN: true}, c.nxt, nil)
	c.nxt++
}

// abort sends a reset.
func (c *guestConn) abort() { c.send(layers.TCP{RST: true}, c.nxt, nil) }

// input takes one segment from the worker.
func (c *guestConn) input(g got) {
	c.r.t.Helper()
	t := g.tcp
	c.segments = append(c.segments, t)
	if t.RST {
		c.reset = t
		return
	}
	if t.SYN {
		c.inputSyn(t)
		return
	}
	off := c.rcvNxt + int64(int32(t.Seq-(c.irs+uint32(c.rcvNxt))))
	c.acknowledged(t, int64(t.Window)<<c.peerScale)
	end := off + int64(len(g.data))
	if len(g.data) > 0 {
		c.dataFrames++
		if want := pattern(make([]byte, len(g.data)), c.flow, off); !bytes.Equal(g.data, want) {
			c.r.t.Errorf("flow %d: wrong bytes at offset %d of the stream toward the guest", c.flow, off)
		}
	}
	switch {
	case off > c.rcvNxt: // a hole: the segments before it were not sent yet
		c.r.t.Errorf("flow %d: a hole from %d to %d toward the guest", c.flow, c.rcvNxt, off)
	case end > c.rcvNxt:
		c.rcvNxt = end
	case len(g.data) > 0:
		c.duplicates++
	}
	if t.FIN && end == c.rcvNxt && !c.ended {
		c.ended = true
		c.rcvNxt++
	}
	for _, o := range t.Options {
		if o.OptionType == layers.TCPOptionKindTimestamps && len(o.OptionData) == 8 {
			c.tsRecent = binary.BigEndian.Uint32(o.OptionData)
		}
	}
	// A probe from below what was received asks for an answer, too.
	if !c.quiet && (len(g.data) > 0 || t.FIN || off < c.rcvNxt) {
		c.ack()
	}
}

// inputSyn takes the SYN or the SYN/ACK of the worker.
func (c *guestConn) inputSyn(t *layers.TCP) {
	c.irs = t.Seq
	c.rcvNxt = 1
	for _, o := range t.Options {
		switch o.OptionType {
		case layers.TCPOptionKindWindowScale:
			c.peerScale = o.OptionData[0]
		case layers.TCPOptionKindTimestamps:
			c.tsRecent = binary.BigEndian.Uint32(o.OptionData)
		}
	}
	if !t.ACK {
		c.nxt, c.edge = 1, int64(t.Window)+1
		c.send(layers.TCP{SYN: true, ACK: true}, 0, nil)
		c.opened = true
		return
	}
	if c.scale < 0 {
		c.peerScale = 0
	}
	c.acknowledged(t, int64(t.Window))
	c.opened = true
	if !c.quiet {
		c.ack()
	}
}

// acknowledged takes the acknowledgement and the window, in bytes, of t.
func (c *guestConn) acknowledged(t *layers.TCP, window int64) {
	c.r.t.Helper()
	if !t.ACK {
		c.r.t.Errorf("flow %d: a segment without ACK", c.flow)
		return
	}
	ack := c.una + int64(int32(t.Ack-(c.iss+uint32(c.una))))
	if ack < c.una || ack > c.nxt {
		c.r.t.Errorf("flow %d: %d is acknowledged, sent were %d to %d", c.flow, ack, c.una, c.nxt)
		return
	}
	if edge := ack + window; edge < c.edge {
		c.r.t.Errorf("flow %d: the right edge moves left from %d to %d", c.flow, c.edge, edge)
	} else {
		c.edge = edge
	}
	c.una = ack
}
