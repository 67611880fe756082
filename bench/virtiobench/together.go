package virtiobench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/vasta-net/vasta/packet"
	virtionet "github.com/vasta-net/vasta/virtio/net"
)

// together measures queues that are generator and sink in one thread each, on a processor each: how much more several of them move than one.
func together(ctx context.Context, queues int, d time.Duration) (Sample, error) {
	cpus, err := processors()
	if err != nil {
		return Sample{}, err
	}
	if len(cpus) < queues {
		return Sample{}, fmt.Errorf("%d processors are needed", queues)
	}
	s := setup{frame: 64}
	beds := make([]*bed, queues)
	for i := range beds {
		if beds[i], err = newBed(s); err != nil {
			return Sample{}, err
		}
	}
	rates, errs := make([]float64, queues), make([]error, queues)
	var all sync.WaitGroup
	for i, b := range beds {
		all.Go(func() {
			if errs[i] = pin(cpus[i]); errs[i] != nil {
				return
			}
			send, take := b.sender(s), b.taker(s)
			b.busy, errs[i] = occupied(func() error {
				return loop(&b.stop, func() error { return errors.Join(send(), take()) })
			})
			errs[i] = errors.Join(errs[i], send()) // which gives back what it could not send
		})
		all.Go(func() { rates[i] = b.watch(ctx, d) })
	}
	all.Wait()
	sum := Sample{Extra: map[string]float64{}}
	for i, b := range beds {
		errs[i] = errors.Join(errs[i], b.close())
		one := b.sample(rates[i], s.frame)
		sum.Value += one.Value
		if one.Note != "" {
			sum.Note = one.Note
		}
	}
	return sum, errors.Join(errs...)
}

// holding counts the packets that a ring of 256 descriptors has buffers for.
func holding(f virtionet.Features) (Sample, error) {
	b, err := newBed(setup{features: f, ring: 256})
	if err != nil {
		return Sample{}, err
	}
	frame := make([]byte, 1500)
	one := []packet.Frame{{Bufs: [][]byte{frame}, Len: len(frame)}}
	n := 0
	for ; ; n++ {
		k, err := b.device.Pairs()[0].Deliver(one)
		if err != nil {
			return Sample{}, err
		}
		if k == 0 {
			break
		}
	}
	return Sample{Value: float64(n)}, b.close()
}
