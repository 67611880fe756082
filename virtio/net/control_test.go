package net

import (
	"encoding/hex"
	"errors"
	"net/netip"
	"runtime"
	"strings"
	"testing"

	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/virtio/queue"
)

// everything are all features, with the hash in the header.
const everything = Supported &^ (RingPacked | InOrder)

// TestDependencies: each rule of 5.1.3.1 by itself: a device must not offer a feature without its prerequisite, and a driver must not take it.
func TestDependencies(t *testing.T) {
	for _, d := range dependencies {
		f := Version1 | d.feature
		if d.feature == RingReset {
			f = RingReset
		}
		if err := f.Check(); err == nil {
			t.Errorf("%v passes without %v", f, d.needs)
		}
		if got := Accept(f, ^Features(0)); got.Has(d.feature) && d.feature != RingReset {
			t.Errorf("a driver that is offered %v takes %v", f, got)
		}
		if got := Accept(^Features(0), f|d.needs&-d.needs); d.needs != 0 && !got.Has(Version1) {
			t.Errorf("a driver that wants %v takes %v", f, got)
		}
		if d.feature != RingReset {
			if _, err := NewDevice(DeviceConfig{Features: d.feature, Config: Config{MTU: 1500}}); err == nil {
				t.Errorf("a device offers %v alone", d.feature)
			}
		}
	}
	if err := Supported.Check(); err != nil {
		t.Error(err)
	}
	if got := Accept(Version1|1<<50|MAC, Supported); got != Version1|MAC {
		t.Errorf("of an offer with an unknown bit %v is taken", got)
	}
	// A chain of prerequisites falls as a whole.
	if got := Accept(Version1|GuestTSO4|GuestECN, ^Features(0)); got != Version1 {
		t.Errorf("without GUEST_CSUM %v is taken", got)
	}
}

func TestToeplitz(t *testing.T) {
	key, _ := hex.DecodeString("6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa")
	for _, v := range []struct {
		src, dst    string
		ip, withTCP uint32
	}{
		{"66.9.149.187:2794", "161.142.100.80:1766", 0x323e8fc2, 0x51ccc178},
		{"199.92.111.2:14230", "65.69.140.83:4739", 0xd718262a, 0xc626b0ea},
		{"24.19.198.95:12898", "12.22.207.184:38024", 0xd2d0a5de, 0x5c2b394a},
		{"38.27.205.30:48228", "209.142.163.6:2217", 0x82989176, 0xafc7327f},
		{"153.39.163.191:44251", "202.188.127.2:1303", 0x5d1809c5, 0x10e828a2},
		{"[3ffe:2501:200:1fff::7]:2794", "[3ffe:2501:200:3::1]:1766", 0x2cc18cd5, 0x40207d3d},
		{"[3ffe:501:8::260:97ff:fe40:efab]:14230", "[ff02::1]:4739", 0x0f0c461c, 0xdde51bbf},
	} {
		src, dst := netip.MustParseAddrPort(v.src), netip.MustParseAddrPort(v.dst)
		f := tcpFrame(src, dst)
		ip, tcp := uint32(HashIPv4), uint32(HashTCPv4)
		if src.Addr().Is6() {
			ip, tcp = HashIPv6, HashTCPv6
		}
		if hash, report := hashOf(&f, ip, key); hash != v.ip || report != reportOf(ip) {
			t.Errorf("%v: %08x, report %d; want %08x", v.src, hash, report, v.ip)
		}
		if hash, report := hashOf(&f, ip|tcp, key); hash != v.withTCP || report != reportOf(tcp) {
			t.Errorf("%v with ports: %08x, report %d; want %08x", v.src, hash, report, v.withTCP)
		}
	}
}

// tcpFrame is the start of a TCP frame.
func tcpFrame(src, dst netip.AddrPort) packet.Frame {
	b := make([]byte, 12, 80)
	b[0] = 2
	if src.Addr().Is4() {
		b = append(b, 8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, packet.ProtoTCP, 0, 0)
	} else {
		b = append(b, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, packet.ProtoTCP, 64)
	}
	b = append(append(b, src.Addr().AsSlice()...), dst.Addr().AsSlice()...)
	b = append(b, byte(src.Port()>>8), byte(src.Port()), byte(dst.Port()>>8), byte(dst.Port()))
	b = append(b, make([]byte, 16)...)
	return packet.Frame{Bufs: [][]byte{b}, Len: len(b)}
}

// TestAllPairs: one processor, one pair in use of eight; then all of them, with traffic both ways on each (row 0.22).
func TestAllPairs(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	r := newRig(t, DeviceConfig{Config: Config{MTU: 1500, MaxPairs: 8}}, DriverConfig{Features: everything &^ HashReport, QueueSize: 64})
	if n := len(r.driver.Pairs()); n != 8 {
		t.Fatalf("%d pairs", n)
	}
	f := []packet.Frame{{Bufs: [][]byte{pattern(1000, 3)}, Len: 1000}}
	f[0].Bufs[0][0] = 1 // multicast
	if err := r.driver.SetRXMode(t.Context(), Promisc, true); err != nil {
		t.Fatal(err)
	}
	try := func(i int) (ways int) {
		if n, err := r.device.Pairs()[i].Deliver(f); err != nil {
			t.Fatal(err)
		} else if n == 1 {
			var got [4]packet.Frame
			if n, err := r.driver.Pairs()[i].Receive(got[:]); n == 1 && err == nil && got[0].Len == 1000 {
				ways++
			}
		}
		if r.driver.Pairs()[i].SendCopy(&f[0]) {
			var got [4]packet.Frame
			// What was sent while the pair was not in use has waited.
			if n, err := r.device.Pairs()[i].Take(got[:]); n > 0 && err == nil && got[0].Len == 1000 {
				ways++
				if err := r.device.Pairs()[i].Done(); err != nil {
					t.Error(err)
				}
			}
		}
		return ways
	}
	for _, pairs := range []int{1, 8, 3} {
		if pairs > 1 {
			if err := r.driver.SetPairs(t.Context(), pairs); err != nil {
				t.Fatal(err)
			}
		}
		for i := range 8 {
			if want := 2 * btoi(i < pairs); pairs != 3 && try(i) != want {
				t.Errorf("pair %d of %d in use does not carry traffic %d ways", i, pairs, want)
			}
		}
	}
}

// TestCommands: what each command does, and what the device makes of bad ones (rows 28 to 33, 70 to 81): an error, and nothing else changes.
func TestCommands(t *testing.T) {
	r := newRig(t, DeviceConfig{Config: Config{MTU: 1500, MaxPairs: 4, MAC: [6]byte{2, 0, 0, 0, 0, 1}}}, DriverConfig{Features: everything, QueueSize: 64})
	d, ctx := r.driver, t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}
	seen := func(dst [6]byte, vlan int) bool {
		b := pattern(100, 1)
		copy(b, dst[:])
		if vlan >= 0 {
			copy(b[12:], []byte{0x81, 0, byte(vlan >> 8), byte(vlan)})
		} else {
			copy(b[12:], []byte{8, 0})
		}
		if _, err := r.device.Pairs()[0].Deliver([]packet.Frame{{Bufs: [][]byte{b}, Len: len(b)}}); err != nil {
			t.Fatal(err)
		}
		var f [2]packet.Frame
		n, err := d.Pairs()[0].Receive(f[:])
		must(err)
		return n == 1
	}
	own, other, group, all := [6]byte{2, 0, 0, 0, 0, 1}, [6]byte{2, 0, 0, 0, 0, 2}, [6]byte{1, 2, 3, 4, 5, 6}, [6]byte{255, 255, 255, 255, 255, 255}
	check := func(when string, want string) {
		t.Helper()
		got := ""
		for _, c := range []struct {
			name string
			dst  [6]byte
			vlan int
		}{{"own ", own, -1}, {"other ", other, -1}, {"group ", group, -1}, {"all ", all, -1}, {"vlan7", own, 7}} {
			if seen(c.dst, c.vlan) {
				got += c.name
			}
		}
		if strings.TrimSpace(got) != want {
			t.Errorf("%s: seen %q, want %q", when, got, want)
		}
	}
	check("at first", "own all")
	must(d.SetRXMode(ctx, AllMulti, true))
	check("all multicast", "own group all")
	must(d.SetRXMode(ctx, AllMulti, false))
	must(d.SetMACTable(ctx, [][6]byte{other}, [][6]byte{group}))
	check("table", "own other group all")
	must(d.SetMACTable(ctx, nil, nil))
	must(d.SetRXMode(ctx, NoBroadcast, true))
	must(d.SetMAC(ctx, other))
	must(d.SetVLAN(ctx, 7, true))
	check("another address, no broadcast", "other")
	must(d.SetMAC(ctx, own))
	check("vlan 7", "own vlan7")
	must(d.SetVLAN(ctx, 7, false))
	must(d.SetRXMode(ctx, Promisc, true))
	check("promiscuous", "own other group all")
	if c := readConfig(r.device); c.MAC != own {
		t.Errorf("the address in the configuration is %x", c.MAC)
	}
	r.device.AskAnnounce()
	if c := readConfig(r.device); c.Status&announce == 0 {
		t.Error("the wish is not in the configuration")
	}
	must(d.AckAnnounce(ctx))
	if c := readConfig(r.device); c.Status&announce != 0 {
		t.Error("the wish is there after its acknowledgement")
	}
	must(d.SetQueueCoalescing(ctx, 1, Coalescing{7, 9}))
	if c, err := d.QueueCoalescing(ctx, 1); err != nil || c != (Coalescing{7, 9}) {
		t.Errorf("coalescing of queue 1: %+v, %v", c, err)
	}
	must(d.SetCoalescing(ctx, true, Coalescing{1, 2}))
	if c, _ := d.QueueCoalescing(ctx, 1); c != (Coalescing{1, 2}) {
		t.Errorf("coalescing of a transmit queue: %+v", c)
	}
	if c, _ := d.QueueCoalescing(ctx, 0); c != (Coalescing{}) {
		t.Errorf("coalescing of a receive queue: %+v", c)
	}
	gso := []packet.Frame{{Hdr: packet.NetHdr{Flags: packet.FlagNeedsCsum, GSOType: packet.GSOTCPv4, GSOSize: 1000}, Bufs: [][]byte{pattern(3000, 1)}, Len: 3000}}
	for _, on := range []bool{true, false, true} {
		f := GuestCsum
		if on {
			f |= GuestTSO4
		}
		must(d.SetOffloads(ctx, f))
		before := r.device.Pairs()[0].Stats().NotOffloaded
		if _, err := r.device.Pairs()[0].Deliver(gso); err != nil {
			t.Fatal(err)
		}
		var got [2]packet.Frame
		n, err := d.Pairs()[0].Receive(got[:])
		must(err)
		if n != btoi(on) || r.device.Pairs()[0].Stats().NotOffloaded != before+uint64(btoi(!on)) {
			t.Errorf("with %v, %d GSO frames come through", f, n)
		}
	}
	key := make([]byte, maxRSSKey)
	key[0], key[9] = 1, 0x80
	must(d.SetRSS(ctx, RSSConfig{Types: HashIPv4, Table: []uint16{1, 2, 3, 1}, Unclassified: 2, MaxTx: 4, Key: key}))
	arp := packet.Frame{Bufs: [][]byte{make([]byte, 60)}, Len: 60}
	if r.device.Steer(&arp) != 2 {
		t.Error("a frame without a hash is not steered to its queue")
	}

	bad := []struct {
		name       string
		class, cmd uint8
		data       []byte
	}{
		{"class", 99, 0, nil}, {"command", classRX, 6, []byte{1}}, {"mode", classRX, 0, []byte{2}}, {"no mode", classRX, 0, nil}, {"long mode", classRX, 0, []byte{1, 1}},
		{"address of 5", classMAC, 1, make([]byte, 5)}, {"table of 2^32-1", classMAC, 0, []byte{255, 255, 255, 255, 0, 0, 0, 0}},
		{"half a table", classMAC, 0, []byte{0, 0, 0, 0}}, {"table and more", classMAC, 0, make([]byte, 9)},
		{"VLAN 4096", classVLAN, 0, []byte{0, 16}}, {"VLAN command", classVLAN, 2, []byte{0, 1}},
		{"no pairs", classMQ, 0, []byte{0, 0}}, {"5 pairs of 4", classMQ, 0, []byte{5, 0}}, {"65535 pairs", classMQ, 0, []byte{255, 255}},
		{"offloads that were not negotiated", classOffloads, 0, []byte{1, 0, 0, 0, 0, 0, 0, 0}}, {"short offloads", classOffloads, 0, []byte{1}},
		{"coalescing of the control queue", classCoal, 2, append(le16(8), make([]byte, 10)...)},
		{"coalescing of queue 65535", classCoal, 3, append(le16(65535), 0, 0)}, {"coalescing without room", classCoal, 3, []byte{0, 0, 0, 0}},
		{"announce with data", classAnnounce, 0, []byte{1}},
		{"too long", classMAC, 0, make([]byte, controlData-2)},
	}
	for _, c := range []RSSConfig{
		{Table: []uint16{4}, MaxTx: 1}, {Table: []uint16{0}, MaxTx: 5}, {Table: []uint16{0}, MaxTx: 0}, {Table: []uint16{0}, Unclassified: 4, MaxTx: 1},
		{Table: make([]uint16, 256), MaxTx: 1}, {Types: 1 << 20, Table: []uint16{0}, MaxTx: 1, Key: key},
		{Types: HashIPv4, Table: []uint16{0}, MaxTx: 1}, {Table: []uint16{0}, MaxTx: 1, Key: make([]byte, 255)},
	} {
		if err := d.SetRSS(ctx, c); !errors.Is(err, ErrControl) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	before := r.device.state.Load()
	for _, c := range bad {
		if err := d.command(ctx, command{class: c.class, cmd: c.cmd, data: c.data}); !errors.Is(err, ErrControl) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if r.device.state.Load() != before {
		t.Error("a refused command has changed something")
	}
}

// TestCommandPieces: a command cut at every byte, with its answer in pieces, in none, and too many bytes (row 28).
func TestCommandPieces(t *testing.T) {
	r := newRig(t, DeviceConfig{Config: Config{MTU: 1500, MaxPairs: 4}}, DriverConfig{Features: everything &^ HashReport, QueueSize: 64})
	cmd := []byte{classMQ, 0, 2, 0}
	for at := range len(cmd) {
		ack := []byte{9, 9}
		c := queue.Chain{Out: [][]byte{cmd[:at], cmd[at:]}, In: [][]byte{ack[:1], ack[1:]}, InLen: 2}
		if n := r.device.serve(&c); n != 1 || ack[0] != ackOK || ack[1] != 9 {
			t.Errorf("cut at %d: %d bytes written, ack %v", at, n, ack)
		}
	}
	for _, c := range []queue.Chain{{}, {Out: [][]byte{cmd}}, {In: [][]byte{make([]byte, 1)}, InLen: 1}, {Out: [][]byte{make([]byte, 1<<20)}}} {
		r.device.serve(&c)
	}
	if r.device.state.Load().pairs != 2 {
		t.Errorf("%d pairs", r.device.state.Load().pairs)
	}
}
