package tcp

import "testing"

// What a router on the guest's side says of a narrow way makes segments shorter, and what was too long is sent again at once, without a change of the
// congestion window.
func TestTooBig(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		w := roomyWorld(t)
		cfg := largeConfig
		cfg.V6 = v6
		s := shaped(w, Config{MSS: cfg.MSS, MaxGSO: cfg.MaxGSO, ISS: cfg.ISS, TSBase: 77, V6: v6}, true, true)
		s.says(100)
		s.acks(101, 0)
		s.take()
		s.says(30000)
		s.wantSent("data", interval{101, 30101})
		window := s.c.cc.cwnd
		const mtu = 1400
		mss := mtu - 40 - timesLen
		if v6 {
			mss -= 20
		}
		if !s.c.TooBig(s.c.ourSeq(101), mtu) || s.c.mss != mss || s.c.frameLen%mss != 0 || s.c.frameLen < 60000 {
			t.Fatalf("segments of %d bytes, frames of %d", s.c.mss, s.c.frameLen)
		}
		s.output()
		for _, m := range s.wires {
			if m.mss != mss {
				t.Errorf("sent again in segments of %d bytes, want %d", m.mss, mss)
			}
		}
		s.wantSent("after the error", interval{101, 30101})
		if s.c.cc.cwnd != window || s.c.recovery != recoveryNone {
			t.Errorf("the congestion window was %d, is %d; recovery %v", window, s.c.cc.cwnd, s.c.recovery)
		}
		if s.c.TooBig(s.c.ourSeq(101), mtu) {
			t.Error("the same again changes something")
		}
		s.acks(30101, 0)
		s.says(5000)
		s.wantSent("later data", interval{30101, 35101})
		s.reset()
	}
}

// An error about what is not on its way is not believed, and none takes segments below what every path carries.
func TestTooBigRefused(t *testing.T) {
	w := roomyWorld(t)
	s := shaped(w, Config{MSS: largeConfig.MSS, MaxGSO: largeConfig.MaxGSO, ISS: 0x1000, TSBase: 77}, true, true)
	if s.c.TooBig(s.c.ourSeq(1), 1400) {
		t.Error("believed while nothing is on its way")
	}
	s.says(5000)
	for _, off := range []int64{-1000, 0, 5001, 1 << 30} {
		if s.c.TooBig(s.c.ourSeq(off), 1400) {
			t.Errorf("believed about offset %d, of [1, 5001)", off)
		}
	}
	for _, mtu := range []int{0, 68, 551, -5} {
		s.c.TooBig(s.c.ourSeq(5000), mtu)
		if want := minPath4 - 40 - timesLen; s.c.mss != want {
			t.Errorf("an MTU of %d makes segments of %d bytes, want %d", mtu, s.c.mss, want)
		}
	}
	s.reset()
	d := w.dial(largeConfig, fullGuest)
	if d.c.TooBig(d.c.ourSeq(0), 1400) {
		t.Error("believed before the connection is open")
	}
	d.reset()
}

// An ICMP error ends a connection that the guest has not answered, if it is about its SYN.
func TestGuestUnreachable(t *testing.T) {
	w := roomyWorld(t)
	s := w.accept(largeConfig, fullGuest)
	s.output()
	s.take()
	if s.c.GuestUnreachable(&w.env, s.c.config.ISS+1) || s.c.State() != SynSent {
		t.Errorf("believed about another segment: state %d", s.c.State())
	}
	if !s.c.GuestUnreachable(&w.env, s.c.config.ISS) || s.c.State() != Closed || s.c.Why() != GuestReset {
		t.Errorf("state %d, why %d", s.c.State(), s.c.Why())
	}
	s.output()
	s.none("the end")
	open := w.open(largeConfig, fullGuest)
	if open.c.GuestUnreachable(&w.env, open.c.config.ISS) || open.c.State() != Open {
		t.Error("an open connection was ended")
	}
	open.reset()
}
