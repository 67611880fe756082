package load

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// pingInterval is the time between two echo requests, whether the first is answered or not: a prober that waits for
	// answers would ask seldom just when the answers are late.
	pingInterval = 2 * time.Millisecond
	// pingGrace is how long an answer is waited for after the last request. A request without one counts as if it
	// had been answered after so long.
	pingGrace = time.Second
	maxPings  = 1 << 16 // sequence numbers have 16 bits

	icmpEchoReply, icmpEcho = 0, 8 // RFC 792
)

// Ping sends ICMP echo requests for about d, one each 2 ms, and tells how long the answers took. It needs the right to
// open raw sockets in its network namespace.
func Ping(target netip.Addr, d time.Duration) (Latency, error) {
	p := prober{
		id:   uint16(os.Getpid()),
		sent: make([]atomic.Int64, min(maxPings, int(d/pingInterval))),
		took: make([]time.Duration, min(maxPings, int(d/pingInterval))),
	}
	var err error
	if p.fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP); err != nil {
		return Latency{}, fmt.Errorf("ping: socket: %w", err)
	}
	defer unix.Close(p.fd)
	tv := unix.NsecToTimeval(int64(10 * time.Millisecond))
	if err := unix.SetsockoptTimeval(p.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		return Latency{}, fmt.Errorf("ping: timeout: %w", err)
	}
	if err := unix.Connect(p.fd, sockaddr(target, 0)); err != nil {
		return Latency{}, fmt.Errorf("ping %v: connect: %w", target, err)
	}
	p.start = time.Now()
	var wg sync.WaitGroup
	var sendErr, receiveErr error
	wg.Go(func() { sendErr = p.send() })
	wg.Go(func() { receiveErr = p.receive() })
	wg.Wait()
	if err := errors.Join(sendErr, receiveErr); err != nil {
		return Latency{}, fmt.Errorf("ping %v: %w", target, err)
	}
	return p.latency()
}

// prober is one run of Ping: a thread that asks and one that listens.
type prober struct {
	fd    int
	id    uint16
	start time.Time
	sent  []atomic.Int64  // when each request was sent, since start; 0 for not yet
	took  []time.Duration // 0 for no answer; the listener's
}

func (p *prober) send() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	msg := make([]byte, 56)
	msg[0] = icmpEcho
	binary.BigEndian.PutUint16(msg[4:], p.id)
	for i := range p.sent {
		// Not time.Sleep: the runtime's timers may be late by the time that another goroutine takes.
		if wait := time.Duration(i)*pingInterval - time.Since(p.start); wait > 0 {
			ts := unix.NsecToTimespec(int64(wait))
			_ = unix.Nanosleep(&ts, nil) // a signal ends it early, which does no harm
		}
		binary.BigEndian.PutUint16(msg[6:], uint16(i))
		msg[2], msg[3] = 0, 0
		binary.BigEndian.PutUint16(msg[2:], internetChecksum(msg))
		p.sent[i].Store(int64(time.Since(p.start)) | 1)
		_, err := unix.Write(p.fd, msg)
		if err != nil && !linkDown(err) {
			return fmt.Errorf("send: %w", err) // what a link that is down refuses are lost requests
		}
	}
	return nil
}

func (p *prober) receive() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	buf := make([]byte, 2048)
	end := p.start.Add(time.Duration(len(p.sent))*pingInterval + pingGrace)
	for answered := 0; answered < len(p.sent) && time.Now().Before(end); {
		n, err := unix.Read(p.fd, buf)
		now := time.Since(p.start)
		switch {
		case errors.Is(err, unix.EAGAIN) || err != nil && linkDown(err):
			continue
		case err != nil:
			return fmt.Errorf("receive: %w", err)
		}
		seq, ok := p.parse(buf[:n])
		if !ok || p.took[seq] != 0 {
			continue
		}
		p.took[seq] = now - time.Duration(p.sent[seq].Load())
		answered++
	}
	return nil
}

// parse gives the sequence number of an answer to one of ours. b begins with the IPv4 header.
func (p *prober) parse(b []byte) (seq int, ok bool) {
	if len(b) < 20 || len(b) < int(b[0]&15)*4+8 {
		return 0, false
	}
	icmp := b[int(b[0]&15)*4:]
	seq = int(binary.BigEndian.Uint16(icmp[6:]))
	return seq, icmp[0] == icmpEchoReply && binary.BigEndian.Uint16(icmp[4:]) == p.id && seq < len(p.sent) && p.sent[seq].Load() != 0
}

func (p *prober) latency() (Latency, error) {
	samples := make([]time.Duration, len(p.took))
	lost := 0
	for i, t := range p.took {
		if t == 0 {
			lost++
			t = pingGrace
		}
		samples[i] = t
	}
	if lost == len(samples) {
		return Latency{}, errors.New("ping: no request was answered")
	}
	l, err := summarise(samples, lost, time.Duration(len(samples))*pingInterval)
	l.Exchanges -= lost
	return l, err
}

// internetChecksum is that of RFC 1071, over an even number of bytes.
func internetChecksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
