package virtiobench

import (
	"context"
	"errors"
	"hash/maphash"
	"time"

	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/pagepool"
	virtionet "github.com/vasta-net/vasta/virtio/net"
)

// integrityMode is a way that frames of every size from 14 bytes to its longest go.
type integrityMode struct {
	name     string
	features virtionet.Features
	longest  int
	toDevice bool
}

var integrityModes = []integrityMode{
	{name: "small", longest: 1518},
	{name: "mergeable", features: mergeable, longest: virtionet.MaxFrame},
	{name: "mergeable, packed", features: mergeable | virtionet.RingPacked, longest: virtionet.MaxFrame},
	{name: "big", features: bigFeatures, longest: virtionet.MaxFrame},
	{name: "big, indirect", features: bigFeatures | virtionet.IndirectDesc, longest: virtionet.MaxFrame},
	{name: "driver to device", features: virtionet.RingPacked, longest: virtionet.MaxFrame, toDevice: true},
}

// integrityRow sends a frame of every size in every mode, and compares number and hash of each with those of what was sent.
func integrityRow() row {
	r := row{name: "integrity", table: tableWhole, title: "every frame size: frames with the right number and hash", unit: "frames", once: true}
	for _, m := range integrityModes {
		r.subjects = append(r.subjects, subject{m.name, m.run})
	}
	return r
}

// whole makes frames by their number, and knows them again by their hash. Each is another cut of the same bytes.
type whole struct {
	seed  maphash.Seed
	bytes []byte
}

func newWhole() *whole {
	w := &whole{seed: maphash.MakeSeed(), bytes: make([]byte, virtionet.MaxFrame+1<<12)}
	x := uint32(1)
	for i := range w.bytes {
		x = x*1664525 + 1013904223
		w.bytes[i] = byte(x >> 24)
	}
	return w
}

// frame is the frame with a number; its size follows from the number too.
func (w *whole) frame(number int) []byte {
	return w.bytes[number*61%(1<<12):][: packet.EtherLen+number : packet.EtherLen+number]
}

// is says whether f is the frame with a number.
func (w *whole) is(f *packet.Frame, number int) bool {
	var h maphash.Hash
	h.SetSeed(w.seed)
	n := 0
	for _, b := range f.Bufs {
		h.Write(b)
		n += len(b)
	}
	b := w.frame(number)
	return n == f.Len && n == len(b) && h.Sum64() == maphash.Bytes(w.seed, b)
}

// run answers how many frames came with the right number and hash.
func (m integrityMode) run(ctx context.Context, _ time.Duration) (Sample, error) {
	b, err := newBed(setup{features: m.features})
	if err != nil {
		return Sample{}, err
	}
	w, all, right, wrong := newWhole(), m.longest-packet.EtherLen+1, 0, 0
	look := func(frames []packet.Frame) {
		for i := range frames {
			if w.is(&frames[i], right+wrong) {
				right++
			} else {
				wrong++
			}
		}
	}
	step := b.wholeToDriver
	if m.toDevice {
		step = b.wholeToDevice
	}
	for sent := 0; err == nil && right+wrong < all; {
		before := right + wrong
		if sent, err = step(w, sent, all, look); err == nil && right+wrong == before {
			err = errors.New("a frame has not come")
		}
		err = errors.Join(err, ctx.Err())
	}
	if err = errors.Join(err, b.close()); err != nil {
		return Sample{}, err
	}
	s := Sample{Value: float64(right), Extra: map[string]float64{"wrong": float64(wrong)}}
	if wrong > 0 {
		s.Note = "frames came out of sequence or with another hash"
	}
	return s, nil
}

// wholeToDriver delivers some of the frames from sent on, looks at what comes out, and answers how far it has got.
func (b *bed) wholeToDriver(w *whole, sent, all int, look func([]packet.Frame)) (int, error) {
	var in [8]packet.Frame
	k := 0
	for ; k < len(in) && sent+k < all; k++ {
		f := w.frame(sent + k)
		in[k] = packet.Frame{Bufs: [][]byte{f}, Len: len(f)}
	}
	n, err := b.device.Pairs()[0].Deliver(in[:k])
	if err != nil {
		return sent, err
	}
	var frames [8]packet.Frame
	for pair := b.driver.Pairs()[0]; ; {
		k, err := pair.Receive(frames[:])
		if k == 0 {
			return sent + n, err
		}
		look(frames[:k])
	}
}

// wholeToDevice is that in the other direction, with frames in two pieces where one does not hold them.
func (b *bed) wholeToDevice(w *whole, sent, all int, look func([]packet.Frame)) (int, error) {
	pair := b.driver.Pairs()[0]
	for end := min(all, sent+8); sent < end; sent++ {
		f := w.frame(sent)
		n := min(len(f), pagepool.PageSize-pair.HdrLen())
		head, ok := pair.Pool.CutPiece(pair.HdrLen()+n, false)
		if !ok {
			return sent, errors.New("the pool is empty")
		}
		copy(pair.Pool.PieceBytes(head)[pair.HdrLen():], f)
		out := virtionet.Out{Head: head}
		if n < len(f) {
			rest, ok := pair.Pool.CutPiece(len(f)-n, false)
			if !ok {
				return sent, errors.New("the pool is empty")
			}
			copy(pair.Pool.PieceBytes(rest), f[n:])
			out.Rest = []pagepool.Piece{rest}
		}
		if k, err := pair.Send([]virtionet.Out{out}); k == 0 {
			return sent, errors.Join(err, errors.New("the ring is full"))
		}
	}
	var frames [8]packet.Frame
	for device := b.device.Pairs()[0]; ; {
		k, err := device.Take(frames[:])
		if k == 0 {
			return sent, err
		}
		look(frames[:k])
		if err := device.Done(); err != nil {
			return sent, err
		}
	}
}
