package load

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"
)

const (
	// PortDNS is where a Resolver answers.
	PortDNS = 53
	// resolveGrace is how long an answer is waited for after the last query.
	resolveGrace = 4 * time.Second
	// maxQueries is how many identifiers there are: each query has its own.
	maxQueries = 1 << 16
)

// Resolved is what became of a number of queries.
type Resolved struct {
	Queries  int
	Answered int // rightly
	Lost     int
	Wrong    int // answers with an error, or to something else
	P50, P99 time.Duration
	// Gap is the longest time without an answer: from the first query on, between two answers, or after the last as long as queries were sent.
	Gap     time.Duration
	Example string // says of a wrong answer what was wrong with it
}

// Resolve asks the resolver, at port 53, perSecond questions a second for d, and waits for the answers. No question is asked twice.
func Resolve(resolver netip.Addr, perSecond int, d time.Duration) (Resolved, error) {
	count := int(float64(perSecond) * d.Seconds())
	if count < 1 || count > maxQueries {
		return Resolved{}, fmt.Errorf("%d queries are not 1 to %d", count, maxQueries)
	}
	fd, err := socket(unix.SOCK_DGRAM, sinkPoll)
	if err != nil {
		return Resolved{}, err
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, sinkBuffer); err != nil {
		return Resolved{}, err
	}
	if err := unix.Connect(fd, sockaddr(resolver, PortDNS)); err != nil {
		return Resolved{}, fmt.Errorf("resolver %v: connect: %w", resolver, err)
	}
	r := resolving{fd: fd, sent: make([]atomic.Int64, count), took: make([]time.Duration, count)}
	var wg sync.WaitGroup
	var sendErr, receiveErr error
	wg.Go(func() { sendErr = r.send(float64(perSecond)) })
	wg.Go(func() { receiveErr = r.receive() })
	wg.Wait()
	if err := errors.Join(sendErr, receiveErr); err != nil {
		return Resolved{}, fmt.Errorf("resolver %v: %w", resolver, err)
	}
	return r.sum(), nil
}

// resolving is one run of Resolve: a thread that asks and one that listens.
type resolving struct {
	fd   int
	sent []atomic.Int64  // when each was sent, on the monotonic clock; 0 for not yet
	over atomic.Int64    // when the last was sent; 0 for not yet
	took []time.Duration // 0 for no answer; this and what follows is the listener's
	out  Resolved
}

func (r *resolving) send(perSecond float64) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer func() { r.over.Store(int64(monotonic())) }()
	p := pace{perSecond: perSecond, whole: true}
	start := monotonic()
	var msg []byte
	for i := 0; i < len(r.sent); {
		n, wait := p.due(monotonic()-start, i)
		if wait > 0 {
			ts := unix.NsecToTimespec(int64(wait))
			_ = unix.Nanosleep(&ts, nil) // a signal ends it early, which does no harm
			continue
		}
		for range min(n, len(r.sent)-i) {
			msg = appendQuery(msg[:0], uint16(i))
			r.sent[i].Store(int64(monotonic()))
			if _, err := retry(func() (int, error) { return unix.Write(r.fd, msg) }); err != nil {
				return fmt.Errorf("send: %w", err)
			}
			i++
		}
	}
	return nil
}

func (r *resolving) receive() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	buf := make([]byte, 2048)
	last := monotonic()
	for answered := 0; answered < len(r.sent); {
		n, err := unix.Read(r.fd, buf)
		now := monotonic()
		over := time.Duration(r.over.Load())
		switch {
		case errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR):
			if over != 0 && now-over > resolveGrace {
				r.out.Gap = max(r.out.Gap, over-last)
				return nil
			}
			continue
		case err != nil:
			return fmt.Errorf("receive: %w", err)
		}
		id, err := parseAnswer(buf[:n])
		switch {
		case err == nil && (id >= len(r.sent) || r.sent[id].Load() == 0):
			err = fmt.Errorf("an answer to query %d, which was not asked", id)
		case err == nil && r.took[id] != 0:
			err = fmt.Errorf("a second answer to query %d", id)
		}
		if err != nil {
			r.out.Wrong++
			r.out.Example = err.Error()
			continue
		}
		r.took[id] = now - time.Duration(r.sent[id].Load())
		r.out.Gap = max(r.out.Gap, now-last)
		last = now
		answered++
	}
	return nil
}

func (r *resolving) sum() Resolved {
	out := r.out
	out.Queries = len(r.sent)
	times := slices.DeleteFunc(r.took, func(d time.Duration) bool { return d == 0 })
	out.Answered = len(times)
	out.Lost = out.Queries - out.Answered
	if out.Answered > 0 {
		slices.Sort(times)
		out.P50, out.P99 = times[len(times)/2], times[len(times)*99/100]
	}
	return out
}

// appendQuery appends the query with an identifier: for the address of a name that begins with it.
func appendQuery(b []byte, id uint16) []byte {
	b = append(b, byte(id>>8), byte(id), 1, 0, 0, 1, 0, 0, 0, 0, 0, 0) // RD; one question (RFC 1035, 4.1.1)
	b = append(b, 6)
	b = fmt.Appendf(b, "q%05d", id)
	return append(b, "\x05bench\x04test\x00\x00\x01\x00\x01"...) // A, IN
}

// answerTo is the address that the name in the query with an identifier has.
func answerTo(id uint16) [4]byte { return [4]byte{10, 1, byte(id >> 8), byte(id)} }

// nameNumber is the number in a name as appendQuery makes them.
func nameNumber(n dnsmessage.Name) (number uint16, ok bool) {
	_, err := fmt.Sscanf(n.String(), "q%05d.bench.test.", &number)
	return number, err == nil
}

// parseAnswer checks an answer and returns its identifier.
func parseAnswer(msg []byte) (id int, err error) {
	var m dnsmessage.Message
	if err := m.Unpack(msg); err != nil {
		return 0, err
	}
	if !m.Response || m.RCode != dnsmessage.RCodeSuccess || len(m.Questions) != 1 || len(m.Answers) != 1 {
		return 0, fmt.Errorf("query %d: response %t, %v, %d answers", m.ID, m.Response, m.RCode, len(m.Answers))
	}
	number, ok := nameNumber(m.Questions[0].Name)
	a, isA := m.Answers[0].Body.(*dnsmessage.AResource)
	if !ok || number != m.ID || !isA || a.A != answerTo(m.ID) {
		return 0, fmt.Errorf("query %d: an answer about %v", m.ID, m.Questions[0].Name)
	}
	return int(m.ID), nil
}

// Resolver answers the questions of [Resolve].
type Resolver struct {
	fd     int
	closed atomic.Bool
	done   chan struct{}
}

// ListenResolver starts a resolver at an address; a silent one takes questions and does not answer. The caller closes it.
func ListenResolver(at netip.AddrPort, silent bool) (*Resolver, error) {
	domain, to := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: int(at.Port()), Addr: at.Addr().As16()})
	if at.Addr().Is4() {
		domain, to = unix.AF_INET, sockaddr(at.Addr(), at.Port())
	}
	fd, err := unix.Socket(domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	tv := unix.NsecToTimeval(sinkPoll.Nanoseconds())
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, sinkBuffer),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv),
		unix.Bind(fd, to))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("resolver at %v: %w", at, err), unix.Close(fd))
	}
	s := &Resolver{fd: fd, done: make(chan struct{})}
	go s.run(silent)
	return s, nil
}

// Close stops the resolver and waits for its thread.
func (s *Resolver) Close() error {
	s.closed.Store(true)
	<-s.done
	return unix.Close(s.fd)
}

func (s *Resolver) run(silent bool) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(s.done)
	buf := make([]byte, 512)
	for !s.closed.Load() {
		n, from, err := unix.Recvfrom(s.fd, buf, 0)
		if err != nil || silent {
			continue // a timeout, a signal, or the ICMP error to an answer
		}
		if answer, ok := answerQuery(buf[:n]); ok {
			_ = unix.Sendto(s.fd, answer, 0, from) // a lost answer is the client's to count
		}
	}
}

// answerQuery answers a query as appendQuery makes them, whatever its identifier is now: a forwarder has its own.
func answerQuery(msg []byte) (answer []byte, ok bool) {
	var p dnsmessage.Parser
	if _, err := p.Start(msg); err != nil {
		return nil, false
	}
	question, err := p.Question()
	if err != nil {
		return nil, false
	}
	number, ok := nameNumber(question.Name)
	if !ok {
		return nil, false
	}
	answer = append(answer, msg...)
	answer[2] |= 0x80 // QR
	binary.BigEndian.PutUint16(answer[6:], 1)
	// The name by its place in the message (RFC 1035, 4.1.4), A, IN, 60 s, 4 bytes.
	answer = append(answer, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4)
	a := answerTo(number)
	return append(answer, a[:]...), true
}
