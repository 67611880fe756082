package load

import (
	"net/netip"
	"testing"
	"time"
)

func TestResolve(t *testing.T) {
	for _, at := range []string{"127.7.1.9", "::1"} {
		s, err := ListenResolver(netip.AddrPortFrom(netip.MustParseAddr(at), 0), true)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	s, err := ListenResolver(netip.AddrPortFrom(loopback, PortDNS), false)
	if err != nil {
		t.Fatal(err)
	}
	r, err := Resolve(loopback, 2000, 100*time.Millisecond)
	if err != nil || r.Queries != 200 || r.Answered != 200 || r.Lost != 0 || r.Wrong != 0 || r.P50 <= 0 || r.P99 < r.P50 || r.Gap <= 0 {
		t.Errorf("%+v, %v", r, err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := Resolve(loopback, maxQueries+1, time.Second); err == nil {
		t.Error("more queries than identifiers")
	}
}

func TestAnswers(t *testing.T) {
	for _, id := range []uint16{0, 1, 49_999, 65_535} {
		query := appendQuery(nil, id)
		forwarded := append([]byte{0x12, 0x34}, query[2:]...) // with an identifier of the forwarder's
		answer, ok := answerQuery(forwarded)
		if !ok {
			t.Fatalf("query %d was not answered", id)
		}
		copy(answer, query[:2])
		if got, err := parseAnswer(answer); err != nil || got != int(id) {
			t.Errorf("query %d: %d, %v", id, got, err)
		}
		for name, spoil := range map[string]func(b []byte){
			"another's answer": func(b []byte) { b[1] ^= 1 },
			"not an answer":    func(b []byte) { b[2] &^= 0x80 },
			"SERVFAIL":         func(b []byte) { b[3] |= 2 },
			"another address":  func(b []byte) { b[len(b)-1] ^= 1 },
		} {
			bad := append([]byte(nil), answer...)
			spoil(bad)
			if _, err := parseAnswer(bad); err == nil {
				t.Errorf("query %d: %s was taken", id, name)
			}
		}
	}
	for _, msg := range [][]byte{nil, make([]byte, 12), appendQuery(nil, 1)[:20]} {
		if _, ok := answerQuery(msg); ok {
			t.Errorf("%x was answered", msg)
		}
	}
}
