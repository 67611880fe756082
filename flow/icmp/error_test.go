package icmp

import (
	"bytes"
	"testing"

	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"
)

// Each errno has the code that a router would give, in either family; what is not known means that the host is not reached.
func TestCodeOfErrno(t *testing.T) {
	for _, tc := range []struct {
		err    unix.Errno
		c4, c6 uint8
	}{
		{unix.ENETUNREACH, layers.ICMPv4CodeNet, layers.ICMPv6CodeNoRouteToDst},
		{unix.ENETDOWN, layers.ICMPv4CodeNet, layers.ICMPv6CodeNoRouteToDst},
		{unix.EHOSTUNREACH, layers.ICMPv4CodeHost, layers.ICMPv6CodeAddressUnreachable},
		{unix.ETIMEDOUT, layers.ICMPv4CodeHost, layers.ICMPv6CodeAddressUnreachable},
		{unix.ECONNREFUSED, layers.ICMPv4CodePort, layers.ICMPv6CodePortUnreachable},
		{unix.EACCES, layers.ICMPv4CodeCommAdminProhibited, layers.ICMPv6CodeAdminProhibited},
		{unix.EPERM, layers.ICMPv4CodeCommAdminProhibited, layers.ICMPv6CodeAdminProhibited},
	} {
		var b [1280]byte
		if m := Of(false, tc.err).Put(b[:], nil); m[0] != layers.ICMPv4TypeDestinationUnreachable || m[1] != tc.c4 {
			t.Errorf("%v: type %d, code %d, want code %d", tc.err, m[0], m[1], tc.c4)
		}
		if m := Of(true, tc.err).Put(b[:], nil); m[0] != layers.ICMPv6TypeDestinationUnreachable || m[1] != tc.c6 {
			t.Errorf("%v, IPv6: type %d, code %d, want code %d", tc.err, m[0], m[1], tc.c6)
		}
	}
}

// An error quotes as much as fits the packet that any path carries, and leaves nothing of what the memory held before.
func TestPutQuotes(t *testing.T) {
	quoted := make([]byte, 2000)
	for i := range quoted {
		quoted[i] = byte(i * 7)
	}
	for _, tc := range []struct {
		v6        bool
		n, length int
	}{
		{false, 0, 8}, {false, 28, 36}, {false, 548, 556}, {false, 549, 556}, {false, 2000, 556},
		{true, 0, 8}, {true, 48, 56}, {true, 1232, 1240}, {true, 1233, 1240}, {true, 2000, 1240},
	} {
		b := bytes.Repeat([]byte{0xee}, 1280)
		m := Of(tc.v6, unix.ECONNREFUSED).Put(b, quoted[:tc.n])
		if len(m) != tc.length {
			t.Errorf("quoting %d bytes makes %d, want %d", tc.n, len(m), tc.length)
			continue
		}
		if !bytes.Equal(m[2:HeaderLen], make([]byte, 6)) {
			t.Errorf("header % x", m[:HeaderLen])
		}
		if !bytes.Equal(m[HeaderLen:], quoted[:tc.length-HeaderLen]) {
			t.Errorf("wrong quotation of %d bytes", tc.n)
		}
	}
}

// What the network says reaches the guest as it is, but for what no host may believe.
func TestRelayed(t *testing.T) {
	for _, tc := range []struct {
		v6        bool
		typ, code uint8
		info      uint32
		want      []byte // the header; nil for not at all
	}{
		{false, 3, 0, 0, []byte{3, 0, 0, 0, 0, 0, 0, 0}},
		{false, 3, 3, 99, []byte{3, 3, 0, 0, 0, 0, 0, 0}},
		{false, 3, 13, 0, []byte{3, 13, 0, 0, 0, 0, 0, 0}},
		{false, 3, 4, 1400, []byte{3, 4, 0, 0, 0, 0, 1400 >> 8, 1400 & 0xff}},
		{false, 3, 4, 0, []byte{3, 4, 0, 0, 0, 0, 0, 0}},
		{false, 3, 4, 20, []byte{3, 4, 0, 0, 0, 0, 0, 68}},
		{false, 3, 4, 1 << 20, []byte{3, 4, 0, 0, 0, 0, 0xff, 0xff}},
		{false, 11, 0, 5, []byte{11, 0, 0, 0, 0, 0, 0, 0}},
		{false, 12, 0, 9, []byte{12, 0, 0, 0, 9, 0, 0, 0}},
		{false, 4, 0, 0, nil},
		{false, 5, 0, 0, nil},
		{false, 0, 0, 0, nil},
		{true, 1, 4, 7, []byte{1, 4, 0, 0, 0, 0, 0, 0}},
		{true, 2, 0, 1400, []byte{2, 0, 0, 0, 0, 0, 1400 >> 8, 1400 & 0xff}},
		{true, 2, 0, 600, []byte{2, 0, 0, 0, 0, 0, 1280 >> 8, 1280 & 0xff}},
		{true, 3, 0, 0, []byte{3, 0, 0, 0, 0, 0, 0, 0}},
		{true, 4, 1, 40, []byte{4, 1, 0, 0, 0, 0, 0, 40}},
		{true, 129, 0, 0, nil},
		{true, 137, 0, 0, nil},
	} {
		e, ok := Relayed(tc.v6, tc.typ, tc.code, tc.info)
		if ok != (tc.want != nil) {
			t.Errorf("type %d, IPv6 %t: %t", tc.typ, tc.v6, ok)
			continue
		}
		b := bytes.Repeat([]byte{0xee}, 1280)
		if got := e.Put(b, nil); ok && !bytes.Equal(got, tc.want) {
			t.Errorf("type %d, code %d, info %d, IPv6 %t: % x, want % x", tc.typ, tc.code, tc.info, tc.v6, got, tc.want)
		}
		if want := ok && (tc.v6 && tc.typ == 3 || !tc.v6 && tc.typ == 11); e.TimeExceeded() != want {
			t.Errorf("type %d, IPv6 %t: time exceeded %t", tc.typ, tc.v6, !want)
		}
	}
}
