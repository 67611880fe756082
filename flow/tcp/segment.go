package tcp

import (
	"encoding/binary"

	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/stats"
)

// TCP flags (RFC 9293, 3.1).
const (
	FIN = 1 << iota
	SYN
	RST
	PSH
	ACK
	URG
	ECE
	CWR
)

// Option kinds and lengths (RFC 9293 3.2, RFC 7323, RFC 2018).
const (
	optEnd, optNop        = 0, 1
	optMSS, optMSSLen     = 2, 4
	optScale, optScaleLen = 3, 3
	optSACKOK             = 4
	optSACKOKLen          = 2
	optSACK               = 5
	optTimes, optTimesLen = 8, 10

	// timesLen is what timestamps cost in every segment, with padding.
	timesLen = 12
	// maxSACK is how many SACK blocks fit into a segment; beside timestamps it is one less.
	maxSACK = 4
)

// Default MSS when the peer names none (RFC 9293, 3.7.1).
const (
	defaultMSS4 = 536
	defaultMSS6 = 1220
)

// Segment is one TCP segment from the guest, its header parsed. Payload is borrowed from the link until the
// connection's Settle.
type Segment struct {
	Seq, Ack uint32
	Flags    uint8
	Window   uint16 // as on the wire, not scaled

	MSS       uint16 // 0: not named
	Scale     int8   // window scale shift, -1: not named
	SACKOK    bool
	HasTimes  bool
	TSVal     uint32
	TSEcr     uint32
	SACK      [4][2]uint32
	SACKCount int

	Payload [][]byte
	Len     int // payload bytes
}

// Parse fills s from the packet p, whose transport header was checked by packet.Parse. The payload's pieces are
// appended to s.Payload[:0].
func (s *Segment) Parse(p *packet.Packet) stats.Reason {
	h := p.Transport()
	s.Seq = binary.BigEndian.Uint32(h[4:])
	s.Ack = binary.BigEndian.Uint32(h[8:])
	s.Flags = h[13]
	s.Window = binary.BigEndian.Uint16(h[14:])
	s.MSS, s.Scale, s.SACKOK, s.HasTimes, s.SACKCount = 0, -1, false, false, 0
	if !s.parseOptions(h[packet.TCPLen:]) {
		return stats.BadOption
	}
	s.Payload = p.Payload(s.Payload[:0])
	s.Len = p.PayloadLen()
	return stats.None
}

// parseOptions reads the options and reports whether every length in them is right. Unknown options are skipped.
func (s *Segment) parseOptions(o []byte) bool {
	for len(o) > 0 {
		kind := o[0]
		if kind == optEnd {
			return true
		}
		if kind == optNop {
			o = o[1:]
			continue
		}
		if len(o) < 2 || int(o[1]) < 2 || int(o[1]) > len(o) {
			return false
		}
		n := int(o[1])
		v := o[2:n]
		switch kind {
		case optMSS:
			if n != optMSSLen {
				return false
			}
			s.MSS = binary.BigEndian.Uint16(v)
		case optScale:
			if n != optScaleLen {
				return false
			}
			s.Scale = int8(min(v[0], 14)) // RFC 7323, 2.3: larger counts as 14
		case optSACKOK:
			if n != optSACKOKLen {
				return false
			}
			s.SACKOK = true
		case optTimes:
			if n != optTimesLen {
				return false
			}
			s.HasTimes = true
			s.TSVal = binary.BigEndian.Uint32(v)
			s.TSEcr = binary.BigEndian.Uint32(v[4:])
		case optSACK:
			if len(v)%8 != 0 || len(v) == 0 || len(v) > 32 {
				return false
			}
			s.SACKCount = len(v) / 8
			for i := range s.SACKCount {
				s.SACK[i] = [2]uint32{binary.BigEndian.Uint32(v[8*i:]), binary.BigEndian.Uint32(v[8*i+4:])}
			}
		}
		o = o[n:]
	}
	return true
}

// MaxOptions is the longest option block that Out carries.
const MaxOptions = 40

// Out is one segment for the guest. Payload refers to the connection's own pages, which stay untouched until the
// guest acknowledges them.
type Out struct {
	Seq, Ack uint32
	Flags    uint8
	Window   uint16
	Options  [MaxOptions]byte
	OptLen   int // multiple of 4
	Payload  [][]byte
	Room     int // bytes in front of Payload[0], in its page, that nobody needs any more
	Len      int // payload bytes
	MSS      int // payload bytes of one segment on the wire: a longer payload leaves as a GSO frame
}

func (o *Out) addOption(b ...byte) {
	o.OptLen += copy(o.Options[o.OptLen:], b)
}

func (o *Out) addTimes(val, ecr uint32) {
	o.addOption(optNop, optNop, optTimes, optTimesLen)
	binary.BigEndian.PutUint32(o.Options[o.OptLen:], val)
	binary.BigEndian.PutUint32(o.Options[o.OptLen+4:], ecr)
	o.OptLen += 8
}

// Sender takes segments for the guest, in order.
type Sender interface {
	// SendTCP reports false when the link is full; the segment was not taken then, and the connection keeps
	// it. Neither out nor anything in it is kept.
	SendTCP(c *Conn, out *Out) bool
}
