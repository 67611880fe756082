package group

import (
	"net/netip"
	"slices"
	"testing"
)

var (
	mdns4 = netip.MustParseAddr("224.0.0.251")
	ssdp4 = netip.MustParseAddr("239.255.255.250")
	mdns6 = netip.MustParseAddr("ff02::fb")
)

// record is one of IGMPv3 or MLDv2.
func record(typ uint8, group netip.Addr, sources, aux int) []byte {
	b := append([]byte{typ, byte(aux), 0, byte(sources)}, group.AsSlice()...)
	return append(b, make([]byte, sources*len(group.AsSlice())+4*aux)...)
}

func report(typ uint8, records ...[]byte) []byte {
	return append([]byte{typ, 0, 0, 0, 0, 0, 0, byte(len(records))}, slices.Concat(records...)...)
}

// reports are messages with what they say.
var reports = []struct {
	v6   bool
	b    []byte
	want []Change
}{
	{false, append([]byte{0x12, 0, 0, 0}, mdns4.AsSlice()...), []Change{{mdns4, true}}},
	{false, append([]byte{0x16, 0, 0, 0}, mdns4.AsSlice()...), []Change{{mdns4, true}}},
	{false, append([]byte{0x17, 0, 0, 0}, mdns4.AsSlice()...), []Change{{mdns4, false}}},
	{false, report(0x22), nil},
	{false, report(0x22, record(4, mdns4, 0, 0), record(3, ssdp4, 0, 2)), []Change{{mdns4, true}, {ssdp4, false}}},
	{false, report(0x22, record(2, mdns4, 3, 0), record(1, ssdp4, 1, 0), record(5, ssdp4, 1, 1), record(5, ssdp4, 0, 0), record(6, mdns4, 2, 0)),
		[]Change{{mdns4, true}, {ssdp4, true}, {ssdp4, true}}},
	{true, append(make([]byte, 8), mdns6.AsSlice()...), nil},
	{true, report(143, record(4, mdns6, 0, 0), record(3, mdns6, 0, 0)), []Change{{mdns6, true}, {mdns6, false}}},
}

func init() {
	r := &reports[6]
	r.b[0], r.want = 131, []Change{{mdns6, true}}
	done := slices.Clone(r.b)
	done[0] = 132
	reports = append(reports, struct {
		v6   bool
		b    []byte
		want []Change
	}{true, done, []Change{{mdns6, false}}})
}

func TestParse(t *testing.T) {
	for _, r := range reports {
		got, ok := Parse(r.v6, r.b, nil)
		if !ok || !slices.Equal(got, r.want) {
			t.Errorf("% x: %v, %t; want %v", r.b, got, ok, r.want)
		}
		for n := range r.b {
			if got, ok := Parse(r.v6, r.b[:n], nil); ok || len(got) != 0 {
				t.Errorf("% x: %v, %t", r.b[:n], got, ok)
			}
		}
		if _, ok := Parse(!r.v6, r.b, nil); ok {
			t.Errorf("% x in the other family", r.b)
		}
	}
}

// What is no multicast address, and what is too long for its message, spoils all of it.
func TestMalformed(t *testing.T) {
	host := netip.MustParseAddr("192.0.2.1")
	long := report(0x22, record(4, mdns4, 0, 0))
	long[7] = 2
	many := report(0x22, record(4, mdns4, 0, 0))
	many[8+2] = 0xff
	for _, b := range [][]byte{
		append([]byte{0x16, 0, 0, 0}, host.AsSlice()...), report(0x22, record(4, mdns4, 0, 0), record(4, host, 0, 0)), long, many, {0x11, 0, 0, 0, 0, 0, 0, 0}, nil,
	} {
		if got, ok := Parse(false, b, nil); ok || len(got) != 0 {
			t.Errorf("% x: %v, %t", b, got, ok)
		}
	}
}

func TestLocal(t *testing.T) {
	for a, want := range map[string]bool{
		"224.0.0.1": true, "ff02::1": true, "ff02::1:ff12:3456": true, "ff01::fb": true, "224.0.0.251": false, "ff02::fb": false, "ff05::c": false,
	} {
		if got := Local(netip.MustParseAddr(a)); got != want {
			t.Errorf("%s: %t", a, got)
		}
	}
}

// FuzzParse: whatever comes, what is read are multicast addresses of the family, and no more of them than the message has room for.
func FuzzParse(f *testing.F) {
	for _, r := range reports {
		f.Add(r.v6, r.b)
	}
	f.Fuzz(func(t *testing.T, v6 bool, b []byte) {
		before := []Change{{mdns4, true}}
		got, ok := Parse(v6, b, before)
		if !ok && len(got) != 1 {
			t.Fatalf("not ok, and %v", got)
		}
		if len(got)-1 > len(b)/(recordLen+addressLen(v6)) {
			t.Fatalf("%d changes in %d bytes", len(got)-1, len(b))
		}
		for _, c := range got[1:] {
			if !c.Group.IsMulticast() || c.Group.Is6() != v6 {
				t.Fatalf("%v", c)
			}
		}
	})
}
