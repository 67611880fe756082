package pktgen

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/vasta-net/vasta/bench/internal/command"
)

var addresses = Addresses{Src: netip.MustParseAddr("198.18.0.1"), Dst: netip.MustParseAddr("198.18.0.42"), Port: 9}

func frame(size int, flow uint16, number uint32) []byte {
	f := make([]byte, size)
	addresses.build(f)
	stamp(f, flow, number, now())
	return f
}

// TestDamage: a frame that was changed anywhere behind its headers is damaged, or not one of ours any more.
func TestDamage(t *testing.T) {
	for _, size := range []int{MinSize, 61, 1514, MaxSize} {
		f := frame(size, 7, 1<<31+5)
		if m, k := Read(f); k != Whole || m.Flow != 7 || m.Number != 1<<31+5 {
			t.Fatalf("size %d: %v, %+v", size, k, m)
		}
		for i := headLen; i < len(f); i += 1 + len(f)/200 {
			f[i] ^= 0x10
			if _, k := Read(f); k == Whole {
				t.Errorf("size %d: byte %d was changed, and it is whole", size, i)
			}
			f[i] ^= 0x10
		}
		if _, k := Read(f[:len(f)-1]); k == Whole {
			t.Errorf("size %d: a frame without its end is whole", size)
		}
		if _, k := Read(append(f, 0, 0, 0, 0)); k != Whole {
			t.Errorf("size %d: padding behind it, and it is not whole", size)
		}
	}
}

// FuzzRead: no bytes are worse than foreign.
func FuzzRead(f *testing.F) {
	f.Add(frame(MinSize, 1, 2))
	f.Add(frame(100, 1, 2)[:70])
	f.Fuzz(func(t *testing.T, b []byte) {
		NewLedger().Add(b, 0)
	})
}

// TestLedger: whatever order numbers come in, and however often, each is accounted for once.
func TestLedger(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		first := rapid.SampledFrom([]uint32{0, 1<<32 - 30}).Draw(t, "first") // the lower half wraps
		l := NewLedger()
		if first > 0 { // as if those before had come
			l.flows[0] = &flowLedger{next: uint64(first)}
		}
		numbers := rapid.SliceOfN(rapid.Uint64Range(0, 60), 0, 80).Draw(t, "numbers")
		var want Ledger
		var came []uint64
		next := uint64(0)
		for _, n := range numbers {
			l.Add(frame(MinSize, 0, first+uint32(n)), now())
			switch {
			case slices.Contains(came, n):
				want.Duplicated++
			case n >= next:
				want.Missing += n - next
				next = n + 1
			default:
				want.Reordered++
				want.Missing--
			}
			came = append(came, n)
		}
		if l.Received != uint64(len(numbers)) || l.Missing != want.Missing || l.Reordered != want.Reordered || l.Duplicated != want.Duplicated {
			t.Fatalf("received %d, missing %d, reordered %d, duplicated %d; want %d, %d, %d, %d", l.Received, l.Missing, l.Reordered, l.Duplicated,
				len(numbers), want.Missing, want.Reordered, want.Duplicated)
		}
	})
}

// memory is a port that takes so many frames, and has room again when it is waited for.
type memory struct {
	room, left int
	ledger     *Ledger
	most       int // frames that were given at once
}

func (m *memory) Send(frames [][]byte) (int, error) {
	m.most = max(m.most, len(frames))
	n := min(m.left, len(frames))
	for _, f := range frames[:n] {
		m.ledger.Add(f, now())
	}
	m.left -= n
	return n, nil
}

func (m *memory) AwaitRoom(time.Duration) error {
	m.left = m.room
	return nil
}

func (m *memory) Receive(time.Duration) ([][]byte, error) { return nil, ErrGone }
func (m *memory) Calls() uint64                           { return 0 }
func (m *memory) Close() error                            { return nil }

// TestGenerate: each frame is sent once and in order, whether the port takes all or stops at any place; or it is refused, and counted.
func TestGenerate(t *testing.T) {
	for _, c := range []struct {
		count               uint64
		ports, flows, burst int
		room                int
		drop                bool
		frames, refused     uint64
	}{
		{1000, 1, 1, 32, 1 << 30, false, 1000, 0},
		{1001, 3, 7, 5, 1 << 30, false, 1001, 0},
		{2, 3, 3, 5, 1 << 30, false, 2, 0},
		{1000, 2, 2, 100, 7, false, 1000, 0},
		{1000, 1, 1, 100, 7, true, 7, 993},
	} {
		var ports []Port
		l := make([]*Ledger, c.ports)
		for i := range c.ports {
			l[i] = NewLedger()
			ports = append(ports, &memory{room: c.room, left: c.room, ledger: l[i]})
		}
		sent, err := Generate(context.Background(), ports, Traffic{Addresses: addresses, Size: 80, Burst: c.burst, Flows: c.flows, Count: c.count, Drop: c.drop}, nil)
		if err != nil || sent.Frames != c.frames || sent.Refused != c.refused {
			t.Errorf("%+v: %+v, %v", c, sent, err)
		}
		received := uint64(0)
		for _, l := range l {
			received += l.Received
			if l.Missing+l.Reordered+l.Duplicated+l.Damaged+l.Foreign > 0 {
				t.Errorf("%+v: %+v", c, l)
			}
		}
		if received != c.frames {
			t.Errorf("%+v: %d received", c, received)
		}
	}
}

func TestParse(t *testing.T) {
	for line, want := range map[string]string{
		"":                          "no interface is named",
		"-i a --tap b":              "one of them",
		"--sink a --sink-tap b":     "one of them",
		"-i a -s 59":                "option -s: 59; 60 to 65549",
		"-i a -b 0":                 "option -b",
		"-i a -t 0":                 "option -t",
		"-i a -t 4 --flows 3":       "option --flows: 3",
		"-i a -m 1:2":               "option -m",
		"-i a -d ::1":               "option -d",
		"-i a --src x":              "option --src",
		"-i a -p 0":                 "option -p",
		"-i a --rate 5x":            "option --rate",
		"-i a --rate -1":            "option --rate",
		"-i a --overload maybe":     "option --overload",
		"-i a x":                    "unexpected argument",
		"-i a --seconds -1":         "not below 0",
		"-i a --sink b --rate 2.5M": "",
	} {
		s, err := parse(strings.Fields(line))
		if want == "" {
			if err != nil || s.Rate != 2.5e6 || s.Flows != 1 || s.Size != 60 {
				t.Errorf("%s: %+v, %v", line, s, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", line, err, want)
		}
	}
}

// inNamespace runs f in a network namespace of its own.
func inNamespace(t *testing.T, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { // its thread ends with it: it is not unlocked
		runtime.LockOSThread()
		defer close(done)
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Errorf("cannot make a network namespace: %v", err)
			return
		}
		f()
	}()
	<-done
}

// TestInterfaces: from an interface to another over veth and from an interface to the program behind a TAP, both ways, nothing is lost as long as the generator is slow enough.
func TestInterfaces(t *testing.T) {
	inNamespace(t, func() {
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "va"}, PeerName: "vb"}); err != nil {
			t.Errorf("cannot make a veth pair: %v", err)
			return
		}
		tap, err := OpenTAP("tp", 0)
		if err != nil {
			t.Error(err)
			return
		}
		if err := unix.IoctlSetInt(tap.fd, unix.TUNSETPERSIST, 1); err != nil {
			t.Error(err)
		}
		if err := tap.Close(); err != nil {
			t.Error(err)
		}
		for _, name := range []string{"va", "vb", "tp"} {
			l, err := netlink.LinkByName(name)
			if err == nil {
				err = netlink.LinkSetUp(l)
			}
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		for _, line := range []string{
			"-i va --sink vb -t 2 --flows 5 -s 200", "-i va --sink vb --bypass -s 1514", "-i tp --sink-tap tp", "--tap tp --sink tp -s 1000",
		} {
			file := filepath.Join(t.TempDir(), "result.json")
			var out, errs strings.Builder
			args := append(strings.Fields(line), "-n", "2000", "-b", "10", "--rate", "20k", "--json", file)
			if status := Main(args, &out, &errs); status != command.Met {
				t.Errorf("%s: status %d: %s", line, status, errs.String())
				continue
			}
			var r Result
			data, err := os.ReadFile(file)
			if err == nil {
				err = json.Unmarshal(data, &r)
			}
			if err != nil {
				t.Error(err)
				continue
			}
			if x := r.Received; r.Sent.Frames != 2000 || x.Frames != 2000 || x.Lost+x.Reordered+x.Duplicated+x.Damaged > 0 {
				t.Errorf("%s: %s", line, data)
			}
			// A TAP moves a frame with each call, a packet socket a burst.
			if sent, sunk := r.Sent.Calls, r.Sink.Calls; sent < 200 || sunk < 200 && strings.Contains(line, "sink-tap") || strings.HasPrefix(line, "--tap") && sent < 2000 {
				t.Errorf("%s: %d and %d system calls", line, sent, sunk)
			}
			if !strings.HasSuffix(out.String(), "2000 received, 0 lost, 0 reordered, 0 duplicated, 0 damaged\n") {
				t.Errorf("%s: reported %s", line, out.String())
			}
		}
		for line, want := range map[string]string{"-i nosuch": "nosuch", "-i lo -n 1": "it is down", "-i tp -n 1": "no carrier"} {
			var errs strings.Builder
			if status := Main(strings.Fields(line), &strings.Builder{}, &errs); status != command.Failed || !strings.Contains(errs.String(), want) {
				t.Errorf("%s: status %d, %s", line, status, errs.String())
			}
		}
	})
}

// TestLostOut: what a queueing discipline has no room for is counted beside what the device has none for.
func TestLostOut(t *testing.T) {
	inNamespace(t, func() {
		tap, err := OpenTAP("tq", 0)
		if err != nil {
			t.Error(err)
			return
		}
		defer tap.Close()
		l, err := netlink.LinkByName("tq")
		if err == nil {
			err = netlink.QdiscReplace(&netlink.Tbf{
				QdiscAttrs: netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT}, Rate: 100, Buffer: netlink.Xmittime(100, 400), Limit: 400,
			})
		}
		if err == nil {
			err = errors.Join(netlink.LinkSetUp(l), AwaitCarrier(context.Background(), "tq"))
		}
		if err != nil {
			t.Error(err)
			return
		}
		p, err := OpenInterface("tq", false)
		if err != nil {
			t.Error(err)
			return
		}
		defer p.Close()
		before, err := LostOut("tq")
		if err != nil {
			t.Error(err)
		}
		refused := uint64(0)
		for range 20 {
			n, err := p.Send([][]byte{make([]byte, 150)})
			if err != nil {
				t.Error(err)
				return
			}
			refused += uint64(1 - n)
		}
		if lost, err := LostOut("tq"); err != nil || refused < 10 || lost-before < refused {
			t.Errorf("%d counted as lost, %d refused: %v", lost-before, refused, err)
		}
	})
}
