package virtiobench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vasta-net/vasta"
	"github.com/vasta-net/vasta/link"
	"github.com/vasta-net/vasta/link/mem"
	"github.com/vasta-net/vasta/netns"
	"github.com/vasta-net/vasta/pagepool"
	virtionet "github.com/vasta-net/vasta/virtio/net"
)

// TCP over link/mem is measured between two networks of the main program, back to back: each is the other's guest. Gateway, flows and workers are what they are with any
// other guest. The near one has the driver's ends of the links and receives; the far one has the device's ends and sends.

// flowSetup is what TCP goes through.
type flowSetup struct {
	features virtionet.Features // of rings and receive buffers
	offloads link.Features
	queues   int // links, workers at each end, and streams
	general  bool
}

// Addresses of the two ends.
var (
	nearMAC, farMAC = netns.MAC{2, 0, 0, 0, 0, 1}, netns.MAC{2, 0, 0, 0, 0, 2}
	nearAddr        = netip.MustParsePrefix("192.0.2.1/24")
	farAddr         = netip.MustParsePrefix("192.0.2.2/24")
)

// generalBytes is the general arena of a link: twice the pool that it has otherwise.
const generalBytes = 16 << 20

// flowBlock is what a sender writes at a time: its number, and bytes.
const flowBlock = 64 << 10

// flowRows are TCP through the flows, with the pool and without.
func flowRows() (list []row) {
	for _, m := range []struct {
		name, title string
		features    virtionet.Features
		offloads    link.Features
	}{
		{"small", "small buffers, no segmentation offload", virtionet.EventIdx | virtionet.IndirectDesc, link.Features{Csum: true}},
		{"mergeable", "mergeable buffers, all offloads", virtionet.EventIdx | virtionet.IndirectDesc | virtionet.MrgRxbuf, mem.Offloads},
	} {
		for _, queues := range []int{1, 8} {
			r := row{name: fmt.Sprintf("tcp-%s-%d", m.name, queues), table: tableS0, unit: "Gbit/s"}
			r.title = fmt.Sprintf("TCP through the flows, MTU 1500, %s, queues and streams: %d", m.title, queues)
			for _, general := range []bool{false, true} {
				s := flowSetup{features: m.features, offloads: m.offloads, queues: queues, general: general}
				name := "pool"
				if general {
					name = "general arena"
				}
				r.subjects = append(r.subjects, subject{name, func(ctx context.Context, d time.Duration) (Sample, error) { return tcpFlows(ctx, s, d) }})
			}
			list = append(list, r)
		}
	}
	return list
}

// flowBed is the two networks and what they are made of.
type flowBed struct {
	near, far *vasta.Network
	running   sync.WaitGroup
	errs      [2]error

	bytes, wrong atomic.Uint64
}

// tcpFlows measures how much comes out of the near network's connections.
func tcpFlows(ctx context.Context, s flowSetup, d time.Duration) (sample Sample, err error) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2*s.queues + 2)) // workers make system calls that Go's scheduler is not told of
	b := &flowBed{}
	if err := b.open(s); err != nil {
		return Sample{}, errors.Join(err, b.close())
	}
	ctx, cancel := context.WithCancel(ctx)
	for i, n := range []*vasta.Network{b.near, b.far} {
		b.running.Go(func() { b.errs[i] = n.Run(ctx) })
	}
	perSecond, err := b.measure(ctx, s.queues, d)
	var stats vasta.Stats
	if err == nil {
		stats, err = b.far.Stats(ctx)
	}
	cancel()
	b.running.Wait()
	if err = errors.Join(err, b.errs[0], b.errs[1], b.close(), moved(perSecond)); err != nil {
		return Sample{}, err
	}
	sample = Sample{Value: perSecond * 8 / 1e9, Extra: map[string]float64{
		"retransmits": float64(stats.Total.TCPRetransmits), "wrong": float64(b.wrong.Load()), "frames": float64(stats.Total.TxFrames),
	}}
	if b.wrong.Load() > 0 {
		sample.Note = fmt.Sprintf("%d blocks were out of sequence", b.wrong.Load())
	}
	return sample, nil
}

// open makes the links and the networks.
func (b *flowBed) open(s flowSetup) (err error) {
	var near, far []link.Queue
	for range s.queues {
		c := mem.Config{Offloads: s.offloads, Driver: virtionet.DriverConfig{Features: s.features}}
		if s.general {
			arena, err := pagepool.NewRegion(make([]byte, generalBytes))
			if err != nil {
				return errors.Join(err, closeAll(near), closeAll(far))
			}
			general := newGeneral(arena)
			c.Driver.Arena, c.Driver.Buffers = arena, func(int) virtionet.Buffers { return general }
		}
		n, g, err := mem.New(c)
		if err != nil {
			return errors.Join(err, closeAll(near), closeAll(far))
		}
		near, far = append(near, n), append(far, g)
	}
	config := func(guest netip.Prefix, guestMAC netns.MAC, gateway netip.Addr, gatewayMAC netns.MAC) vasta.Config {
		return vasta.Config{
			Guest: vasta.Guest{NoIPv6: true, MTU: 1500, Address4: guest, Gateway: vasta.AddrPair{V4: gateway}, MAC: guestMAC, GatewayMAC: gatewayMAC},
			Host:  vasta.Host{Fixed: true},
		}
	}
	b.near, err = vasta.New(config(farAddr, farMAC, nearAddr.Addr(), nearMAC), vasta.Queues(near...))
	if err != nil {
		return errors.Join(err, closeAll(far))
	}
	b.far, err = vasta.New(config(nearAddr, nearMAC, farAddr.Addr(), farMAC), vasta.Queues(far...))
	return err
}

func closeAll(queues []link.Queue) (err error) {
	for _, q := range queues {
		err = errors.Join(err, q.Close())
	}
	return err
}

// close gives everything back.
func (b *flowBed) close() (err error) {
	for _, n := range []*vasta.Network{b.near, b.far} {
		if n != nil {
			err = errors.Join(err, n.Close())
		}
	}
	return err
}

// measure has the far network send to the near one, and answers the bytes per second that come out.
func (b *flowBed) measure(ctx context.Context, streams int, d time.Duration) (perSecond float64, err error) {
	l, err := b.far.Listen("tcp", ":80")
	if err != nil {
		return 0, err
	}
	var all sync.WaitGroup
	defer all.Wait()
	defer l.Close()
	var open []net.Conn
	defer func() {
		for _, c := range open {
			c.Close()
		}
	}()
	for range streams {
		in, err := b.near.Dial(ctx, "tcp", ":80")
		if err != nil {
			return 0, err
		}
		open = append(open, in)
		out, err := l.Accept()
		if err != nil {
			return 0, err
		}
		open = append(open, out)
		all.Go(func() { writeBlocks(out) })
		all.Go(func() { b.readBlocks(in) })
	}
	wait := func(d time.Duration) {
		select {
		case <-time.After(d):
		case <-ctx.Done():
		}
	}
	wait(warmUp)
	from, began := b.bytes.Load(), time.Now()
	wait(d)
	for deadline := time.Now().Add(patience); b.bytes.Load() == from && time.Now().Before(deadline) && ctx.Err() == nil; {
		wait(d)
	}
	return float64(b.bytes.Load()-from) / time.Since(began).Seconds(), nil
}

// writeBlocks sends numbered blocks until the connection is closed.
func writeBlocks(c net.Conn) {
	block := make([]byte, flowBlock)
	for n := uint64(0); ; n++ {
		binary.LittleEndian.PutUint64(block, n)
		if _, err := c.Write(block); err != nil {
			return
		}
	}
}

// readBlocks reads them and looks at their numbers.
func (b *flowBed) readBlocks(c net.Conn) {
	block := make([]byte, flowBlock)
	for n := uint64(0); ; n++ {
		if _, err := io.ReadFull(c, block); err != nil {
			return
		}
		if binary.LittleEndian.Uint64(block) != n {
			b.wrong.Add(1)
		}
		b.bytes.Add(flowBlock)
	}
}
