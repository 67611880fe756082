package hostsock_test

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/vasta-net/vasta/hostsock"
	"golang.org/x/sys/unix"
)

func udp(t *testing.T, s *hostsock.System, from, to netip.AddrPort, dual bool) int {
	t.Helper()
	fd, err := s.OpenUDP(hostsock.Origin{Addr: from}, to, dual)
	must(t, err, "OpenUDP")
	t.Cleanup(func() { s.Close(fd) })
	return fd
}

// sendTo sends one datagram.
func sendTo(h hostsock.Host, fd int, bufs [][]byte, to netip.AddrPort) hostsock.Errno {
	_, err := h.SendDatagrams(fd, []hostsock.Datagram{{Bufs: bufs, Peer: to}})
	return err
}

// recvFrom takes one datagram.
func recvFrom(h hostsock.Host, fd int, buf []byte) (int, netip.AddrPort, hostsock.Errno) {
	msgs := []hostsock.Datagram{{Bufs: [][]byte{buf}}}
	if _, err := h.RecvDatagrams(fd, msgs); err != 0 {
		return 0, netip.AddrPort{}, err
	}
	return msgs[0].Len, msgs[0].Peer, 0
}

func TestDatagramsOfAllSizes(t *testing.T) {
	for _, at := range []netip.Addr{loopback4, loopback6} {
		t.Run(at.String(), func(t *testing.T) {
			s := newSystem(t)
			server := udp(t, s, netip.AddrPortFrom(at, 0), netip.AddrPort{}, false)
			client := udp(t, s, netip.AddrPort{}, localAddr(t, server), false)
			buf := make([]byte, 1<<16)
			for _, size := range []int{0, 1, 1472, 65507} {
				data := bytes.Repeat([]byte{byte(size)}, size)
				// In three pieces, one of them empty.
				must(t, sendTo(s, client, [][]byte{data[:size/3], nil, data[size/3:]}, netip.AddrPort{}), "sendTo")
				n, from, err := recvFrom(s, server, buf)
				if err != 0 || !bytes.Equal(buf[:n], data) || from != localAddr(t, client) {
					t.Fatalf("RecvFrom = %d bytes from %v, %v; %d were sent", n, from, err, size)
				}
				must(t, sendTo(s, server, [][]byte{data}, from), "sendTo the client")
				if n, from, err = recvFrom(s, client, buf); err != 0 || n != size || from != localAddr(t, server) {
					t.Fatalf("RecvFrom = %d bytes from %v, %v", n, from, err)
				}
			}
			if err := sendTo(s, client, [][]byte{make([]byte, 65536)}, netip.AddrPort{}); err != unix.EMSGSIZE {
				t.Errorf("a datagram of 65536 bytes: %v", err)
			}
			if err := sendTo(s, client, make([][]byte, 65), netip.AddrPort{}); err != unix.EMSGSIZE {
				t.Errorf("a datagram of 65 pieces: %v", err)
			}
			if _, _, err := recvFrom(s, server, buf); err != unix.EAGAIN {
				t.Errorf("RecvFrom with nothing to read: %v", err)
			}
			// A datagram that is longer than the buffer is cut, says so, and is gone.
			must(t, sendTo(s, client, [][]byte{[]byte("0123456789")}, netip.AddrPort{}), "sendTo")
			if n, _, err := recvFrom(s, server, buf[:4]); n != 10 || err != 0 || string(buf[:4]) != "0123" {
				t.Errorf("RecvFrom into 4 bytes = %d, %v", n, err)
			}
			if _, _, err := recvFrom(s, server, buf); err != unix.EAGAIN {
				t.Errorf("the rest of the datagram was kept: %v", err)
			}
		})
	}
}

func TestUDPRefused(t *testing.T) {
	for _, at := range []netip.Addr{loopback4, loopback6} {
		s := newSystem(t)
		gone, err := s.OpenUDP(hostsock.Origin{Addr: netip.AddrPortFrom(at, 0)}, netip.AddrPort{}, false)
		must(t, err, "OpenUDP")
		to := localAddr(t, gone)
		s.Close(gone)
		c := udp(t, s, netip.AddrPort{}, to, false)
		must(t, sendTo(s, c, [][]byte{{1}}, netip.AddrPort{}), "sendTo")
		ready(t, s, c, func(e hostsock.Event) bool { return e.Error })
		if _, _, err := recvFrom(s, c, make([]byte, 8)); err != unix.ECONNREFUSED {
			t.Errorf("RecvFrom after the ICMP error from %v: %v", to, err)
		}
	}
}

func TestUDPFlowsShareAPort(t *testing.T) {
	newNetns(t)
	s := newSystem(t)
	a := udp(t, s, netip.MustParseAddrPort("127.0.0.1:9001"), netip.AddrPort{}, false)
	b := udp(t, s, netip.MustParseAddrPort("127.0.0.1:9002"), netip.AddrPort{}, false)
	port := netip.MustParseAddrPort("127.0.0.1:5000")
	ca := udp(t, s, port, netip.MustParseAddrPort("127.0.0.1:9001"), false)
	cb := udp(t, s, port, netip.MustParseAddrPort("127.0.0.1:9002"), false)
	buf := make([]byte, 8)
	for server, client := range map[int]int{a: ca, b: cb} {
		must(t, sendTo(s, server, [][]byte{{byte(server)}}, port), "sendTo")
		if n, _, err := recvFrom(s, client, buf); n != 1 || err != 0 || buf[0] != byte(server) {
			t.Errorf("RecvFrom = %d, %v", n, err)
		}
	}
	// One that a socket wants for itself is not to be had.
	if fd, err := s.OpenUDP(hostsock.Origin{Addr: port, Exclusive: true}, netip.AddrPort{}, false); err != unix.EADDRINUSE {
		t.Errorf("OpenUDP of a shared port = %d, %v", fd, err)
	}
	// A port that the kernel chooses is not shared.
	free := udp(t, s, netip.MustParseAddrPort("127.0.0.1:0"), netip.AddrPort{}, false)
	if v, err := unix.GetsockoptInt(free, unix.SOL_SOCKET, unix.SO_REUSEADDR); v != 0 || err != nil {
		t.Errorf("SO_REUSEADDR = %d, %v", v, err)
	}
}

func TestUDPDualStack(t *testing.T) {
	newNetns(t)
	s := newSystem(t)
	both := udp(t, s, netip.MustParseAddrPort("[::]:9000"), netip.AddrPort{}, true)
	buf := make([]byte, 8)
	for _, at := range []string{"127.0.0.1:9000", "[::1]:9000", "[::ffff:127.0.0.1]:9000"} {
		to := netip.MustParseAddrPort(at)
		c := udp(t, s, netip.AddrPort{}, to, false)
		must(t, sendTo(s, c, [][]byte{{1}}, netip.AddrPort{}), "sendTo "+at)
		n, from, err := recvFrom(s, both, buf)
		if n != 1 || err != 0 || from != localAddr(t, c) || from.Addr().Is4In6() {
			t.Fatalf("%s: RecvFrom = %d from %v, %v", at, n, from, err)
		}
		must(t, sendTo(s, both, [][]byte{{2, 3}}, from), "the answer to "+at)
		if n, from, err = recvFrom(s, c, buf); n != 2 || err != 0 || from != netip.AddrPortFrom(to.Addr().Unmap(), 9000) {
			t.Errorf("%s: the answer = %d from %v, %v", at, n, from, err)
		}
	}
	alone := udp(t, s, netip.MustParseAddrPort("[::]:9100"), netip.AddrPort{}, false)
	if err := sendTo(s, alone, [][]byte{{1}}, netip.MustParseAddrPort("127.0.0.1:9000")); err != unix.ENETUNREACH {
		t.Errorf("IPv4 from an IPv6 socket: %v", err)
	}
}

func TestUDPErrors(t *testing.T) {
	newNetns(t)
	s := newSystem(t)
	before := openFds(t)
	for _, c := range []struct {
		name string
		from hostsock.Origin
		to   string
		want hostsock.Errno
	}{
		{"no address at all", hostsock.Origin{}, "", unix.EINVAL},
		{"unreachable", hostsock.Origin{}, "192.0.2.1:53", unix.ENETUNREACH},
		{"foreign address", hostsock.Origin{Addr: netip.MustParseAddrPort("192.0.2.1:0")}, "", unix.EADDRNOTAVAIL},
		{"no such device", hostsock.Origin{Device: "none0"}, "127.0.0.1:53", unix.ENODEV},
		{"unreachable by name of a zone", hostsock.Origin{}, "[fe80::1%none0]:53", unix.ENODEV},
	} {
		var to netip.AddrPort
		if c.to != "" {
			to = netip.MustParseAddrPort(c.to)
		}
		if fd, err := s.OpenUDP(c.from, to, false); err != c.want || fd != -1 {
			t.Errorf("%s: OpenUDP = %d, %v; want %v", c.name, fd, err, c.want)
		}
	}
	if after := openFds(t); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
	fd := udp(t, s, netip.MustParseAddrPort("127.0.0.1:0"), netip.AddrPort{}, false)
	for to, want := range map[netip.AddrPort]hostsock.Errno{
		{}:                                    unix.EDESTADDRREQ,
		netip.MustParseAddrPort("[::1]:53"):   unix.EAFNOSUPPORT,
		netip.MustParseAddrPort("[::1%x]:53"): unix.ENODEV,
	} {
		if err := sendTo(s, fd, [][]byte{{1}}, to); err != want {
			t.Errorf("sendTo %v: %v, want %v", to, err, want)
		}
	}
}

func TestLinkLocalZones(t *testing.T) {
	newNetns(t)
	linkLocal(t)
	s := newSystem(t)
	server := udp(t, s, netip.MustParseAddrPort("[fe80::1%lo]:9000"), netip.AddrPort{}, false)
	client := udp(t, s, netip.AddrPort{}, netip.MustParseAddrPort("[fe80::1%lo]:9000"), false)
	must(t, sendTo(s, client, [][]byte{{1}}, netip.AddrPort{}), "sendTo")
	ready(t, s, server, isIn)
	n, from, err := recvFrom(s, server, make([]byte, 8))
	if n != 1 || err != 0 || from.Addr().Zone() == "" {
		t.Fatalf("RecvFrom = %d from %v, %v; want a zone", n, from, err)
	}
	must(t, sendTo(s, server, [][]byte{{1}}, from), "sendTo with a numeric zone")
	ready(t, s, client, isIn)
	if n, _, err = recvFrom(s, client, make([]byte, 8)); n != 1 || err != 0 {
		t.Errorf("the answer = %d, %v", n, err)
	}
}

// echo is an ICMP or ICMPv6 echo request; the kernel fills in the checksum.
func echo(to netip.Addr, id, seq uint16, data string) []byte {
	b := make([]byte, 8, 8+len(data))
	b[0] = 8
	if to.Is6() {
		b[0] = 128
	}
	binary.BigEndian.PutUint16(b[4:], id)
	binary.BigEndian.PutUint16(b[6:], seq)
	return append(b, data...)
}

func TestPing(t *testing.T) {
	newNetns(t)
	s := newSystem(t)
	if fd, err := s.OpenPing(1, loopback4); err != unix.EACCES {
		t.Fatalf("OpenPing with an empty ping_group_range = %d, %v", fd, err)
	}
	allowPing(t)
	for _, to := range []netip.Addr{loopback4, loopback6} {
		fd, err := s.OpenPing(0x1234, to)
		must(t, err, "OpenPing")
		msg := echo(to, 0x1234, 7, "payload")
		request := []hostsock.Datagram{{Bufs: [][]byte{msg[:3], msg[3:]}, TOS: 0x28, TTL: 9, V6: to.Is6()}}
		if n, err := s.SendDatagrams(fd, request); n != 1 || err != 0 {
			t.Fatalf("SendDatagrams = %d, %v", n, err)
		}
		ready(t, s, fd, isIn)
		buf := make([]byte, 64)
		reply := []hostsock.Datagram{{Bufs: [][]byte{buf}}}
		_, err = s.RecvDatagrams(fd, reply)
		must(t, err, "RecvDatagrams")
		n := reply[0].Len
		if reply[0].TTL != 64 || to.Is4() && reply[0].TOS != 0x28 {
			t.Errorf("the reply from %v has TTL %d, TOS %#x", to, reply[0].TTL, reply[0].TOS)
		}
		wantType := byte(0)
		if to.Is6() {
			wantType = 129
		}
		if n != len(msg) || buf[0] != wantType || !bytes.Equal(buf[4:n], msg[4:]) {
			t.Errorf("the reply from %v is % x", to, buf[:n])
		}
		s.Close(fd)
	}
	any1, err := s.OpenPing(0, loopback4)
	must(t, err, "OpenPing with any identifier")
	defer s.Close(any1)
	any2, err := s.OpenPing(0, loopback4)
	must(t, err, "OpenPing with any other identifier")
	defer s.Close(any2)
	if a, b := localAddr(t, any1).Port(), localAddr(t, any2).Port(); a == 0 || a == b {
		t.Errorf("the kernel chose the identifiers %d and %d", a, b)
	}
	if fd, err := s.OpenPing(1, netip.MustParseAddr("192.0.2.1")); err != unix.ENETUNREACH {
		t.Errorf("OpenPing to nowhere = %d, %v", fd, err)
	}
	if fd, err := s.OpenPing(1, netip.Addr{}); err != unix.EINVAL {
		t.Errorf("OpenPing without a target = %d, %v", fd, err)
	}
}
