package icmp

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"
)

func TestEchoRequest(t *testing.T) {
	for _, tc := range []struct {
		v6        bool
		typ, code uint8
		want      bool
	}{
		{false, layers.ICMPv4TypeEchoRequest, 0, true},
		{false, layers.ICMPv4TypeEchoRequest, 1, false},
		{false, layers.ICMPv4TypeEchoReply, 0, false},
		{false, layers.ICMPv6TypeEchoRequest, 0, false},
		{true, layers.ICMPv6TypeEchoRequest, 0, true},
		{true, layers.ICMPv6TypeEchoRequest, 1, false},
		{true, layers.ICMPv6TypeEchoReply, 0, false},
		{true, layers.ICMPv4TypeEchoRequest, 0, false},
	} {
		if got := EchoRequest(tc.v6, tc.typ, tc.code); got != tc.want {
			t.Errorf("type %d, code %d, IPv6 %t: %t", tc.typ, tc.code, tc.v6, got)
		}
	}
}

func TestEchoReply(t *testing.T) {
	for _, tc := range []struct {
		v6   bool
		b    []byte
		want bool
	}{
		{false, []byte{0, 0, 0, 0, 1, 2, 3, 4}, true},
		{false, []byte{8, 0, 0, 0, 1, 2, 3, 4}, false},
		{false, []byte{0, 0, 0, 0, 1, 2, 3}, false},
		{true, []byte{129, 0, 0, 0, 1, 2, 3, 4, 5}, true},
		{true, []byte{128, 0, 0, 0, 1, 2, 3, 4}, false},
		{true, []byte{0, 0, 0, 0, 1, 2, 3, 4}, false},
		{true, nil, false},
	} {
		if got := EchoReply(tc.v6, tc.b); got != tc.want {
			t.Errorf("%x, IPv6 %t: %t", tc.b, tc.v6, got)
		}
	}
}

func TestIdent(t *testing.T) {
	buf := gopacket.NewSerializeBuffer()
	echo := layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(layers.ICMPv4TypeEchoRequest, 0), Id: 0x1234, Seq: 7}
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{}, &echo); err != nil {
		t.Fatal(err)
	}
	b := buf.Bytes()
	if got := Ident(b); got != 0x1234 {
		t.Errorf("identifier %#x", got)
	}
	SetIdent(b, 0xfedc)
	if got := binary.BigEndian.Uint16(b[4:]); got != 0xfedc || binary.BigEndian.Uint16(b[6:]) != 7 {
		t.Errorf("% x after the identifier was changed", b)
	}
}

// Each errno has the code that a router would give, in either family; what is not known means that the host is not reached.
func TestUnreachableCode(t *testing.T) {
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
		if m := Unreachable(b[:], false, tc.err, nil); m[0] != layers.ICMPv4TypeDestinationUnreachable || m[1] != tc.c4 {
			t.Errorf("%v: type %d, code %d, want code %d", tc.err, m[0], m[1], tc.c4)
		}
		if m := Unreachable(b[:], true, tc.err, nil); m[0] != layers.ICMPv6TypeDestinationUnreachable || m[1] != tc.c6 {
			t.Errorf("%v, IPv6: type %d, code %d, want code %d", tc.err, m[0], m[1], tc.c6)
		}
	}
}

// An error quotes as much as fits the packet that any path carries, and leaves nothing of what the memory held before.
func TestUnreachableQuotes(t *testing.T) {
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
		m := Unreachable(b, tc.v6, unix.ECONNREFUSED, quoted[:tc.n])
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
