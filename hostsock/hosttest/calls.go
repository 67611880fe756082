package hosttest

import (
	"math"
	"net/netip"
	"slices"

	"github.com/vasta-net/vasta/hostsock"
	"golang.org/x/sys/unix"
)

// maxPieces is how many pieces one Send takes, as hostsock.Host says.
const maxPieces = 64

// maxSegments is how many datagrams one message stands for at most, as hostsock.Datagram says.
const maxSegments = 64

// maxDatagram is the longest UDP datagram over IPv4, in bytes.
const maxDatagram = 65507

// find answers the open socket of fd; anything else is a fault of the code under test.
func (h *Host) find(call string, fd int, kinds ...Kind) (*Socket, hostsock.Errno) {
	s := h.Socket(fd)
	switch {
	case s == nil:
		h.fault("%s on descriptor %d, which was never opened here", call, fd)
		return nil, unix.EBADF
	case s.end != stillOpen:
		h.fault("%s on the closed %v", call, s)
		return nil, unix.EBADF
	case len(kinds) > 0 && !slices.Contains(kinds, s.Kind):
		h.fault("%s on %v", call, s)
		return nil, unix.EOPNOTSUPP
	}
	return s, 0
}

// Watch implements hostsock.Host. Descriptors that are not the Host's own are reported as Wake says.
func (h *Host) Watch(fd int, token uint64) hostsock.Errno { return h.watch(fd, token, nil) }

// watch watches a descriptor in the set of a View, nil for the Host's own.
func (h *Host) watch(fd int, token uint64, v *View) hostsock.Errno {
	h.calls[Watch]++
	if err := h.fail[Watch].take(); err != 0 {
		return err
	}
	w := &watched{token: token, view: v}
	if fd >= firstFd {
		s, err := h.find("Watch", fd)
		if err != 0 {
			return err
		}
		w.socket = s
	}
	if h.watched[fd] != nil {
		h.fault("Watch on descriptor %d, which is watched", fd)
		return unix.EEXIST
	}
	h.watched[fd] = w
	if w.socket != nil {
		h.queue(w) // what is true already is the first event
	}
	return 0
}

// Unwatch implements hostsock.Host. An event that waits already is still reported.
func (h *Host) Unwatch(fd int) { delete(h.watched, fd) }

// Wait implements hostsock.Host. When nothing is to be reported it moves the virtual time on, at most by timeout, until an
// action of At makes something happen.
func (h *Host) Wait(events []hostsock.Event, timeout int64) int {
	h.calls[Wait]++
	if h.OnWait != nil {
		h.OnWait(timeout)
	}
	if h.fail[Wait].take() != 0 {
		return 0
	}
	h.advanceTo(h.now)
	limit := h.now + min(timeout, math.MaxInt64-h.now)
	for {
		if n := h.collect(events); n > 0 {
			return n
		}
		switch {
		case len(h.timed) > 0 && (timeout < 0 || h.timed[0].at <= limit):
			h.advanceTo(h.timed[0].at)
		case timeout < 0:
			h.idle++
			return 0
		default:
			h.advanceTo(limit)
			return 0
		}
	}
}

// collect takes events out of the ready list.
func (h *Host) collect(events []hostsock.Event) int {
	n := copy(events, h.injected)
	h.injected = h.injected[n:]
	more, ready := collect(events[n:], h.ready)
	h.ready = ready
	return n + more
}

// collect takes events out of a ready list, and returns how many, and what is left of the list.
func collect(events []hostsock.Event, ready []*watched) (n int, left []*watched) {
	for n < len(events) && len(ready) > 0 {
		w := ready[0]
		ready = ready[1:]
		w.queued = false
		e := hostsock.Event{In: true}
		if w.socket != nil {
			if e = w.socket.state(); e == (hostsock.Event{}) {
				continue
			}
		}
		e.Token = w.token
		events[n] = e
		n++
	}
	return n, ready
}

// ConnectTCP implements hostsock.Host. The connection stays pending until Socket.Establish or Socket.Refuse.
func (h *Host) ConnectTCP(from hostsock.Origin, to netip.AddrPort) (int, hostsock.Errno) {
	h.calls[ConnectTCP]++
	if err := h.fail[ConnectTCP].take(); err != 0 {
		return -1, err
	}
	s := newSocket(TCP)
	s.Peer, s.connecting = to, true
	return h.open(s, from)
}

// ConnectResult implements hostsock.Host.
func (h *Host) ConnectResult(fd int) hostsock.Errno {
	s, err := h.begin(ConnectResult, fd)
	if err != 0 {
		return err
	}
	return s.takeError()
}

// ListenTCP implements hostsock.Host.
func (h *Host) ListenTCP(at netip.AddrPort, device string, dual bool) (int, hostsock.Errno) {
	return h.listener(ListenTCP, at, device, dual)
}

// BindTCP implements hostsock.Host.
func (h *Host) BindTCP(at netip.AddrPort, device string, dual bool) (int, hostsock.Errno) {
	return h.listener(BindTCP, at, device, dual)
}

func (h *Host) listener(op Op, at netip.AddrPort, device string, dual bool) (int, hostsock.Errno) {
	h.calls[op]++
	if err := h.fail[op].take(); err != 0 {
		return -1, err
	}
	s := newSocket(Listener)
	s.Dual, s.Listening = dual, op == ListenTCP
	return h.open(s, hostsock.Origin{Addr: at, Device: device})
}

// AdoptTCP implements hostsock.Host.
func (h *Host) AdoptTCP(fd int, at netip.AddrPort) hostsock.Errno {
	s, err := h.begin(AdoptTCP, fd, Listener)
	if err == 0 {
		s.Local, s.Listening = at, true
	}
	return err
}

// AdoptUDP implements hostsock.Host.
func (h *Host) AdoptUDP(fd int, at netip.AddrPort) hostsock.Errno {
	s, err := h.begin(AdoptUDP, fd, UDP)
	if err == 0 {
		s.Local = at
	}
	return err
}

// Listen implements hostsock.Host.
func (h *Host) Listen(fd int) hostsock.Errno {
	s, err := h.begin(Listen, fd, Listener)
	if err == 0 {
		s.Listening = true
	}
	return err
}

// Unlisten implements hostsock.Host.
func (h *Host) Unlisten(fd int) hostsock.Errno {
	s, err := h.begin(Unlisten, fd, Listener)
	if err != 0 {
		return err
	}
	if !s.Listening {
		return unix.ENOTCONN
	}
	s.Listening = false
	for _, c := range s.waiting {
		c.dead = true
		c.end = aborted
	}
	s.waiting = nil
	s.wake()
	return 0
}

// SetTOS implements hostsock.Host.
func (h *Host) SetTOS(fd int, _ bool, tos uint8) hostsock.Errno {
	s, err := h.begin(SetTOS, fd, TCP)
	if err == 0 {
		s.TOS = tos
	}
	return err
}

// LimitUnsent implements hostsock.Host. What a socket here takes is for the test to say, so it changes nothing.
func (h *Host) LimitUnsent(fd int) hostsock.Errno {
	_, err := h.begin(LimitUnsent, fd, TCP)
	return err
}

// Accept implements hostsock.Host.
func (h *Host) Accept(fd int) (conn int, peer netip.AddrPort, err hostsock.Errno) {
	s, err := h.begin(Accept, fd, Listener)
	switch {
	case err != 0:
	case !s.Listening:
		err = unix.EINVAL
	case len(s.waiting) == 0:
		err = unix.EAGAIN
	}
	if err != 0 {
		return -1, netip.AddrPort{}, err
	}
	c := s.waiting[0]
	s.waiting = s.waiting[1:]
	c.end = stillOpen
	return h.add(c), c.Peer, 0
}

// Send implements hostsock.Host.
func (h *Host) Send(fd int, bufs [][]byte) (int, hostsock.Errno) {
	s, err := h.begin(Send, fd, TCP)
	if err != 0 {
		return 0, err
	}
	if err := s.sendError(); err != 0 {
		return 0, err
	}
	data := slices.Concat(bufs[:min(len(bufs), maxPieces)]...)
	asked := len(data)
	if s.MaxSend > 0 {
		data = data[:min(len(data), s.MaxSend)]
	}
	if s.space != Unlimited && len(data) > s.space {
		s.wantSpace = true
		data = data[:s.space]
	}
	if asked > 0 && len(data) == 0 {
		return 0, unix.EAGAIN
	}
	s.record(data, &hostsock.Datagram{})
	return len(data), 0
}

// Recv implements hostsock.Host.
func (h *Host) Recv(fd int, bufs [][]byte) (int, hostsock.Errno) {
	s, err := h.begin(Recv, fd, TCP)
	if err != 0 {
		return 0, err
	}
	if len(bufs) == 0 || len(bufs[0]) == 0 {
		return 0, unix.EINVAL
	}
	if len(s.in) > 0 {
		return s.takeBytes(bufs), 0
	}
	if err := s.takeError(); err != 0 {
		return 0, err
	}
	if s.dead || s.peerEnded {
		return 0, 0
	}
	return 0, unix.EAGAIN
}

// Peek implements hostsock.Host.
func (h *Host) Peek(fd int) (int, hostsock.Errno) {
	s, err := h.begin(Peek, fd, TCP)
	if err != 0 {
		return 0, err
	}
	if len(s.in) > 0 {
		return 1, 0
	}
	if err := s.takeError(); err != 0 {
		return 0, err
	}
	if s.dead || s.peerEnded {
		return 0, 0
	}
	return 0, unix.EAGAIN
}

// takeBytes moves what has arrived into the pieces, at most MaxRecv bytes when that is set, and
// at first only up to urgent data.
func (s *Socket) takeBytes(bufs [][]byte) (n int) {
	left := len(s.in)
	if s.urgent > 1 {
		left = s.urgent - 1
	}
	if s.MaxRecv > 0 {
		left = min(left, s.MaxRecv)
	}
	for _, b := range bufs {
		k := copy(b, s.in[:left])
		s.in, left, n = s.in[k:], left-k, n+k
	}
	s.urgent = max(s.urgent-n, 0)
	return n
}

// ShutdownWrite implements hostsock.Host.
func (h *Host) ShutdownWrite(fd int) hostsock.Errno {
	s, err := h.begin(ShutdownWrite, fd, TCP)
	if err != 0 {
		return err
	}
	if s.dead {
		return unix.ENOTCONN
	}
	s.writeClosed = true
	s.wake()
	return 0
}

// Abort implements hostsock.Host.
func (h *Host) Abort(fd int) { h.end("Abort", fd, aborted) }

// Close implements hostsock.Host.
func (h *Host) Close(fd int) { h.end("Close", fd, closed) }

func (h *Host) end(call string, fd int, how ending) {
	s, err := h.find(call, fd)
	if err != 0 {
		return
	}
	s.end = how
	if w := h.watched[fd]; w != nil {
		delete(h.watched, fd)
		ready := &h.ready
		if w.view != nil {
			ready = &w.view.ready
		}
		*ready = slices.DeleteFunc(*ready, func(r *watched) bool { return r == w })
	}
}

// OpenUDP implements hostsock.Host.
func (h *Host) OpenUDP(from hostsock.Origin, to netip.AddrPort, dual bool) (int, hostsock.Errno) {
	h.calls[OpenUDP]++
	if err := h.fail[OpenUDP].take(); err != 0 {
		return -1, err
	}
	if !from.Addr.IsValid() && !to.IsValid() {
		return -1, unix.EINVAL
	}
	s := newSocket(UDP)
	s.Peer, s.Dual = to, dual
	return h.open(s, from)
}

// SendDatagrams implements hostsock.Host. A socket without enough space for a whole datagram takes no more. What stands for several is
// recorded as these.
func (h *Host) SendDatagrams(fd int, msgs []hostsock.Datagram) (int, hostsock.Errno) {
	s, err := h.begin(SendDatagrams, fd, UDP, Ping)
	if err != 0 {
		return 0, err
	}
	n := 0
	for n < min(len(msgs), hostsock.MaxDatagrams) {
		if err = s.sendDatagram(&msgs[n]); err != 0 {
			break
		}
		n++
	}
	if n > 0 {
		return n, 0 // why there are not more, the next call tells
	}
	return 0, err
}

// sendDatagram sends one message.
func (s *Socket) sendDatagram(d *hostsock.Datagram) hostsock.Errno {
	data := slices.Concat(d.Bufs...)
	step := len(data)
	switch {
	case len(d.Bufs) > maxPieces || len(data) > maxDatagram:
		return unix.EMSGSIZE
	case !d.Peer.IsValid() && !s.Peer.IsValid():
		return unix.EDESTADDRREQ
	case d.Segment > 0 && (s.NoSegments || len(data) > maxSegments*d.Segment):
		return unix.EINVAL
	case d.Segment > 0:
		step = d.Segment
	}
	if err := s.sendError(); err != 0 {
		return err
	}
	if s.tooLong(step, d.V6) {
		return unix.EMSGSIZE
	}
	if s.space != Unlimited && (s.space == 0 || len(data) > s.space) {
		s.wantSpace = true
		return unix.EAGAIN
	}
	for {
		k := min(step, len(data))
		s.record(data[:k], d)
		if data = data[k:]; len(data) == 0 {
			return 0
		}
	}
}

// RecvDatagrams implements hostsock.Host.
func (h *Host) RecvDatagrams(fd int, msgs []hostsock.Datagram) (int, hostsock.Errno) {
	s, err := h.begin(RecvDatagrams, fd, UDP, Ping)
	if err != 0 {
		return 0, err
	}
	if len(msgs) == 0 {
		return 0, unix.EINVAL
	}
	if err := s.takeError(); err != 0 {
		return 0, err
	}
	n := 0
	for n < min(len(msgs), hostsock.MaxDatagrams) && len(s.messages) > 0 {
		m := s.messages[0]
		s.messages = s.messages[1:]
		d := &msgs[n]
		d.Peer, d.Local, d.Segment, d.TOS, d.TTL = m.from, m.to, m.segment, m.tos, m.ttl
		d.Len = len(m.data)
		rest := m.data
		for _, b := range d.Bufs {
			rest = rest[copy(b, rest):]
		}
		n++
	}
	if n == 0 {
		return 0, unix.EAGAIN
	}
	return n, 0
}

// OpenPing implements hostsock.Host.
func (h *Host) OpenPing(id uint16, to netip.Addr) (int, hostsock.Errno) {
	h.calls[OpenPing]++
	if err := h.fail[OpenPing].take(); err != 0 {
		return -1, err
	}
	s := newSocket(Ping)
	s.ID, s.Peer = id, netip.AddrPortFrom(to, 0)
	return h.open(s, hostsock.Origin{})
}

// DontFragment implements hostsock.Host.
func (h *Host) DontFragment(fd int, v6, on bool) hostsock.Errno {
	s, err := h.begin(DontFragment, fd, UDP, Ping)
	if err == 0 {
		s.whole[family(v6)] = on
	}
	return err
}

// QueueErrors implements hostsock.Host.
func (h *Host) QueueErrors(fd int, _, _ bool) hostsock.Errno {
	s, err := h.begin(QueueErrors, fd, UDP, Ping)
	if err == 0 {
		s.queues = true
	}
	return err
}

// RecvError implements hostsock.Host. What is pending otherwise is then what the next of them says, as the kernel has it.
func (h *Host) RecvError(fd int, e *hostsock.SendError) hostsock.Errno {
	s, err := h.begin(RecvError, fd, UDP, Ping)
	if err != 0 {
		return err
	}
	if len(s.errors) == 0 {
		return unix.EAGAIN
	}
	data := e.Data
	*e = s.errors[0]
	s.errors = s.errors[1:]
	e.Data, e.Len = data, copy(data, e.Data)
	switch {
	case len(s.errors) > 0 && s.errors[0].ICMP:
		s.err = s.errors[0].Err
	case e.ICMP:
		s.err = 0
	}
	return 0
}

// OpenGroup implements hostsock.Host. The socket's Local is the group.
func (h *Host) OpenGroup(group netip.AddrPort, _ int) (int, hostsock.Errno) {
	h.calls[OpenGroup]++
	if err := h.fail[OpenGroup].take(); err != 0 {
		return -1, err
	}
	return h.open(newSocket(UDP), hostsock.Origin{Addr: group})
}
