package tcp

import (
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// What stays of a connection that the host ended first answers what the guest repeats, knows the next connection's SYN, and lets
// nothing else disturb it.
func TestTimeWait(t *testing.T) {
	for _, times := range []bool{true, false} {
		w := roomyWorld(t)
		g := fullGuest
		g.times, g.clock = times, 1000
		s := w.open(largeConfig, g)
		s.says(1000)
		s.hangsUp()
		s.deliver()
		s.in(FIN|ACK, 1, 0)
		tw, life, ok := s.c.TimeWait()
		if !ok || life/millisecond != 1400 {
			t.Fatalf("TIME-WAIT %t, for %d ms", ok, life/1e6)
		}
		last := s.guest.clock
		rcv := s.guest.iss + 2
		for _, tc := range []struct {
			name  string
			seg   Segment
			newer int32 // than the last timestamp
			want  Verdict
		}{
			{"FIN", Segment{Seq: rcv - 1, Flags: FIN | ACK}, 5, Answer},
			{"data", Segment{Seq: rcv - 1, Flags: ACK, Len: 10}, 5, Answer},
			{"an ACK", Segment{Seq: rcv, Flags: ACK}, 5, Ignore},
			{"a forged reset", Segment{Seq: rcv + 1, Flags: RST}, 0, Ignore},
			{"a reset", Segment{Seq: rcv, Flags: RST | ACK}, 0, Forget},
			{"an old SYN", Segment{Seq: rcv - 1, Flags: SYN}, -1, Answer},
			{"an old SYN of the same millisecond", Segment{Seq: rcv - 1, Flags: SYN}, 0, Answer},
			{"a SYN by its number", Segment{Seq: rcv, Flags: SYN}, 0, Reopen},
			{"a SYN by its time", Segment{Seq: rcv - 1, Flags: SYN}, 1, map[bool]Verdict{true: Reopen, false: Answer}[times]},
			{"a later number, an older time", Segment{Seq: rcv + 1, Flags: SYN}, -1, map[bool]Verdict{true: Answer, false: Reopen}[times]},
			{"SYN/ACK", Segment{Seq: rcv, Flags: SYN | ACK}, 5, Answer},
		} {
			tc.seg.HasTimes, tc.seg.TSVal = times, last+uint32(tc.newer)
			var o Out
			if got := tw.Input(&w.env, &tc.seg, &o); got != tc.want {
				t.Errorf("timestamps %t, %s: verdict %d, want %d", times, tc.name, got, tc.want)
			}
			if tc.want != Answer {
				continue
			}
			if o.Flags != ACK || o.Ack != rcv || o.Seq != s.c.config.ISS+1002 || o.Len != 0 {
				t.Errorf("timestamps %t, %s: the answer is %+v", times, tc.name, o)
			}
			if p := header.ParseTCPOptions(o.Options[:o.OptLen]); p.TS != times || times && p.TSEcr != last {
				t.Errorf("timestamps %t, %s: options %+v", times, tc.name, p)
			}
		}
	}
}

// Nothing stays where the guest has heard all: when it ended first, or when either side has reset the connection.
func TestNoTimeWait(t *testing.T) {
	for name, ends := range map[string]func(s *subject){
		"the guest first": func(s *subject) {
			s.in(FIN|ACK, 1, 0)
			s.finish()
		},
		"reset by the host": func(s *subject) {
			s.hangsUp()
			s.reset()
		},
		"reset by the guest": func(s *subject) {
			s.hangsUp()
			s.in(RST, 1, 0)
		},
	} {
		w := roomyWorld(t)
		s := w.open(largeConfig, fullGuest)
		ends(s)
		if s.c.State() != Closed {
			t.Fatalf("%s: state %d", name, s.c.State())
		}
		if _, _, ok := s.c.TimeWait(); ok {
			t.Errorf("%s: TIME-WAIT", name)
		}
	}
}
