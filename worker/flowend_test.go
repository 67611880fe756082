package worker_test

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket/layers"
	"github.com/vasta-net/vasta/hostsock"
	"github.com/vasta-net/vasta/hostsock/hosttest"
	"github.com/vasta-net/vasta/link/linktest"
	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/worker"
	"golang.org/x/sys/unix"
)

// ends collects what is told of the ends of flows.
func endsInto(all *[]worker.FlowEnd) func(*worker.Config) {
	return func(c *worker.Config) { c.Ended = func(e *worker.FlowEnd) { *all = append(*all, *e) } }
}

var byText = cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })

// TestFlowEndTCP: what is told of a connection at its end is what it has carried, whoever began it and however it ended.
func TestFlowEndTCP(t *testing.T) {
	var got []worker.FlowEnd
	_, edit := withRules(t, "allow 198.51.100.7,2001:db8:1::7\ndeny all")
	r := newRig(t, edit, endsInto(&got))
	began := r.host.Now()
	c := r.connect(at(server4, 80))
	s := r.host.Last()
	r.run(second)
	c.upload(100_000, 50_000)
	c.received(s, 100_000)
	c.deliver(s, 1, 30_000)
	c.end()
	s.End()
	r.pump()
	if len(got) != 1 {
		t.Fatalf("%d flows have ended: %+v", len(got), got)
	}
	e := got[0]
	if e.FromGuest.Packets < 5 || e.ToGuest.Packets < 5 || e.FromGuest.Packets > 100 || e.ToGuest.Packets > 100 {
		t.Errorf("%d packets from the guest, %d toward it", e.FromGuest.Packets, e.ToGuest.Packets)
	}
	e.FromGuest.Packets, e.ToGuest.Packets = 0, 0
	want := worker.FlowEnd{
		Proto: packet.ProtoTCP, Guest: c.local, Peer: at(server4, 80), Began: began, Ended: r.host.Now(), Why: "finished", Rule: 1,
		FromGuest: worker.Tally{Bytes: 100_000}, ToGuest: worker.Tally{Bytes: 30_000},
	}
	if diff := cmp.Diff(want, e, byText); diff != "" {
		t.Error(diff)
	}

	got = nil
	c = r.connect(at(server6, 80))
	c.abort()
	r.pump()
	r.host.OnOpen = func(s *hosttest.Socket) hostsock.Errno { s.Refuse(unix.ECONNREFUSED); return 0 }
	r.refuses(at(server4, 81))
	r.refuses(at(gw4, 80)) // the host's loopback, which is denied
	l := r.forward(at(netip.IPv4Unspecified(), 8000), 5000, false)
	l.Inbound(at(server4, 7000), at(guest4, 8000))
	syn := r.only()
	r.inject(tcpFrame(syn.to, syn.from, layers.TCP{RST: true, ACK: true, Ack: syn.tcp.Seq + 1}, nil))
	r.nothing()
	var why []string
	for _, e := range got {
		why = append(why, e.Why)
	}
	if diff := cmp.Diff([]string{"reset by the guest", "host_refused", "denied", "reset by the guest"}, why); diff != "" {
		t.Fatal(diff)
	}
	if d := got[2]; d.Rule != 2 || d.Peer != at(netip.MustParseAddr("127.0.0.1"), 80) || d.Began != d.Ended || d.Inbound {
		t.Errorf("denied: %+v", d)
	}
	if in := got[3]; !in.Inbound || in.Guest != at(guest4, 5000) || in.Peer != at(server4, 7000) || in.Rule != 1 || in.ToGuest.Packets != 1 {
		t.Errorf("inbound: %+v", in)
	}
}

// TestFlowEndDatagrams: the same of UDP and echo flows.
func TestFlowEndDatagrams(t *testing.T) {
	var got []worker.FlowEnd
	r := makeRig(t, linktest.New(allFeatures), endsInto(&got)) // closed below
	guest := at(guest4, 4000)
	for range 3 {
		r.inject(udpFrame(guest, at(server4, 123), make([]byte, 100)))
	}
	r.settle()
	r.host.Last().Deliver(make([]byte, 50))
	r.only()
	r.inject(echoFrame(guest6, server6, 7, 1, make([]byte, 24)))
	r.settle()
	r.run(181 * second)
	r.take()
	want := []worker.FlowEnd{
		{Proto: packet.ProtoICMPv6, Guest: at(guest6, 7), Peer: at(server6, 0), FromGuest: worker.Tally{Bytes: 24, Packets: 1}, Why: "idle"},
		{Proto: packet.ProtoUDP, Guest: guest, Peer: at(server4, 123), FromGuest: worker.Tally{Bytes: 300, Packets: 3}, ToGuest: worker.Tally{Bytes: 50, Packets: 1}, Why: "idle"},
	}
	for i := range got {
		if got[i].Ended-got[i].Began < 59*second {
			t.Errorf("lived for %d ns", got[i].Ended-got[i].Began)
		}
		got[i].Began, got[i].Ended = 0, 0
	}
	if diff := cmp.Diff(want, got, byText); diff != "" {
		t.Error(diff)
	}
	got = nil
	r.inject(udpFrame(guest, at(server4, 123), nil))
	r.connect(at(server4, 80))
	r.settle()
	r.close()
	if len(got) != 2 || got[0].Why != "the network was closed" || got[1].Why != got[0].Why {
		t.Errorf("at the end: %+v", got)
	}
}
