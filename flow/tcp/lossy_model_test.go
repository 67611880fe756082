package tcp

import (
	"bytes"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// model holds both ends to the rules, from the frames alone: from what each end sends before the path has its way with it, and from
// what arrives at the other.
type model struct {
	p        *path
	failf    func(format string, args ...any)
	hostile  bool          // headers are forged: what is acknowledged, or in flight, says nothing about the ends
	hopeless bool          // so much was lost that an end may give up
	rto      int64         // what a timeout may take at first, nanoseconds
	costs    int64         // what all losses so far may have cost, nanoseconds
	again    map[lossy]int // how often a segment was lost
}

// lossy names what was lost: a stretch of a stream, by end and sequence number.
type lossy struct {
	end int
	seq uint32
}

// side is what was seen of one end.
type side struct {
	checked bool // it is a Conn: held to every rule
	says    pattern

	synSent bool
	iss     uint32
	scale   int      // in its SYN, -1: none
	end     int64    // highest end of what it sent, SYN and FIN included
	fin     int64    // offset of its FIN, 0: not sent
	limit   int64    // highest right edge that has arrived, for what it sends
	got     []extent // of the other's stream: what has arrived
	acked   int64    // of the other's stream: what it acknowledged
	edge    int64    // of the other's stream: the highest right edge that it told
	bytes   int64    // payload sent, repetitions included
}

// extent is a range of stream offsets.
type extent struct{ from, to int64 }

// add notes that [from, to) has arrived.
func (s *side) add(from, to int64) {
	k := 0
	for k < len(s.got) && s.got[k].to < from {
		k++
	}
	n := k
	for n < len(s.got) && s.got[n].from <= to {
		from, to = min(from, s.got[n].from), max(to, s.got[n].to)
		n++
	}
	tail := append([]extent{{from, to}}, s.got[n:]...)
	s.got = append(s.got[:k], tail...)
}

// whole is the end of what has arrived without a hole.
func (s *side) whole() int64 {
	if len(s.got) == 0 || s.got[0].from > 0 {
		return 0
	}
	return s.got[0].to
}

// shift is what the window fields of end i are shifted by.
func (m *model) shift(i int) int {
	a, b := m.p.sides[i].scale, m.p.sides[1-i].scale
	if a < 0 || b < 0 {
		return 0
	}
	return min(a, 14)
}

// unwrap is the stream offset of a sequence number of s.
func (s *side) unwrap(seq uint32) int64 { return s.end + int64(int32(seq-s.iss-uint32(s.end))) }

// leaves checks what end i sends.
func (m *model) leaves(i int, frame []byte) {
	s, peer, t := &m.p.sides[i], &m.p.sides[1-i], wireTCP(frame)
	flags := t.Flags()
	if flags&header.TCPFlagRst != 0 {
		if s.checked && len(t.Payload()) > 0 {
			m.failf("end %d sends a reset with data", i)
		}
		return
	}
	if flags&header.TCPFlagSyn != 0 && !s.synSent {
		o := header.ParseSynOptions(t.Options(), flags&header.TCPFlagAck != 0)
		s.synSent, s.iss, s.scale = true, t.SequenceNumber(), o.WS
	}
	off := s.unwrap(t.SequenceNumber())
	end := off + int64(len(t.Payload()))
	if flags&header.TCPFlagSyn != 0 {
		end++
	}
	if s.checked {
		m.leavesChecked(i, s, t, off)
	}
	s.bytes += int64(len(t.Payload()))
	if flags&header.TCPFlagFin != 0 {
		s.fin = end
		end++
	}
	s.end = max(s.end, end)
	if flags&header.TCPFlagAck == 0 {
		return
	}
	ack := peer.unwrap(t.AckNumber())
	edge := ack + int64(t.WindowSize())<<m.shift(i)
	if flags&header.TCPFlagSyn != 0 {
		edge = ack + int64(t.WindowSize())
	}
	if s.checked && !m.hostile {
		switch {
		case ack < s.acked:
			m.failf("end %d takes back its acknowledgement of %d to %d", i, s.acked, ack)
		case ack > s.whole():
			m.failf("end %d acknowledges %d, of which only %d has arrived", i, ack, s.whole())
		case edge < s.edge && (peer.fin == 0 || ack <= peer.fin):
			m.failf("end %d moves its right edge left from %d to %d", i, s.edge, edge)
		}
		for _, b := range t.ParsedOptions().SACKBlocks {
			m.leavesBlock(i, s, extent{peer.unwrap(uint32(b.Start)), peer.unwrap(uint32(b.End))})
		}
	}
	s.acked, s.edge = max(s.acked, ack), max(s.edge, edge)
}

// leavesChecked checks the data of a segment at offset off of a Conn.
func (m *model) leavesChecked(i int, s *side, t header.TCP, off int64) {
	data := t.Payload()
	end := off + int64(len(data))
	if off > s.end || off < 0 {
		m.failf("end %d sends a segment at %d, sent so far is %d", i, off, s.end)
	}
	if len(data) == 0 {
		return
	}
	if s.fin != 0 && end > s.fin {
		m.failf("end %d sends data up to %d, its FIN was at %d", i, end, s.fin)
	}
	if end > s.limit && !m.hostile {
		m.failf("end %d sends up to %d, the window that has arrived ends at %d", i, end, s.limit)
	}
	for at := off; len(data) > 0; {
		n := min(len(data), patternPeriod)
		if !bytes.Equal(data[:n], s.says.at(at-1, n)) {
			m.failf("end %d sends wrong bytes within [%d, %d)", i, off, end)
		}
		at += int64(n)
		data = data[n:]
	}
}

// leavesBlock checks that a SACK block of end i tells of what has arrived.
func (m *model) leavesBlock(i int, s *side, b extent) {
	for _, g := range s.got {
		if g.from <= b.from && b.from < b.to && b.to <= g.to {
			return
		}
	}
	m.failf("end %d tells of [%d, %d) in a SACK block; %v has arrived", i, b.from, b.to, s.got)
}

// arrives notes what of end i has arrived, unchanged, at the other.
func (m *model) arrives(i int, frame []byte) {
	s, peer, t := &m.p.sides[i], &m.p.sides[1-i], wireTCP(frame)
	flags := t.Flags()
	if flags&header.TCPFlagRst != 0 {
		return
	}
	off := s.unwrap(t.SequenceNumber())
	end := off + int64(len(t.Payload()))
	if flags&(header.TCPFlagSyn|header.TCPFlagFin) != 0 {
		end++
	}
	if end > off {
		peer.add(off, end)
	}
	edge := int64(t.WindowSize()) + 1
	if flags&header.TCPFlagAck != 0 {
		edge = peer.unwrap(t.AckNumber()) + int64(t.WindowSize())
		if flags&header.TCPFlagSyn == 0 {
			edge += int64(t.WindowSize())<<m.shift(i) - int64(t.WindowSize())
		}
	}
	peer.limit = max(peer.limit, edge)
}

// fails notes that a frame of end i does not arrive, and what that may cost: the timeout of who waits for it, doubled for each time
// that the same was lost before.
func (m *model) fails(i int, frame []byte) {
	l, t := &m.p.legs[i], wireTCP(frame)
	l.lost++
	l.fails++
	m.hopeless = m.hopeless || l.fails >= maxRetries
	n := l.fails - 1
	if len(t.Payload()) > 0 || t.Flags()&(header.TCPFlagSyn|header.TCPFlagFin) != 0 {
		k := lossy{i, t.SequenceNumber()}
		n = m.again[k]
		m.again[k] = n + 1
		m.hopeless = m.hopeless || n >= maxRetries || n >= maxSynRetries && t.Flags()&header.TCPFlagSyn != 0
	}
	if t.Flags()&header.TCPFlagSyn != 0 {
		m.rto = max(m.rto, lostSynRTO+lostSynRTO/10) // RFC 6298, 5.7
	}
	m.costs += min(m.rto<<min(n, 16), maxRTO)
}
