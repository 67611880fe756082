package vhostnet_test

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/vasta-net/vasta/link"
	"github.com/vasta-net/vasta/link/linktest"
	"github.com/vasta-net/vasta/link/vhostnet"
	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/vhost/kernel"
	"github.com/vasta-net/vasta/vhost/kernel/kerneltest"
	"golang.org/x/sys/unix"
)

var offloads = link.Features{Csum: true, TSO4: true, TSO6: true, USO: true}

// rig is a queue over a vhost-net in memory, whose TAP is a socket that nobody reads.
type rig struct {
	*kerneltest.Twin
	q   *vhostnet.Queue
	end int // of the TAP
	log *logged
}

// logged is a log.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newRig(t *testing.T, c vhostnet.Config) *rig {
	t.Helper()
	r := &rig{Twin: kerneltest.New(), end: -1, log: &logged{}}
	if c.TAP == 0 {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		c.TAP, r.end = fds[0], fds[1]
		t.Cleanup(r.Leave)
	}
	c.Device, c.Offloads, c.Log = r.Twin, offloads, slog.New(slog.NewTextHandler(r.log, nil))
	var err error
	if r.q, err = vhostnet.New(c); err != nil {
		t.Fatal(err)
	}
	return r
}

// Take implements linktest.Peer.
func (r *rig) Take() (linktest.Frame, bool) {
	hdr, data, _, ok := r.Twin.Take()
	return linktest.Frame{Hdr: hdr, Data: data}, ok
}

// Leave implements linktest.Peer.
func (r *rig) Leave() {
	if r.end >= 0 {
		unix.Close(r.end)
		r.end = -1
	}
}

func TestConform(t *testing.T) {
	for name, tuning := range map[string]vhostnet.Tuning{
		"usual": {}, "a small ring": {Receive: 128, Transmit: 4, Buffer: 4096}, "long buffers": {Receive: 128, Buffer: 60 << 10},
	} {
		t.Run(name, func(t *testing.T) {
			linktest.Conform(t, linktest.Kind{MaxFrame: packet.EtherLen + 65535, Join: func(t *testing.T) (link.Queue, linktest.Peer) {
				r := newRig(t, vhostnet.Config{Tuning: tuning})
				return r.q, r
			}})
		})
	}
}

// TestBuffersLent: frames that hold most of a small ring's buffers do not keep the next ones waiting for ever.
func TestBuffersLent(t *testing.T) {
	r := newRig(t, vhostnet.Config{Tuning: vhostnet.Tuning{Receive: 32, Buffer: 4096}})
	defer r.q.Close()
	want := bytes.Repeat([]byte{5}, 60_000)
	for range 20 {
		r.Give(packet.NetHdr{}, want)
	}
	for n := 0; n < 20; {
		for _, b := range r.receive(t) {
			if n++; !bytes.Equal(b, want) {
				t.Fatalf("frame %d is another one", n)
			}
		}
	}
}

// wait waits until the queue's descriptor is readable.
func (r *rig) wait(t *testing.T) {
	t.Helper()
	if !r.q.Sleep() {
		return
	}
	fds := []unix.PollFd{{Fd: int32(r.q.Fd()), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, 10_000)
		if n == 1 {
			return
		}
		if !errors.Is(err, unix.EINTR) {
			t.Fatalf("nothing was heard of the queue: %d, %v", n, err)
		}
	}
}

// receive waits for frames.
func (r *rig) receive(t *testing.T) [][]byte {
	t.Helper()
	var frames [8]packet.Frame
	for {
		n, err := r.q.Receive(frames[:])
		if err != nil {
			t.Fatal(err)
		}
		if n > 0 {
			var all [][]byte
			for _, f := range frames[:n] {
				all = append(all, bytes.Join(f.Bufs, nil))
			}
			return all
		}
		r.wait(t)
	}
}

// exchange has a frame go both ways between a real TAP's other end and the queue, three times.
func (r *rig) exchange(t *testing.T, guest guest, want []byte) {
	t.Helper()
	for range 3 {
		guest.send(t, want)
		if got := r.receive(t); !bytes.Equal(got[0], want) {
			t.Fatalf("%d bytes came from the guest, or others", len(got[0]))
		}
		if !r.q.Send(&link.Out{Head: want[:60], Payload: [][]byte{want[60:]}}) {
			t.Fatal("full")
		}
		r.q.Flush()
		if got := guest.receive(t); !bytes.Equal(got, want) {
			t.Fatalf("%d bytes came to the guest, or others", len(got))
		}
	}
}

// works says whether frames pass in both directions.
func (r *rig) works(t *testing.T) {
	t.Helper()
	want := bytes.Repeat([]byte{7}, 3000)
	r.Give(packet.NetHdr{}, want)
	if got := r.receive(t); len(got) != 1 || !bytes.Equal(got[0], want) {
		t.Fatalf("%d frames, or others than the one that was given", len(got))
	}
	if !r.q.Send(&link.Out{Head: want[:60], Payload: [][]byte{want[60:]}}) {
		t.Fatal("full")
	}
	r.q.Flush()
	for {
		f, ok := r.Take()
		if !ok {
			t.Fatal("a frame that was sent has not come")
		}
		if bytes.Equal(f.Data, want) {
			return
		}
	}
}

// TestBrokenRings: whichever ring breaks, and however, the rings are made anew, it is counted and logged, and frames pass.
func TestBrokenRings(t *testing.T) {
	for name, spoil := range map[string]func(r *rig){
		"the kernel gives the receive ring up":  func(r *rig) { r.Break(kernel.RX) },
		"the kernel gives the transmit ring up": func(r *rig) { r.Break(kernel.TX) },
		"nonsense in the receive ring":          func(r *rig) { r.Corrupt(kernel.RX) },
		"nonsense in the transmit ring": func(r *rig) {
			r.Corrupt(kernel.TX)
			r.q.Send(&link.Out{Head: make([]byte, 60)}) // nobody looks at the used index of a ring that is not used
			r.q.Flush()
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, vhostnet.Config{Tuning: vhostnet.Tuning{Transmit: 2}})
			defer r.q.Close()
			r.works(t)
			spoil(r)
			var frames [8]packet.Frame
			for r.q.Counters().Rebuilds == 0 {
				r.wait(t)
				if n, err := r.q.Receive(frames[:]); n != 0 || err != nil {
					t.Fatalf("Receive: %d, %v", n, err)
				}
				r.q.Send(&link.Out{Head: make([]byte, 60)})
				r.q.Flush()
			}
			r.works(t)
			if c := r.q.Counters(); c.Rebuilds != 1 || r.q.Direct() {
				t.Errorf("%d rebuilds, and without rings: %t", c.Rebuilds, r.q.Direct())
			}
			if text := r.log.String(); strings.Count(text, "level=WARN") != 1 || strings.Contains(text, "level=ERROR") {
				t.Errorf("log:\n%s", text)
			}
		})
	}
}

// TestEndWithoutTAP: when the rings are broken for good and the TAP is none, the link ends; the process does not.
func TestEndWithoutTAP(t *testing.T) {
	r := newRig(t, vhostnet.Config{})
	r.Fail("SetMemTable", unix.EFAULT, 1000)
	r.Break(kernel.RX)
	r.wait(t)
	var frames [8]packet.Frame
	if n, err := r.q.Receive(frames[:]); n != 0 || !errors.Is(err, link.ErrGone) {
		t.Errorf("Receive: %d, %v", n, err)
	}
	if !r.q.Send(&link.Out{Head: make([]byte, 60)}) {
		t.Error("a frame to nobody may be sent again")
	}
	if err := r.q.Close(); err != nil {
		t.Error(err)
	}
}

// TestRefusals: whatever the kernel refuses at first is an error, and nothing stays open but the TAP.
func TestRefusals(t *testing.T) {
	for _, method := range []string{"SetOwner", "Features", "SetFeatures", "SetMemTable", "SetVringNum", "SetVringAddr", "SetBackend"} {
		t.Run(method, func(t *testing.T) {
			before := descriptors(t)
			fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			twin := kerneltest.New()
			twin.Fail(method, unix.EPERM, 1)
			if _, err := vhostnet.New(vhostnet.Config{TAP: fds[0], Device: twin, Offloads: offloads}); !errors.Is(err, unix.EPERM) {
				t.Errorf("New: %v", err)
			}
			if calls := twin.Called(); calls[len(calls)-1] != "Close" {
				t.Errorf("the device is not closed: %q", calls)
			}
			for _, fd := range fds {
				if err := unix.Close(fd); err != nil {
					t.Errorf("the TAP is closed: %v", err)
				}
			}
			if after := descriptors(t); after != before {
				t.Errorf("%d descriptors, before %d", after, before)
			}
		})
	}
}
