// Package hostsock is the host side of every flow: the sockets of the machine vasta runs on.
//
// Host is the interface that the worker works with. System implements it with system calls; package
// hostsock/hosttest is its scripted twin, which returns short writes, EAGAIN, EMFILE and resets on demand.
//
// A Host belongs to one worker and is not safe for concurrent use. No method blocks, except Wait. Errors are plain
// errno values, 0 for success, so that no call allocates.
package hostsock

import (
	"net/netip"

	"golang.org/x/sys/unix"
)

// Errno is the error of a host call; 0 means success.
type Errno = unix.Errno

// Event is one readiness report of Wait. Reports are edge-triggered: after one, the reader or writer goes on
// until EAGAIN.
type Event struct {
	Token         uint64 // as given to Watch
	In, Out       bool   // may be read (or accepted, or is at end of file); may be written
	End           bool   // the peer has ended its stream: reading will reach the end of file
	Hangup, Error bool   // both directions are closed; an error waits in ConnectResult
	Urgent        bool   // urgent data waits: reading stops before it once, so a short read does not say that nothing is left
}

// Origin says where an outbound socket starts from. The zero value lets the kernel choose.
type Origin struct {
	Addr   netip.AddrPort // local address, port 0 for any; invalid for none
	Device string         // interface to bind to, "" for none
	// TOS and TTL are the service byte, but for its ECN bits, and the hop limit that a TCP connection is begun with; 0 is the host's own.
	TOS, TTL uint8
	// Exclusive has a UDP port belong to this socket alone. Otherwise sockets to different peers share it.
	Exclusive bool
	// Multicast has an unconnected UDP socket send to groups and broadcast addresses too, by the interface with the index MulticastDevice, 0 for that of the
	// routes. This machine does not hear what it sends to groups.
	Multicast       bool
	MulticastDevice int
}

// Host opens, moves data through and closes host sockets. Descriptors are the Host's own names for its sockets.
// All sockets are non-blocking and close-on-exec; TCP sockets have TCP_NODELAY and deliver urgent data inline.
type Host interface {
	// Watch registers fd for edge-triggered events of both directions under token. Close ends it.
	Watch(fd int, token uint64) Errno
	// Unwatch ends it too, for a descriptor that stays open; for one that is not watched it does nothing.
	Unwatch(fd int)
	// Wait fills events and returns how many there are. It waits at most timeout nanoseconds; 0 polls,
	// a negative timeout waits without limit. An interrupted wait returns 0.
	Wait(events []Event, timeout int64) int

	// ConnectTCP opens a socket and begins to connect it. 0 means that the connection is under way: the first event with Out,
	// Error or Hangup tells that ConnectResult is known: it is 0 when that event had Out alone. An immediate failure leaves no descriptor behind.
	ConnectTCP(from Origin, to netip.AddrPort) (fd int, err Errno)
	// ConnectResult is the pending error of the socket (SO_ERROR); 0 after a successful connect.
	ConnectResult(fd int) Errno
	// ListenTCP opens a listening socket. An IPv6 address accepts IPv6 only, except for [::] with dual set.
	ListenTCP(at netip.AddrPort, device string, dual bool) (fd int, err Errno)
	// BindTCP does the same without listening: until Listen, the kernel refuses connections, and nobody else can have the port.
	BindTCP(at netip.AddrPort, device string, dual bool) (fd int, err Errno)
	// Listen lets connections to a bound socket be accepted.
	Listen(fd int) Errno
	// Unlisten ends that: connections that were not accepted are reset, and further ones refused. The socket stays bound.
	Unlisten(fd int) Errno
	// AdoptTCP has a TCP socket that somebody else has opened, in another network namespace for one, listen at an address; AdoptUDP binds a UDP socket. On
	// error fd stays open.
	AdoptTCP(fd int, at netip.AddrPort) Errno
	AdoptUDP(fd int, at netip.AddrPort) Errno
	// Accept takes one connection. peer has an IPv4-mapped address unmapped.
	Accept(fd int) (conn int, peer netip.AddrPort, err Errno)
	// Send writes the pieces in order, as one system call for up to 64 of them, and returns how many bytes were taken. The
	// pieces stay the caller's and are not kept.
	Send(fd int, bufs [][]byte) (n int, err Errno)
	// LimitUnsent bounds what Send leaves with the kernel beyond what the peer's window and the path let it send (TCP_NOTSENT_LOWAT): what is more
	// is refused, and the event with Out comes when half of it has gone.
	LimitUnsent(fd int) Errno
	// SetTOS has what a TCP socket sends from now on carry a service byte; its ECN bits stay the kernel's affair.
	SetTOS(fd int, v6 bool, tos uint8) Errno
	// Recv reads into the pieces in order, as one system call. 0 bytes without an error is the end of the stream. The pieces
	// stay the caller's; there is at least one, and none is empty.
	Recv(fd int, bufs [][]byte) (n int, err Errno)
	// Peek tells what Recv would answer, and takes nothing: 1 when bytes wait, 0 without an error at the end of the stream.
	Peek(fd int) (n int, err Errno)
	// ShutdownWrite sends the end of the stream to the peer.
	ShutdownWrite(fd int) Errno
	// Abort closes fd so that a TCP peer sees a reset (SO_LINGER with zero time).
	Abort(fd int)
	// Close closes fd. A TCP peer sees the end of the stream.
	Close(fd int)

	// OpenUDP opens a UDP socket bound to from, if that is valid, and connected to to, if that is valid.
	OpenUDP(from Origin, to netip.AddrPort, dual bool) (fd int, err Errno)
	// SendDatagrams sends messages in order, as one system call, and returns how many of the first were taken: fewer than there are
	// without an error when only the next call can tell why. An error stands for the first message; nothing was sent then.
	SendDatagrams(fd int, msgs []Datagram) (n int, err Errno)
	// RecvDatagrams takes what waits, as one system call, and returns how many messages were filled in. A pending ICMP error is
	// returned as its errno (ECONNREFUSED and the like).
	RecvDatagrams(fd int, msgs []Datagram) (n int, err Errno)

	// OpenPing opens an ICMP or ICMPv6 echo socket ("ping socket") with the given echo identifier, 0 for any, connected to
	// to. SendDatagrams and RecvDatagrams then carry ICMP messages from the type byte on, one at a time.
	OpenPing(id uint16, to netip.Addr) (fd int, err Errno)

	// OpenGroup opens a UDP socket that gets what is sent to a multicast group and port on the interface with the given index, 0 for that of the
	// routes; others may get the same.
	OpenGroup(group netip.AddrPort, device int) (fd int, err Errno)

	// DontFragment says whether what a UDP or echo socket sends to a family of addresses has to stay whole (IPv4's DF): what
	// is too long for the way is then refused with EMSGSIZE, and otherwise cut.
	DontFragment(fd int, v6, on bool) Errno
	// QueueErrors has a UDP or echo socket keep what the network answers to what it has sent, for RecvError; dual is as for OpenUDP. Whoever asks
	// for it has to take them: what waits is counted as memory of the socket. Each of them also fails the next call of SendDatagrams or
	// RecvDatagrams, unless it was taken before.
	QueueErrors(fd int, v6, dual bool) Errno
	// RecvError takes the oldest of these errors; EAGAIN says that there is none.
	RecvError(fd int, e *SendError) Errno
}
