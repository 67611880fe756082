package tcp

import (
	"testing"

	"github.com/vasta-net/vasta/stats"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// The SYN/ACK carries the options of the guest's SYN and no others, but for the MSS, which is always named.
func TestSynAckMirrorsOptions(t *testing.T) {
	for _, tc := range []struct {
		name        string
		scale       int8
		times, sack bool
	}{
		{"none", -1, false, false},
		{"scale", 7, false, false},
		{"scale 0", 0, false, false},
		{"timestamps", -1, true, false},
		{"SACK", -1, false, true},
		{"all", 14, true, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := roomyWorld(t)
			g := fullGuest
			g.scale, g.times, g.sack = tc.scale, tc.times, tc.sack
			s := w.dial(largeConfig, g)
			s.output()
			s.none("while the host's connect is pending")
			s.c.Connected()
			s.output()
			m := s.one("connected")
			s.want("SYN/ACK", m, SYN|ACK, 0, 0, 1)
			o := header.ParseSynOptions(m.options, true)
			if o.MSS != 65480 || (o.WS >= 0) != (tc.scale >= 0) || o.TS != tc.times || o.SACKPermitted != tc.sack {
				t.Errorf("options %+v", o)
			}
			if tc.scale >= 0 && o.WS != 7 {
				t.Errorf("window scale %d, the smallest for a window of 4 MiB is 7", o.WS)
			}
			if tc.times && (o.TSEcr != s.guest.clock || o.TSVal != 77+1000) {
				t.Errorf("timestamp %d echoes %d", o.TSVal, o.TSEcr)
			}
			if m.window != 65408 && m.window != 65535 { // in whole units of 1<<7
				t.Errorf("window %d", m.window)
			}
			s.reset()
		})
	}
}

// Our own SYN offers everything.
func TestSynOffersOptions(t *testing.T) {
	w := roomyWorld(t)
	s := w.accept(largeConfig, fullGuest)
	s.output()
	m := s.one("SYN")
	if m.flags != SYN || m.seq != largeConfig.ISS || m.ack != 0 {
		t.Errorf("SYN is %+v", m)
	}
	if o := header.ParseSynOptions(m.options, false); o.MSS != 65480 || o.WS != 7 || !o.TS || !o.SACKPermitted {
		t.Errorf("options %+v", o)
	}
	s.reset()
}

// A guest that takes up none of what our SYN offers is sent none of it.
func TestAnswerWithoutOptions(t *testing.T) {
	w := roomyWorld(t)
	s := w.accept(largeConfig, guest{iss: 9, scale: -1, buffer: 60000, chunk: 60000})
	s.output()
	s.deliver()
	s.answer()
	s.want("ACK", s.one("opened"), ACK, 1, 1, 1)
	if n := s.c.WantRead(&w.env, 1000); n != 60000 {
		t.Errorf("%d bytes are wanted, the SYN/ACK offers 60000", n)
	}
	s.guest.total = 300000
	s.host.total = 300000
	s.finish()
}

// The largest segment is the smaller of both ends, and the default when the guest names none.
func TestSegmentSize(t *testing.T) {
	for _, tc := range []struct {
		name  string
		guest uint16
		own   int
		v6    bool
		times bool
		want  int
	}{
		{"the guest's", 1000, 65480, false, false, 1000},
		{"our own", 65480, 1460, false, false, 1460},
		{"less timestamps", 1460, 65480, false, true, 1448},
		{"IPv4 default", 0, 65480, false, false, 536},
		{"IPv6 default", 0, 65480, true, false, 1220},
		{"smallest", 1, 65480, false, false, 48},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := roomyWorld(t)
			g := fullGuest
			g.mss, g.times = tc.guest, tc.times
			cfg := largeConfig
			cfg.MSS, cfg.V6, cfg.MaxGSO = tc.own, tc.v6, 0
			s := w.open(cfg, g)
			s.says(200000)
			for i, m := range s.take() {
				if m.mss != tc.want || i == 0 && len(m.data) != tc.want {
					t.Fatalf("segment %d has %d bytes and MSS %d, want %d", i, len(m.data), m.mss, tc.want)
				}
			}
			s.reset()
		})
	}
}

// A GSO frame has as many whole segments as the link takes with its options.
func TestFrameSize(t *testing.T) {
	for _, tc := range []struct {
		mss   uint16
		times bool
		want  int
	}{{1460, true, 45 * 1448}, {1460, false, 44 * 1460}, {13111, true, 4 * 13099}, {13099, false, 5 * 13099}, {65480, true, 65468}} {
		w := roomyWorld(t)
		g := fullGuest
		g.mss, g.times = tc.mss, tc.times
		s := w.open(largeConfig, g)
		if got := s.c.FrameLen(); got != tc.want {
			t.Errorf("MSS %d, timestamps %t: frames of %d bytes, want %d", tc.mss, tc.times, got, tc.want)
		}
		s.host.total = 1 << 20
		s.finish()
	}
}

func TestDuplicateSyn(t *testing.T) {
	w := roomyWorld(t)
	s := w.dial(largeConfig, fullGuest)
	again := func() {
		seg := s.guest.syn(SYN)
		s.input(&seg)
		s.output()
	}
	again()
	s.none("a SYN again while the connect is pending")
	if s.c.State() != Connecting {
		t.Fatalf("state %d", s.c.State())
	}
	s.c.Connected()
	again() // before the SYN/ACK is sent
	s.want("first", s.one("connected"), SYN|ACK, 0, 0, 1)
	again()
	m := s.one("a SYN after the SYN/ACK")
	s.want("again", m, SYN|ACK, 0, 0, 1)
	other := s.guest.syn(SYN)
	other.Seq += 1000
	s.input(&other)
	s.output()
	s.none("a SYN with another number")
	s.guest.receive(t, &m)
	s.answer()
	if s.c.State() != Open {
		t.Fatalf("state %d after the handshake", s.c.State())
	}
	again() // RFC 5961, 4.2
	s.want("challenge", s.one("a SYN when open"), ACK, 1, 1, 1)
	if s.c.State() != Open {
		t.Fatalf("state %d after a late SYN", s.c.State())
	}
	s.reset()
}

// Data on the SYN is not acknowledged, and arrives when the guest sends it again.
func TestDataOnSyn(t *testing.T) {
	w := roomyWorld(t)
	s := w.dial(largeConfig, fullGuest)
	s.guest.total = 100
	s.c.Connected()
	seg := s.guest.syn(SYN)
	seg.Payload = [][]byte{fromGuest.at(0, 100)[:100:100]}
	seg.Payload[0] = append([]byte(nil), seg.Payload[0]...)
	s.input(&seg)
	s.output()
	s.want("SYN/ACK", s.wires[0], SYN|ACK, 0, 0, 1)
	s.deliver()
	s.in(ACK|PSH, 1, 100) // on the ACK of the handshake
	if s.host.got != 100 {
		t.Errorf("the host got %d bytes of 100", s.host.got)
	}
	s.finish()
}

// A refused connection is answered as the closed port of a real host would answer it.
func TestRefused(t *testing.T) {
	w := roomyWorld(t)
	s := w.dial(largeConfig, fullGuest)
	s.c.Refuse(&w.env, true)
	s.output()
	m := s.one("refused")
	if m.flags != RST|ACK || m.seq != 0 || m.ack != s.guest.iss+1 {
		t.Errorf("answer is %+v", m)
	}
	if s.c.State() != Closed || s.c.Why() != HostReset {
		t.Errorf("state %d, end %d", s.c.State(), s.c.Why())
	}
	s.output()
	s.none("again")

	s = w.dial(largeConfig, fullGuest)
	s.c.Refuse(&w.env, false) // an ICMP error goes out instead
	s.c.Refuse(&w.env, true)
	s.output()
	s.none("refused without a reset")
	if s.c.InitialSequence() != fullGuest.iss {
		t.Errorf("initial sequence number %#x", s.c.InitialSequence())
	}
}

// A reset that the link did not take is sent when it does.
func TestResetWaitsForLink(t *testing.T) {
	w := roomyWorld(t)
	s := w.dial(largeConfig, fullGuest)
	s.c.Refuse(&w.env, true)
	w.frames = 0
	if s.output() {
		t.Error("Output says that all was sent on a full link")
	}
	w.frames = -1
	if !s.output() || s.one("link has room").flags != RST|ACK {
		t.Error("the reset did not follow")
	}
}

// Given up, a SYN or SYN/ACK was sent six times, each after twice the time; the guest's late answer to the first opens it before.
func TestHandshakeRetransmission(t *testing.T) {
	for _, tc := range []struct {
		name  string
		start func(*world) *subject
		flags uint8
	}{
		{"SYN", func(w *world) *subject { return w.accept(largeConfig, fullGuest) }, SYN},
		{"SYN/ACK", func(w *world) *subject {
			s := w.dial(largeConfig, fullGuest)
			s.c.Connected()
			return s
		}, SYN | ACK},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := roomyWorld(t)
			s := tc.start(w)
			s.output()
			at := w.env.Now
			for i := range 6 {
				m := s.one("handshake")
				if m.flags != tc.flags || m.seq != largeConfig.ISS {
					t.Fatalf("segment %d is %+v", i, m)
				}
				s.pass()
				if got, want := w.env.Now-at, int64(1e9)<<i; got != want {
					t.Fatalf("wait %d took %d ms, want %d", i, got/1e6, want/1e6)
				}
				at = w.env.Now
			}
			if m := s.one("given up"); m.flags&RST == 0 {
				t.Errorf("the guest is told %+v", m)
			}
			if s.c.State() != Closed || s.c.Why() != GuestSilent {
				t.Errorf("state %d, end %d", s.c.State(), s.c.Why())
			}

			s = tc.start(w)
			s.output()
			s.pass()
			s.wires = s.wires[1:] // the first was lost
			s.deliver()
			s.answer()
			if s.c.State() != Open {
				t.Fatalf("state %d", s.c.State())
			}
			s.take()
			s.says(10)
			if got := s.c.Deadline(&w.env) - w.env.Now; got != 3e9 { // RFC 6298, 5.7
				t.Errorf("retransmission after %d ms when the SYN was lost, want 3000", got/1e6)
			}
			s.reset()
		})
	}
}

func TestGuestRefuses(t *testing.T) {
	w := roomyWorld(t)
	s := w.accept(largeConfig, fullGuest)
	s.input(&Segment{Flags: RST | ACK, Ack: largeConfig.ISS + 1, Scale: -1}) // of a SYN that was not sent yet
	if s.c.State() != SynSent {
		t.Fatalf("state %d before the SYN", s.c.State())
	}
	s.output()
	s.take()
	ignored := []Segment{
		{Flags: RST, Scale: -1},                               // of an older connection: it acknowledges nothing
		{Flags: RST | ACK, Ack: largeConfig.ISS, Scale: -1},   // not our SYN
		{Flags: SYN, Seq: 7, Scale: -1},                       // simultaneous open is not supported
		{Flags: ACK, Ack: largeConfig.ISS + 1, Scale: -1},     // no SYN
		{Flags: ACK | FIN, Ack: largeConfig.ISS, Scale: -1},   // answered by a reset, below
		{Flags: SYN | ACK, Ack: largeConfig.ISS + 2, Seq: 77}, // the same
	}
	for i := range ignored {
		s.input(&ignored[i])
		s.output()
		if s.c.State() != SynSent {
			t.Fatalf("state %d after segment %d", s.c.State(), i)
		}
	}
	for i, m := range s.take() { // RFC 9293, 3.10.7.3: <SEQ=SEG.ACK><CTL=RST>
		if want := ignored[4+i].Ack; m.flags != RST || m.seq != want {
			t.Errorf("answer %d is %+v, want a reset at %#x", i, m, want)
		}
	}
	s.input(&Segment{Flags: RST | ACK, Ack: largeConfig.ISS + 1, Scale: -1})
	if s.c.State() != Closed || s.c.Why() != GuestReset {
		t.Errorf("state %d, end %d", s.c.State(), s.c.Why())
	}
}

// A reset for an older connection of the guest waits for the link, and is not sent any more when the guest has answered.
func TestStrayWaitsForLink(t *testing.T) {
	w := roomyWorld(t)
	s := w.accept(largeConfig, fullGuest)
	s.output()
	stray := Segment{Flags: ACK, Ack: 5, Scale: -1}
	w.frames = 0
	s.input(&stray)
	if s.output() {
		t.Error("Output says that all was sent on a full link")
	}
	w.frames = -1
	s.deliver()
	s.answer()
	for _, m := range s.take() {
		if m.flags&RST != 0 {
			t.Errorf("a reset after the handshake: %+v", m)
		}
	}
	s.finish()
}

// What does not fit our SYN/ACK does not open the connection.
func TestSynReceivedIgnores(t *testing.T) {
	w := roomyWorld(t)
	s := w.dial(largeConfig, fullGuest)
	s.c.Connected()
	good := Segment{Flags: ACK, Seq: s.guest.iss + 1, Ack: largeConfig.ISS + 1, Scale: -1}
	early := good
	s.input(&early) // our SYN/ACK is not sent yet
	s.output()
	for _, tc := range []struct {
		name   string
		change func(*Segment)
		reason stats.Reason
	}{
		{"ACK of what was never sent", func(g *Segment) { g.Ack++ }, stats.TCPBadAck},
		{"ACK of nothing", func(g *Segment) { g.Ack-- }, stats.TCPBadAck},
		{"no ACK", func(g *Segment) { g.Flags = PSH }, stats.TCPBadAck},
		{"behind the window", func(g *Segment) { g.Seq += 1 << 20 }, stats.TCPOutOfWindow},
		{"reset elsewhere", func(g *Segment) { g.Flags = RST; g.Seq += 5 }, stats.TCPBadReset},
	} {
		before := w.stats.Drops[tc.reason]
		seg := good
		tc.change(&seg)
		s.input(&seg)
		if s.c.State() != SynReceived || w.stats.Drops[tc.reason] != before+1 {
			t.Errorf("%s: state %d, %d drops", tc.name, s.c.State(), w.stats.Drops[tc.reason]-before)
		}
	}
	seg := good
	seg.Flags = RST
	s.input(&seg)
	if s.c.State() != Closed || s.c.Why() != GuestReset {
		t.Errorf("reset: state %d, end %d", s.c.State(), s.c.Why())
	}
}

func TestGuestGivesUpConnecting(t *testing.T) {
	w := roomyWorld(t)
	s := w.dial(largeConfig, fullGuest)
	seg := Segment{Flags: RST, Seq: s.guest.iss + 2, Scale: -1}
	s.input(&seg)
	if s.c.State() != Connecting {
		t.Fatal("a reset with a wrong number ended the connection")
	}
	seg.Seq = s.guest.iss + 1
	s.input(&seg)
	if s.c.State() != Closed || s.c.Why() != GuestReset {
		t.Errorf("state %d, end %d", s.c.State(), s.c.Why())
	}
	s.c.Connected() // the host's answer comes too late
	s.output()
	s.none("after the end")
}
