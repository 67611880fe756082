package load

import (
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestMix(t *testing.T) {
	serve(t)
	s, err := ListenStreams()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	m := Mix{Server: loopback, Far: []netip.Addr{netip.IPv6Loopback()}, Duration: 200 * time.Millisecond}.Run()
	if m.Wrong != 0 || m.Failed != 0 || m.Lost != 0 || m.Streams != 2*2*mixStreams || m.Bytes == 0 || m.Connections == 0 || m.Datagrams == 0 || m.Pings != 100 {
		t.Errorf("%+v", m)
	}
	nobody := Mix{Server: netip.MustParseAddr("127.7.1.5"), Duration: 300 * time.Millisecond}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if m := nobody.Run(); m.Wrong != 0 || m.Failed == 0 || m.Lost == 0 || m.Streams+m.Connections+m.Datagrams != 0 || m.Example == "" ||
		m.Reasons["stream, connect: connection refused"]+m.Reasons["connection, connect: connection refused"] != m.Failed {
		t.Errorf("nobody listens: %+v", m)
	}
}

func TestDatagramsOfWrongBytes(t *testing.T) {
	for name, test := range map[string]struct {
		answer func(sent []byte) [][]byte
		right  bool
	}{
		"the same":         {func(b []byte) [][]byte { return [][]byte{b} }, true},
		"an earlier first": {func(b []byte) [][]byte { return [][]byte{message(0, 3)[:datagramSize], b} }, true},
		"a later one":      {func(b []byte) [][]byte { return [][]byte{message(0, 9)[:datagramSize]} }, false},
		"one bit":          {func(b []byte) [][]byte { b[40] ^= 1; return [][]byte{b} }, false},
		"short":            {func(b []byte) [][]byte { return [][]byte{b[:60]} }, false},
	} {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range test.answer(message(0, 7)[:datagramSize]) {
			if _, err := unix.Write(fds[1], b); err != nil {
				t.Fatal(err)
			}
		}
		if right, err := datagram(fds[0], make([]byte, 2*datagramSize), 7); err != nil || right != test.right {
			t.Errorf("%s: right %t, %v", name, right, err)
		}
		_, _ = unix.Close(fds[0]), unix.Close(fds[1])
	}
}
