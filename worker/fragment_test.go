package worker_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/vasta-net/vasta/flow/fragment"
	"github.com/vasta-net/vasta/hostsock"
	"github.com/vasta-net/vasta/hostsock/hosttest"
	"github.com/vasta-net/vasta/link"
	"github.com/vasta-net/vasta/link/linktest"
	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/stats"
	"github.com/vasta-net/vasta/worker"
)

// cut makes the fragments of a frame for an MTU, as the guest's kernel would.
func cut(frame []byte, mtu int, id uint32) (parts [][]byte) {
	v6 := binary.BigEndian.Uint16(frame[12:]) == packet.EtherIPv6
	head := packet.EtherLen + packet.IPv4Len
	before := head
	if v6 {
		head = packet.EtherLen + packet.IPv6Len
		before = head + packet.FragmentLen
	}
	data := frame[head:]
	room := (mtu - (before - packet.EtherLen)) &^ 7
	for off := 0; off < len(data); off += room {
		n := min(room, len(data)-off)
		b := append(bytes.Clone(frame[:head]), make([]byte, before-head)...)
		ip, more := b[packet.EtherLen:], off+n < len(data)
		if v6 {
			packet.PutFragment(ip[packet.IPv6Len:], ip[6], id, off, more)
			ip[6] = packet.ProtoFragment
			binary.BigEndian.PutUint16(ip[4:], uint16(packet.FragmentLen+n))
		} else {
			packet.Fragmented(ip, uint16(id), off, n, more)
		}
		parts = append(parts, append(b, data[off:off+n]...))
	}
	return parts
}

// together puts the frames for the guest together as its kernel would. None may be longer than the MTU.
func (r *rig) together(frames []linktest.Frame, mtu int) (all []got) {
	r.t.Helper()
	var table fragment.Table
	var p packet.Packet
	for _, f := range frames {
		whole := &packet.Frame{Hdr: f.Hdr, Bufs: [][]byte{f.Data}, Len: len(f.Data)}
		if f.Hdr.GSOType == packet.GSONone && len(f.Data) > packet.EtherLen+mtu {
			r.t.Errorf("a frame of %d bytes", len(f.Data))
		}
		reason := p.Parse(whole)
		if reason == stats.Fragment {
			if whole, reason = table.Add(1, &p); whole == nil {
				if reason != stats.None {
					r.t.Errorf("a fragment that the guest drops as %v", reason)
				}
				continue
			}
			reason = p.Parse(whole)
		}
		if reason != stats.None {
			r.t.Errorf("a packet that the guest drops as %v", reason)
			continue
		}
		all = append(all, r.decode(linktest.Frame{Hdr: whole.Hdr, Data: bytes.Join(whole.Bufs, nil)}))
		table.Release()
	}
	if table.Len() != 0 {
		r.t.Errorf("%d packets are incomplete", table.Len())
	}
	return all
}

// TestLongDatagrams: datagrams of any length pass both ways, whatever the MTU.
func TestLongDatagrams(t *testing.T) {
	for _, to := range servers() {
		for _, mtu := range []int{1280, 1500, 65520} {
			t.Run(fmt.Sprintf("%v/%d", to.Addr(), mtu), func(t *testing.T) {
				r := newRig(t, func(c *worker.Config) { c.MTU = mtu })
				guest, s := udpFlow(r, to)
				for i, n := range []int{mtu - 49, mtu - 48, mtu - 47, mtu - 28, mtu - 27, 65507} {
					data := pattern(make([]byte, n), i, 0)
					for _, part := range cut(udpFrame(guest, to, data), mtu, uint32(i)) {
						r.inject(part)
					}
					r.settle()
					d := s.Datagrams()
					if got := d[len(d)-1].Data; len(d) != i+2 || !bytes.Equal(got, data) {
						t.Fatalf("%d bytes: the host got %d", n, len(got))
					}
					s.Deliver(data)
					r.settle()
					all := r.together(r.link.Take(), mtu)
					if len(all) != 1 || all[0].from != to || all[0].to != guest || !bytes.Equal(all[0].data, data) {
						t.Fatalf("%d bytes: the guest got %v", n, all)
					}
				}
				if n := r.stats.Dropped(); n != 0 {
					t.Errorf("%d dropped", n)
				}
			})
		}
	}
}

// TestLongDatagramsInOneBatch: several packets that are put together in one batch of the link keep their content until it ends.
func TestLongDatagramsInOneBatch(t *testing.T) {
	r := newRig(t)
	guest, s := udpFlow(r, at(server4, 53))
	var want []string
	for i := range 4 {
		data := pattern(make([]byte, 3000), i, 0)
		want = append(want, string(data))
		for _, part := range cut(udpFrame(guest, at(server4, 53), data), 1500, uint32(i)) {
			r.inject(part)
		}
	}
	r.settle()
	if got := contents(s); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%d datagrams", len(got))
	}
}

// TestLongEcho: so do echo requests and replies.
func TestLongEcho(t *testing.T) {
	for _, to := range servers() {
		r := newRig(t, func(c *worker.Config) { c.MTU = 1500 })
		guest := like(to.Addr())
		data := pattern(make([]byte, 60000), 1, 0)
		r.host.OnOpen = func(s *hosttest.Socket) hostsock.Errno { s.Echo = true; return 0 }
		for _, part := range cut(echoFrame(guest, to.Addr(), 7, 1, data), 1500, 1) {
			r.inject(part)
		}
		r.settle()
		all := r.together(r.link.Take(), 1500)
		if len(all) != 1 || !bytes.Equal(all[0].data[4:], data) && !bytes.Equal(all[0].data, data) {
			t.Fatalf("%v: %v", to, all)
		}
	}
}

// TestLongDatagramsLinkFull: a datagram of which the link takes nothing waits; one of which it takes a part is lost, and counted.
func TestLongDatagramsLinkFull(t *testing.T) {
	r := newRigOn(t, linktest.New(link.Features{Csum: true}), func(c *worker.Config) { c.MTU = 1500 })
	_, s := udpFlow(r, at(server4, 53))
	r.link.Refuse(1)
	s.Deliver(make([]byte, 4000))
	r.run(5 * millisecond)
	if all := r.together(r.link.Take(), 1500); len(all) != 1 || len(all[0].data) != 4000 {
		t.Fatalf("%v", all)
	}
	r.link.RefuseAfter(1)
	s.Deliver(make([]byte, 4000))
	r.run(5 * millisecond)
	r.link.Take()
	r.dropped(stats.LinkFull, 1)
	s.Deliver([]byte("next"))
	if g := r.only(); string(g.data) != "next" {
		t.Errorf("%v", g)
	}
}

// TestBadFragments: what cannot be put together is counted, and given up when nothing happens.
func TestBadFragments(t *testing.T) {
	r := newRig(t)
	guest, s := udpFlow(r, at(server4, 53))
	parts := cut(udpFrame(guest, at(server4, 53), make([]byte, 4000)), 1500, 1)
	r.inject(parts[0])
	r.inject(parts[0])
	overlap := bytes.Clone(parts[1])
	packet.Fragmented(overlap[packet.EtherLen:][:packet.IPv4Len], 1, 1472, len(overlap)-packet.EtherLen-packet.IPv4Len, true)
	r.inject(overlap)
	r.inject(parts[1])
	r.inject(parts[2])
	r.settle()
	r.dropped(stats.Fragment, 1)
	r.dropped(stats.BadFragment, 3)
	if n := len(contents(s)); n != 0 {
		t.Errorf("%d datagrams", n)
	}
}
