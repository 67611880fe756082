package net

import (
	"errors"
	"testing"

	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/pagepool"
	"github.com/vasta-net/vasta/virtio/queue"
	"golang.org/x/sys/unix"
)

// shrinking makes arenas whose memory can be taken away: in files that nobody has sealed, as a virtual machine may have them.
type shrinking struct {
	t     *testing.T
	files []int // the pages', the rings'
}

func (s *shrinking) arena(bytes int) (*pagepool.Arena, error) {
	fd, err := unix.MemfdCreate("shrinking", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	s.files = append(s.files, fd)
	if err := unix.Ftruncate(fd, int64(bytes)); err != nil {
		return nil, err
	}
	mem, err := unix.Mmap(fd, 0, bytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, err
	}
	s.t.Cleanup(func() {
		unix.Close(fd)
		if err := unix.Munmap(mem); err != nil {
			s.t.Error(err)
		}
	})
	return pagepool.NewRegion(mem)
}

// takeAway truncates one of the files: whoever touches its mapping gets SIGBUS.
func (s *shrinking) takeAway(which int) {
	if err := unix.Ftruncate(s.files[which], 0); err != nil {
		s.t.Fatal(err)
	}
}

// TestMemoryShrinks: a driver that takes its memory away from under the device breaks its own queues, for good, and nothing else; of what a device has taken
// before, the reader finds out too (row 44 of the hostile inputs).
func TestMemoryShrinks(t *testing.T) {
	const pages, rings = 0, 1
	for _, format := range []Features{0, RingPacked} {
		for which, name := range map[int]string{pages: "pages", rings: "rings"} {
			for _, taken := range []bool{false, true} {
				if err := shrink(t, format, which, taken); err != nil {
					t.Errorf("%v, %s, a frame taken before %t: %v", format, name, taken, err)
				}
			}
		}
	}
}

// shrink answers what is wrong.
func shrink(t *testing.T, format Features, which int, taken bool) error {
	other := newRig(t, DeviceConfig{}, DriverConfig{Features: common | format})
	s := &shrinking{t: t}
	r := newRig(t, DeviceConfig{}, DriverConfig{Features: common | MrgRxbuf | format, Memory: s.arena, CopyBreak: -1})
	dev, drv := r.device.Pairs()[0], r.driver.Pairs()[0]
	out := []packet.Frame{{Bufs: [][]byte{pattern(1000, 1)}, Len: 1000}}
	for range 2 {
		if !drv.SendCopy(&out[0]) {
			return errors.New("the driver cannot send")
		}
	}
	var frames [1]packet.Frame
	if taken {
		if n, err := dev.Take(frames[:]); n != 1 || err != nil {
			return errors.Join(errors.New("nothing can be taken"), err)
		}
	}
	s.takeAway(which)
	gone := func(what string, err error) error {
		var e *queue.GoneError
		if !errors.As(err, &e) || !errors.Is(err, ErrBroken) || e.Addr < 1<<40 {
			return errors.Join(errors.New(what+" does not tell that the memory is gone"), err)
		}
		return nil
	}
	if taken {
		if err := dev.Guard(func() error {
			frames[0].CopyAt(make([]byte, 1000), 0)
			return nil
		}); which == 0 {
			if err := gone("Guard", err); err != nil {
				return err
			}
		} else if err != nil {
			return err
		}
		_ = dev.Done() // whether it touches what is gone or not
	}
	for range 2 {
		_, err := dev.Take(frames[:])
		if err := gone("Take", err); err != nil {
			return err
		}
		if !dev.Listen() {
			return errors.New("Listen lets the device sleep on an error")
		}
		dev.Awake()
		_, err = dev.Deliver(out)
		if err := gone("Deliver", err); err != nil {
			return err
		}
		if !dev.ListenRoom(1) {
			return errors.New("ListenRoom lets the device sleep on an error")
		}
		dev.AwakeRoom()
	}
	toDriver(t, other, []int{60, 1500})
	toDevice(t, other, []int{60, 1500})
	return nil
}
