package linktest_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/vasta-net/vasta/link"
	"github.com/vasta-net/vasta/link/linktest"
	"github.com/vasta-net/vasta/packet"
	"golang.org/x/sys/unix"
)

// complaints collects what Check says.
type complaints []string

func (c *complaints) Helper() {}
func (c *complaints) Errorf(format string, args ...any) {
	*c = append(*c, fmt.Sprintf(format, args...))
}

func closed(t *testing.T, q *linktest.Queue) {
	t.Helper()
	if err := q.Close(); err != nil {
		t.Error(err)
	}
	q.Check(t)
}

func TestReceiveInOrder(t *testing.T) {
	q := linktest.New(link.Features{})
	notified := 0
	q.Notify = func() { notified++ }
	for i := range 5 {
		q.Inject(packet.NetHdr{GSOSize: uint16(i)}, []byte{byte(i), 1, 2, 3})
	}
	if notified != 5 || q.Waiting() != 5 {
		t.Errorf("%d notifications, %d frames wait", notified, q.Waiting())
	}
	frames := make([]packet.Frame, 4)
	for _, want := range []int{4, 1, 0} {
		n, err := q.Receive(frames)
		if n != want || err != nil {
			t.Fatalf("Receive = %d, %v; want %d", n, err, want)
		}
		for _, f := range frames[:n] {
			if f.Len != 4 || int(f.Bufs[0][0]) != int(f.Hdr.GSOSize) {
				t.Errorf("frame %+v", f)
			}
		}
	}
	if q.Received() != 5 || q.Counters().Reads != 3 {
		t.Errorf("received %d in %d calls", q.Received(), q.Counters().Reads)
	}
	closed(t, q)
}

func TestBorrowedMemoryIsTakenBack(t *testing.T) {
	q := linktest.New(link.Features{})
	data := []byte("borrowed")
	q.Inject(packet.NetHdr{}, data)
	lent := []byte("lent")
	q.Lend(packet.NetHdr{}, [][]byte{lent})
	frames := make([]packet.Frame, 2)
	if n, err := q.Receive(frames); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	kept := frames[0].Bufs[0]
	if string(kept) != "borrowed" {
		t.Fatalf("received %q", kept)
	}
	if n, err := q.Receive(frames); n != 0 || err != nil {
		t.Fatal(n, err)
	}
	if !bytes.Equal(kept, bytes.Repeat([]byte{0xdb}, len(kept))) {
		t.Errorf("after the next Receive the frame still reads %q", kept)
	}
	if string(lent) != "lent" || string(data) != "borrowed" {
		t.Errorf("the test's own memory reads %q and %q", lent, data)
	}
	closed(t, q)
}

func TestSplit(t *testing.T) {
	q := linktest.New(link.Features{})
	q.Split(rand.New(rand.NewPCG(1, 2)), 9)
	frames := make([]packet.Frame, 1)
	most := 0
	for n := range 300 {
		frame := make([]byte, n)
		for i := range frame {
			frame[i] = byte(i)
		}
		q.Inject(packet.NetHdr{}, frame)
		if got, err := q.Receive(frames); got != 1 || err != nil {
			t.Fatal(got, err)
		}
		if !bytes.Equal(bytes.Join(frames[0].Bufs, nil), frame) || frames[0].Len != n {
			t.Fatalf("%d bytes became %d in %d pieces", n, frames[0].Len, len(frames[0].Bufs))
		}
		most = max(most, len(frames[0].Bufs))
	}
	if most != 9 {
		t.Errorf("at most %d pieces, want 9", most)
	}
	closed(t, q)
}

// TestMaxReceive: frames that a limited Receive leaves are announced again.
func TestMaxReceive(t *testing.T) {
	q := linktest.New(link.Features{})
	q.MaxReceive = 2
	for range 3 {
		q.Inject(packet.NetHdr{}, []byte{1})
	}
	notified := 0
	q.Notify = func() { notified++ }
	frames := make([]packet.Frame, 4)
	for _, want := range []struct{ n, notified int }{{2, 1}, {1, 1}, {0, 1}} {
		if n, err := q.Receive(frames); n != want.n || err != nil || notified != want.notified {
			t.Fatalf("Receive = %d, %v after %d notifications, want %+v", n, err, notified, want)
		}
	}
	closed(t, q)
}

func TestFullAndGone(t *testing.T) {
	q := linktest.New(link.Features{})
	out := &link.Out{Head: []byte("he"), Payload: [][]byte{[]byte("a"), []byte("d")}}
	q.Refuse(2)
	for _, want := range []bool{false, false, true} {
		if got := q.Send(out); got != want {
			t.Errorf("Send = %v, want %v", got, want)
		}
	}
	q.SetFull(true)
	if q.Send(out) {
		t.Error("a full queue took a frame")
	}
	q.SetFull(false)
	if got := q.Take(); len(got) != 1 || string(got[0].Data) != "head" {
		t.Errorf("taken %+v", got)
	}
	seen := 0
	q.OnSend = func(*link.Out) { seen++ }
	if !q.Send(out) || seen != 1 || q.Take() != nil {
		t.Errorf("OnSend saw %d frames", seen)
	}
	if sent, refused := q.Sent(); sent != 2 || refused != 3 {
		t.Errorf("sent %d, refused %d", sent, refused)
	}
	q.Vanish()
	if !q.Send(out) || q.Counters().Refused != 1 {
		t.Error("a frame to nobody is not counted")
	}
	if _, err := q.Receive(make([]packet.Frame, 1)); !errors.Is(err, link.ErrGone) {
		t.Errorf("Receive: %v", err)
	}
	closed(t, q)
}

func TestPollable(t *testing.T) {
	q, err := linktest.NewPollable(link.Features{})
	if err != nil {
		t.Fatal(err)
	}
	readable := func() bool {
		fds := []unix.PollFd{{Fd: int32(q.Fd()), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 0)
		if err != nil {
			t.Fatal(err)
		}
		return n == 1
	}
	if readable() {
		t.Error("readable without a frame")
	}
	q.Inject(packet.NetHdr{}, []byte{1})
	if !readable() {
		t.Error("not readable with a frame")
	}
	if n, err := q.Receive(make([]packet.Frame, 2)); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	if readable() {
		t.Error("readable after the last frame")
	}
	closed(t, q)
}

func TestFaults(t *testing.T) {
	q := linktest.New(link.Features{})
	var c complaints
	q.Check(&c)
	if len(c) != 1 || !strings.Contains(c[0], "never closed") {
		t.Errorf("an open queue: %q", c)
	}
	_, _ = q.Receive(make([]packet.Frame, link.MaxBatch+1))
	q.Send(&link.Out{Head: make([]byte, link.MaxHead+1)})
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	if err := q.Close(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("second Close: %v", err)
	}
	_, _ = q.Receive(nil)
	q.Send(&link.Out{})
	q.Flush()
	c = nil
	q.Check(&c)
	if len(c) != 6 {
		t.Errorf("complaints: %q", c)
	}
}

// segment is a TCP segment with right checksums.
func segment(t *testing.T, payload int) []byte {
	t.Helper()
	ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolTCP, SrcIP: net.IP{192, 0, 2, 1}, DstIP: net.IP{192, 0, 2, 2}}
	tcp := &layers.TCP{SrcPort: 80, DstPort: 4000, ACK: true, Window: 100}
	if err := tcp.SetNetworkLayerForChecksum(ip); err != nil {
		t.Fatal(err)
	}
	b := gopacket.NewSerializeBuffer()
	err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true},
		&layers.Ethernet{SrcMAC: make([]byte, 6), DstMAC: make([]byte, 6), EthernetType: layers.EthernetTypeIPv4},
		ip, tcp, gopacket.Payload(make([]byte, payload)))
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestVerify(t *testing.T) {
	const csumStart, csumAt = 34, 50
	partial := packet.NetHdr{Flags: packet.FlagNeedsCsum, CsumStart: csumStart, CsumOffset: csumAt - csumStart}
	gso := func(typ uint8, size uint16) packet.NetHdr {
		h := partial
		h.GSOType, h.GSOSize = typ, size
		return h
	}
	pseudo := func(b []byte) { // what the field holds before the checksum is made
		sum := packet.PseudoSum(netip.AddrFrom4([4]byte(b[26:30])), netip.AddrFrom4([4]byte(b[30:34])), packet.ProtoTCP, len(b)-csumStart)
		b[csumAt], b[csumAt+1] = byte(sum>>8), byte(sum)
	}
	for _, tc := range []struct {
		name string
		hdr  packet.NetHdr
		edit func(b []byte)
		want string // part of the error; "" for none
	}{
		{"full checksum", packet.NetHdr{}, func([]byte) {}, ""},
		{"partial checksum", partial, pseudo, ""},
		{"wrong checksum", packet.NetHdr{}, func(b []byte) { b[csumAt]++ }, "checksum of TCP"},
		{"wrong partial checksum", partial, func(b []byte) { pseudo(b); b[csumAt]++ }, "checksum of TCP"},
		{"wrong IPv4 checksum", packet.NetHdr{}, func(b []byte) { b[24]++ }, "checksum of IPv4"},
		{"checksum outside", packet.NetHdr{Flags: packet.FlagNeedsCsum, CsumStart: 200}, func([]byte) {}, "in a frame of"},
		{"not decodable", packet.NetHdr{}, func(b []byte) { b[14] = 0x41 }, "cannot be decoded"},
		{"segmentation", gso(packet.GSOTCPv4, 40), pseudo, ""},
		{"segmentation of the other family", gso(packet.GSOTCPv6, 40), pseudo, "segmentation of type 4"},
		{"segmentation of the other protocol", gso(packet.GSOUDPL4, 40), pseudo, "without UDP"},
		{"segments of no size", gso(packet.GSOTCPv4, 0), pseudo, "no size"},
		{"a single segment", gso(packet.GSOTCPv4, 100), pseudo, "100 bytes into segments of 100"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := linktest.Frame{Hdr: tc.hdr, Data: segment(t, 100)}
			tc.edit(f.Data)
			_, err := f.Verify()
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("Verify: %v, want %q", err, tc.want)
			}
		})
	}
}
