package icmp

import (
	"encoding/binary"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"pgregory.net/rapid"
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

// A checksum that was right is right afterwards, whatever the identifiers.
func TestSetIdentChecksum(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := rapid.SliceOfN(rapid.Byte(), 8, 40).Draw(t, "message")
		b[2], b[3] = 0, 0
		binary.BigEndian.PutUint16(b[2:], ^checksum.Checksum(b, 0))
		SetIdent(b, rapid.Uint16().Draw(t, "identifier"))
		if checksum.Checksum(b, 0) != 0xffff {
			t.Fatalf("wrong checksum: % x", b)
		}
	})
}

func TestPutRequest(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		b := []byte{9, 9, 9, 9, 9, 9, 9, 9, 9}
		PutRequest(b, v6, 0x1234)
		if !EchoRequest(v6, b[0], b[1]) || Ident(b) != 0x1234 || b[6] != 0 || b[8] != 9 {
			t.Errorf("% x", b)
		}
	}
}
