package overloadbench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vasta-net/vasta/bench/pktgen"
	"github.com/vasta-net/vasta/link"
	"github.com/vasta-net/vasta/link/mem"
	"github.com/vasta-net/vasta/link/virtio"
	"github.com/vasta-net/vasta/packet"
	virtionet "github.com/vasta-net/vasta/virtio/net"
	"golang.org/x/sys/unix"
)

// memBed is producers at the guest's end of a link/mem, and a consumer at the network's.
type memBed struct {
	network *virtio.Queue
	guest   *mem.Guest
	woken   []chan struct{} // of the producers
	stopped chan struct{}   // a producer waits for room
	end     context.CancelFunc
	done    sync.WaitGroup
	wakes   atomic.Uint64
}

func newMemBed(s setup) (bed, error) {
	network, guest, err := mem.New(mem.Config{Driver: virtionet.DriverConfig{QueueSize: s.ring}})
	if err != nil {
		return nil, err
	}
	ctx, end := context.WithCancel(context.Background())
	b := &memBed{network: network, guest: guest, stopped: make(chan struct{}, 1), end: end}
	for range s.producers {
		b.woken = append(b.woken, make(chan struct{}, 1))
	}
	b.done.Go(func() { b.wakeProducers(ctx) })
	return b, nil
}

// wakeProducers waits for room in the place of all producers, whenever one has stopped: an end has one bell.
func (b *memBed) wakeProducers(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-b.stopped:
		}
		if b.guest.Wait(ctx) != nil {
			return
		}
		select {
		case <-b.stopped: // another that has stopped meanwhile is woken with the first
		default:
		}
		b.wakes.Add(1)
		for _, c := range b.woken {
			wake(c)
		}
	}
}

func (b *memBed) out(i, _ int) (pktgen.Port, error) {
	return &memProducer{bed: b, woken: b.woken[i]}, nil
}
func (b *memBed) in() (pktgen.Port, error) { return &memConsumer{queue: b.network}, nil }

func (b *memBed) counts() (c counts, err error) {
	guest, network := b.guest.Counters(), b.network.Counters()
	return counts{dropped: guest.Refused, wakes: b.wakes.Load(), calls: guest.Reads + guest.Writes + network.Reads + network.Writes}, nil
}

func (b *memBed) close() error {
	b.end()
	b.done.Wait()
	return errors.Join(b.guest.Close(), b.network.Close())
}

// memProducer is a Port that frames go into the link by.
type memProducer struct {
	bed   *memBed
	woken chan struct{}
	frame link.Out
}

func (p *memProducer) Send(frames [][]byte) (int, error) {
	for i, f := range frames {
		p.frame.Head = f[:headLen]
		p.frame.Payload = append(p.frame.Payload[:0], f[headLen:])
		if !p.bed.guest.Send(&p.frame) {
			return i, nil
		}
	}
	return len(frames), nil
}

// headLen is how much of a frame is its head: Ethernet, IPv4, UDP.
const headLen = packet.EtherLen + packet.IPv4Len + packet.UDPLen

func (p *memProducer) AwaitRoom(limit time.Duration) error {
	wake(p.bed.stopped)
	wait(p.woken, limit)
	return nil
}

func (p *memProducer) Receive(time.Duration) ([][]byte, error) { return nil, pktgen.ErrGone }
func (p *memProducer) Calls() uint64                           { return 0 } // the link counts them
func (p *memProducer) Close() error                            { return nil }

// memConsumer is the Port that frames come out of the link by.
type memConsumer struct {
	queue  *virtio.Queue
	frames [link.MaxBatch]packet.Frame
	whole  [link.MaxBatch][]byte
	joined [link.MaxBatch][]byte // memory for frames of several pieces
	waits  uint64
}

func (c *memConsumer) Receive(limit time.Duration) ([][]byte, error) {
	n, err := c.queue.Receive(c.frames[:])
	if n == 0 && err == nil && limit > 0 {
		t := unix.NsecToTimespec(int64(limit))
		fds := [1]unix.PollFd{{Fd: int32(c.queue.Fd()), Events: unix.POLLIN}}
		c.waits++
		if _, err := unix.Ppoll(fds[:], &t, nil); err != nil && !errors.Is(err, unix.EINTR) {
			return nil, err
		}
		n, err = c.queue.Receive(c.frames[:])
	}
	for i := range c.frames[:n] {
		f := &c.frames[i]
		if len(f.Bufs) == 1 {
			c.whole[i] = f.Bufs[0]
			continue
		}
		c.joined[i] = c.joined[i][:0]
		for _, b := range f.Bufs {
			c.joined[i] = append(c.joined[i], b...)
		}
		c.whole[i] = c.joined[i]
	}
	return c.whole[:n], err
}

func (c *memConsumer) Send([][]byte) (int, error) {
	return 0, fmt.Errorf("the link's consumer sends nothing")
}
func (c *memConsumer) AwaitRoom(time.Duration) error { return nil }
func (c *memConsumer) Calls() uint64                 { return c.waits }
func (c *memConsumer) Close() error                  { return nil }
