package tcp

import "testing"

// narrow is a connection whose frames carry one segment of 1000 bytes each, at a round-trip time of 20 ms, with a wide window open.
func narrow(w *world, times, sack bool) *subject {
	w.t.Helper()
	return shaped(w, Config{MSS: 1000 + timesLen, ISS: 0x1000, TSBase: 77}, times, sack)
}

const roundTrip = 3 * millisecond

func shaped(w *world, cfg Config, times, sack bool) *subject {
	w.t.Helper()
	g := fullGuest
	g.times, g.sack = times, sack
	g.mss = uint16(cfg.MSS)
	if !times {
		g.mss -= timesLen
	}
	s := w.dial(cfg, g)
	s.c.Connected()
	s.output()
	w.env.Now += roundTrip
	s.deliver()
	s.answer()
	if s.c.State() != Open || s.c.mss != cfg.MSS-timesLen || s.c.srtt != roundTrip {
		w.t.Fatalf("state %d, segments of %d bytes, round-trip time %d", s.c.State(), s.c.mss, s.c.srtt)
	}
	s.take()
	return s
}

// acks lets an acknowledgement of off arrive, with SACK blocks, in a window that reaches far beyond; echo is the time whose timestamp it
// echoes, 0 for now.
func (s *subject) acks(off int64, echo int64, blocks ...interval) {
	s.w.t.Helper()
	seg := Segment{Seq: s.guest.iss + uint32(s.guest.nxt), Ack: s.c.config.ISS + uint32(off), Flags: ACK, Window: 8000, Scale: -1, SACKCount: len(blocks)}
	s.guest.stamp(&seg)
	if echo == 0 {
		echo = s.w.env.Now
	}
	seg.TSEcr = s.c.clock(echo)
	for i, b := range blocks {
		seg.SACK[i] = [2]uint32{s.c.config.ISS + uint32(b.from), s.c.config.ISS + uint32(b.to)}
	}
	s.input(&seg)
	s.output()
}

// sentRanges is what was sent since the last take, joined where it adjoins.
func (s *subject) sentRanges() (v []interval) {
	for _, m := range s.take() {
		from := int64(int32(m.seq - s.c.config.ISS))
		to := from + int64(len(m.data))
		if m.flags&FIN != 0 {
			to++
		}
		if from == to {
			continue
		}
		if n := len(v); n > 0 && v[n-1].to == from {
			v[n-1].to = to
		} else {
			v = append(v, interval{from, to})
		}
	}
	return v
}

func (s *subject) wantSent(what string, want ...interval) {
	s.w.t.Helper()
	got := s.sentRanges()
	same := len(got) == len(want)
	for i := range got {
		same = same && got[i] == want[i]
	}
	if !same {
		s.w.t.Fatalf("%s: sent %v, want %v", what, got, want)
	}
}

// Without SACK the third duplicate ACK has the first segment sent again, once; each partial acknowledgement the next one (RFC 6582).
func TestFastRetransmit(t *testing.T) {
	w := roomyWorld(t)
	s := narrow(w, true, false)
	s.acks(1, 0)
	s.says(10000)
	s.wantSent("data", interval{1, 10001})
	for range 2 {
		s.acks(1, 0)
		s.none("one or two duplicates")
	}
	s.acks(1, 0)
	s.wantSent("the third duplicate", interval{1, 1001})
	for range 5 {
		s.acks(1, 0)
		s.none("more duplicates")
	}
	w.env.Now += 5e9
	before := s.c.srtt
	s.acks(4001, 0)
	s.wantSent("a partial acknowledgement", interval{4001, 5001})
	for range 5 {
		s.acks(4001, 0)
		s.none("duplicates of a partial acknowledgement")
	}
	s.acks(10001, 0)
	s.none("all is acknowledged")
	if n := w.stats.TCPRetransmits; n != 2 || w.stats.TCPFastRecoveries != 1 || s.c.recovery != recoveryNone {
		t.Errorf("%d retransmissions, %d recoveries", n, w.stats.TCPFastRecoveries)
	}
	if s.c.srtt != before {
		t.Errorf("what was sent twice is timed: %d, before %d", s.c.srtt, before)
	}
	s.reset()
}

// What the guest SACKs is not sent again, to the byte, though one frame carried it with what is missing (RFC 2018, RFC 8985).
func TestPartsOfFrames(t *testing.T) {
	w := roomyWorld(t)
	s := shaped(w, Config{MSS: 1012, MaxGSO: 65495, ISS: 0xfffffff0, TSBase: 77}, true, true)
	s.acks(1, 0)
	s.says(60000)
	if m := s.one("data"); len(m.data) != 60000 {
		t.Fatalf("a frame of %d bytes", len(m.data))
	}
	w.env.Now += roundTrip
	s.acks(5001, 0, interval{8001, 20001})
	s.acks(5001, 0, interval{25001, 60001}, interval{8001, 20001})
	missing := []interval{{5001, 8001}, {20001, 25001}}
	var got []interval
	got = append(got, s.sentRanges()...)
	for i := 0; i < 20 && s.c.sb.lost > 0; i++ { // the proportional rate lets the rest follow
		w.env.Now += roundTrip
		s.acks(5001, 0, interval{25001, 60001}, interval{8001, 20001})
		got = append(got, s.sentRanges()...)
		if s.c.pipe() > 0 && s.c.sb.lost > 0 {
			s.acks(got[len(got)-1].to, 0, interval{25001, 60001}, interval{8001, 20001})
			got = append(got, s.sentRanges()...)
		}
	}
	at := 0
	next := missing[0].from
	for _, v := range got {
		if at < len(missing) && next == missing[at].to {
			if at++; at < len(missing) {
				next = missing[at].from
			}
		}
		if v.from != next {
			t.Fatalf("sent again: %v, missing were %v", got, missing)
		}
		next = v.to
	}
	if at != 1 || next != missing[1].to {
		t.Fatalf("sent again: %v, missing were %v", got, missing)
	}
	s.reset()
}

// SACK blocks that say what cannot be are ignored.
func TestHostileBlocks(t *testing.T) {
	for _, b := range []interval{{30001, 31001}, {10001, 10002}, {9001, 20001}, {5001, 2001}, {3001, 3001}, {-1 << 30, -1 << 29}, {0, 1 << 30}} {
		w := roomyWorld(t)
		s := narrow(w, false, true)
		s.acks(1, 0)
		s.says(10000)
		s.take()
		for range 5 {
			s.acks(1, 0, b, b, b)
		}
		if s.c.sb.sacked != 0 || s.c.sb.flying != 10000 || s.c.recovery != recoveryNone {
			t.Errorf("%v: %d bytes are taken for SACKed, %d fly", b, s.c.sb.sacked, s.c.sb.flying)
		}
		s.none("hostile blocks")
		s.reset()
	}
}

// A guest that SACKs every other byte cannot have the scoreboard grow without end.
func TestManyHoles(t *testing.T) {
	w := roomyWorld(t)
	s := shaped(w, Config{MSS: 1012, MaxGSO: 65495, ISS: 0x1000, TSBase: 77}, false, true)
	s.acks(1, 0)
	s.says(60000)
	s.take()
	for at := int64(2); at < 60000; at += 6 {
		s.acks(1, 0, interval{at, at + 1}, interval{at + 2, at + 3}, interval{at + 4, at + 5})
		s.take()
	}
	if n := s.c.sb.n; n < maxRecords || n > maxRecords+100 {
		t.Errorf("%d records", n)
	}
	s.reset()
}

// Reordering by less than the window is waited for; the window is a quarter of the shortest round trip once reordering was seen, and the
// timer finds the loss when nothing more arrives (RFC 8985, 6.2).
func TestReorderingWindow(t *testing.T) {
	w := roomyWorld(t)
	s := narrow(w, false, true)
	s.acks(1, 0)
	s.says(2000)
	w.env.Now += roundTrip / 20
	s.says(3000)
	s.take()
	w.env.Now += roundTrip
	s.acks(1, 0, interval{2001, 3001}) // fewer than three segments: the window counts
	s.none("one segment behind a hole")
	if got, want := s.c.reorderAt-w.env.Now, roundTrip/4-roundTrip/20; got != want {
		t.Errorf("the reordering timer runs for %d µs, want %d", got/1000, want/1000)
	}
	s.acks(2001, 0, interval{2001, 3001}) // late, not lost
	s.none("the hole is filled")
	if !s.c.rack.reordered || w.stats.TCPRetransmits != 0 {
		t.Errorf("reordering seen: %t", s.c.rack.reordered)
	}
	s.acks(5001, 0)
	s.says(5000)
	s.take()
	w.env.Now += roundTrip
	s.acks(5001, 0, interval{6001, 10001}) // four segments, but this path reorders
	s.none("within the window")
	s.pass()
	s.wantSent("the window is over", interval{5001, 6001})
	if s.c.recovery != recoveryFast || w.stats.TCPFastRecoveries != 1 {
		t.Errorf("recovery %d", s.c.recovery)
	}
	s.acks(10001, 0)
	s.reset()
}

// A retransmission that is lost, too, is found by what was sent after it (RFC 8985, 6.2).
func TestLostRetransmission(t *testing.T) {
	w := roomyWorld(t)
	s := narrow(w, false, true)
	s.acks(1, 0)
	s.says(20000)
	s.take()
	w.env.Now += roundTrip
	s.acks(1, 0, interval{1001, 6001})
	s.wantSent("the first", interval{1, 1001})
	w.env.Now += millisecond
	s.acks(1, 0, interval{1001, 20001})
	s.says(5000)
	s.wantSent("what follows", interval{20001, 25001})
	w.env.Now += roundTrip
	s.acks(1, 0, interval{1001, 24001})
	s.wantSent("the first again", interval{1, 1001})
	s.acks(25001, 0)
	if w.stats.TCPTimeouts != 0 || w.stats.TCPFastRecoveries != 1 {
		t.Errorf("%d timeouts, %d recoveries", w.stats.TCPTimeouts, w.stats.TCPFastRecoveries)
	}
	s.reset()
}

// The end of a flight that is lost is probed for after two round trips and a margin, with the last segment (RFC 8985, 7); what the answer
// tells decides over the window.
func TestTailLossProbe(t *testing.T) {
	for _, answer := range []struct {
		name    string
		blocks  []interval
		reduced bool
	}{
		{"duplicate reported", []interval{{9001, 10001}}, false},
		{"repaired", nil, true},
	} {
		w := roomyWorld(t)
		s := narrow(w, false, true)
		s.acks(1, 0)
		s.says(10000)
		s.take()
		if got, want := s.c.Deadline(&w.env)-w.env.Now, 2*roundTrip+probeMargin; got != want {
			t.Fatalf("the probe is due in %d ms, want %d", got/1e6, want/1e6)
		}
		cwnd := s.c.cc.cwnd
		s.pass()
		s.wantSent("probe", interval{9001, 10001})
		if s.c.Deadline(&w.env) != w.env.Now+s.c.rto || w.stats.TCPTailProbes != 1 {
			t.Errorf("%d probes; the next deadline is in %d ms", w.stats.TCPTailProbes, (s.c.Deadline(&w.env)-w.env.Now)/1e6)
		}
		s.acks(10001, 0)
		s.says(5000)
		s.take()
		s.acks(11001, 0, answer.blocks...)
		if reduced := s.c.cc.ssthresh != unlimited; reduced != answer.reduced || !reduced && s.c.cc.cwnd < cwnd {
			t.Errorf("%s: window %d, before %d, threshold %d", answer.name, s.c.cc.cwnd, cwnd, s.c.cc.ssthresh)
		}
		s.reset()
	}
}

// A probe tells of a loss in the middle, too: its SACK makes fast recovery of what would have been a timeout.
func TestProbeFindsLoss(t *testing.T) {
	w := roomyWorld(t)
	s := narrow(w, false, true)
	s.acks(1, 0)
	s.says(10000)
	s.take()
	w.env.Now += roundTrip
	s.acks(5001, 0)
	s.pass()
	s.wantSent("probe", interval{9001, 10001})
	w.env.Now += roundTrip
	s.acks(5001, 0, interval{9001, 10001})
	got := s.sentRanges()
	if len(got) != 1 || got[0].from != 5001 || w.stats.TCPTimeouts != 0 || s.c.recovery != recoveryFast {
		t.Errorf("sent %v, %d timeouts, recovery %d", got, w.stats.TCPTimeouts, s.c.recovery)
	}
	s.reset()
}

// One segment in flight is no reason to probe before a delayed acknowledgement may come; without SACK, or in recovery, there is none.
func TestNoNeedlessProbe(t *testing.T) {
	for _, sack := range []bool{true, false} {
		w := roomyWorld(t)
		s := narrow(w, false, sack)
		s.acks(1, 0)
		s.says(1000)
		if !sack {
			s.says(9000)
		}
		s.take()
		for range 5 {
			s.pass()
		}
		if w.stats.TCPTailProbes != 0 || w.stats.TCPTimeouts != 5 {
			t.Errorf("SACK %t: %d probes, %d timeouts", sack, w.stats.TCPTailProbes, w.stats.TCPTimeouts)
		}
		s.reset()
	}
}

// After a timeout what was SACKed is not sent again, and the rest goes in slow start (RFC 6298, RFC 5681).
func TestTimeoutKeepsSACK(t *testing.T) {
	w := roomyWorld(t)
	s := narrow(w, false, true)
	s.acks(1, 0)
	s.says(10000)
	s.take()
	s.acks(1, 0, interval{4001, 6001})
	s.take()
	for s.c.recovery != recoveryTimer {
		s.take()
		s.pass()
	}
	s.wantSent("the timeout", interval{1, 1001})
	if s.c.cc.cwnd != 1000 {
		t.Errorf("window %d", s.c.cc.cwnd)
	}
	s.acks(1001, 0, interval{4001, 6001})
	s.wantSent("slow start", interval{1001, 3001})
	s.acks(3001, 0, interval{4001, 6001})
	s.wantSent("slow start", interval{3001, 4001}, interval{6001, 9001})
	s.acks(10001, 0)
	s.none("all is acknowledged")
	if s.c.recovery != recoveryNone {
		t.Error("in recovery when all is acknowledged")
	}
	s.reset()
}

// A guest that takes back what it SACKed gets it (RFC 2018, 8).
func TestReneging(t *testing.T) {
	w := roomyWorld(t)
	s := narrow(w, false, true)
	s.acks(1, 0)
	s.says(5000)
	s.take()
	s.acks(1, 0, interval{2001, 5001})
	s.take()
	s.acks(2001, 0) // and not 5001
	for range 3 {
		s.pass()
	}
	s.acks(3001, 0)
	s.acks(5001, 0)
	if s.c.una != 5001 || s.c.sb.n != 0 {
		t.Errorf("acknowledged up to %d", s.c.una)
	}
	s.reset()
}

// A recovery whose every retransmission is reported as a duplicate is taken back, also after its end (RFC 2883, RFC 3708).
func TestUndoByDuplicates(t *testing.T) {
	w := roomyWorld(t)
	s := narrow(w, false, true)
	s.acks(1, 0)
	s.says(20000)
	s.take()
	cwnd, threshold := s.c.cc.cwnd, s.c.cc.ssthresh
	w.env.Now += roundTrip
	s.acks(1, 0, interval{2001, 8001})
	s.wantSent("taken for lost", interval{1, 2001})
	s.acks(8001, 0)
	s.acks(20001, 0) // recovery ends
	if s.c.recovery != recoveryNone || s.c.cc.cwnd >= cwnd {
		t.Fatalf("recovery %d, window %d, before %d", s.c.recovery, s.c.cc.cwnd, cwnd)
	}
	s.acks(20001, 0, interval{1, 1001})
	if w.stats.TCPUndone != 0 {
		t.Error("undone by one duplicate of two")
	}
	s.acks(20001, 0, interval{1001, 2001})
	if w.stats.TCPUndone != 1 || s.c.cc.cwnd < cwnd || s.c.cc.ssthresh != threshold {
		t.Errorf("undone %d times: window %d, before %d, threshold %d", w.stats.TCPUndone, s.c.cc.cwnd, cwnd, s.c.cc.ssthresh)
	}
	if w.stats.TCPDSACKs != 2 || s.c.rack.mult != 1 {
		t.Errorf("%d D-SACKs, the reordering window is %d quarters and one", w.stats.TCPDSACKs, s.c.rack.mult)
	}
	// What the network doubled tells nothing.
	s.acks(20001, 0, interval{1001, 2001})
	if w.stats.TCPUndone != 1 || s.c.rack.mult != 1 {
		t.Error("a duplicate of the network's is taken for ours")
	}
	s.reset()
}

// A timeout whose retransmission meets an acknowledgement with an older timestamp was for nothing (RFC 3522, RFC 4015).
func TestUndoByTimestamp(t *testing.T) {
	w := roomyWorld(t)
	s := narrow(w, true, true)
	s.acks(1, 0)
	s.says(20000)
	s.take()
	sentAt, cwnd := w.env.Now, s.c.cc.cwnd
	for s.c.recovery != recoveryTimer {
		s.take()
		s.pass()
	}
	s.take()
	s.acks(2001, sentAt)
	if w.stats.TCPUndone != 1 || s.c.recovery != recoveryNone || s.c.cc.cwnd < cwnd || s.c.sb.lost != 0 {
		t.Errorf("undone %d times, recovery %d, window %d of %d, %d bytes lost", w.stats.TCPUndone, s.c.recovery, s.c.cc.cwnd, cwnd, s.c.sb.lost)
	}
	s.wantSent("nothing is sent again")
	s.reset()
}

// ... and one whose retransmission is acknowledged was not.
func TestNoUndo(t *testing.T) {
	w := roomyWorld(t)
	s := narrow(w, true, true)
	s.acks(1, 0)
	s.says(20000)
	s.take()
	for s.c.recovery != recoveryTimer {
		s.take()
		s.pass()
	}
	s.take()
	s.acks(1001, w.env.Now)
	if w.stats.TCPUndone != 0 || s.c.recovery != recoveryTimer {
		t.Errorf("undone %d times, recovery %d", w.stats.TCPUndone, s.c.recovery)
	}
	s.reset()
}
