package netbench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/vasta-net/vasta/bench/baseline"
	"github.com/vasta-net/vasta/bench/internal/procfs"
	"github.com/vasta-net/vasta/link"
	"github.com/vasta-net/vasta/link/tap"
	"github.com/vasta-net/vasta/link/vhostnet"
	"github.com/vasta-net/vasta/vhost/kernel"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	ladderFrame = 60_000 // bytes of a frame; about what a GSO frame has
	ladderBurst = 4      // frames of a flush
	ladderMTU   = 65520
	ladderTAP   = "ladder0"
)

// ladderSteps are the ways to learn of completions, as subjects.
var ladderSteps = []baseline.Completion{baseline.Wait, baseline.Poll, baseline.Asynchronous}

func ladderName(c baseline.Completion) string { return "tx-" + c.String() }

func ladderSubjects() (all []*subject) {
	for _, c := range ladderSteps {
		all = append(all, &subject{SubjectInfo: SubjectInfo{Name: ladderName(c), Class: ClassVariant}})
	}
	return all
}

func ladderLoads() []load {
	var names []string
	for _, c := range ladderSteps {
		names = append(names, ladderName(c))
	}
	return []load{{
		name: "vhost-ladder", title: fmt.Sprintf("frames of %d bytes through vhost-net, %d in a flush, by how completions are learned of", ladderFrame, ladderBurst), unit: "Gbit/s",
		phase: phaseNetem, when: whenLabNamed, who: named(names...), alone: ladder,
	}}
}

func ladderBars() barList {
	var b barList
	wait := of(ladderName(baseline.Wait), statMedian, "vhost-ladder")
	b.add("vhost-net, sending, asynchronous", atLeast(1.3, "x waiting for completion", of(ladderName(baseline.Asynchronous), statMedian, "vhost-ladder"), &wait), nil)
	return b
}

// ladder sends frames that nobody in the namespace wants, for as long as a load lasts.
func ladder(_ context.Context, r *rig, s *subject) (sample Sample, err error) {
	for _, c := range ladderSteps {
		if s.Name == ladderName(c) {
			err = r.lab.Host.Do(func() error {
				sample, err = climb(c, r.opts.Duration)
				return err
			})
		}
	}
	return sample, err
}

// climb measures one step, on a TAP of its own in the calling thread's network namespace.
func climb(c baseline.Completion, d time.Duration) (sample Sample, err error) {
	fd, err := ladderDevice()
	if err != nil {
		return Sample{}, err
	}
	f, err := tap.Offload(fd)
	if err != nil {
		return Sample{}, errors.Join(err, unix.Close(fd))
	}
	device, err := kernel.Open(kernel.Path)
	if err != nil {
		return Sample{}, errors.Join(err, unix.Close(fd))
	}
	q, err := vhostnet.New(vhostnet.Config{TAP: fd, Device: device, Offloads: f})
	if err != nil {
		return Sample{}, errors.Join(err, unix.Close(fd))
	}
	defer func() { err = errors.Join(err, q.Close()) }()
	frame := make([]byte, ladderFrame)
	frame[12], frame[13] = 0x88, 0xb5 // an EtherType for experiments: the kernel counts it and lets it go
	out := link.Out{Head: frame[:60], Payload: [][]byte{frame[60:]}}
	busy, err := procfs.BusyTime()
	if err != nil {
		return Sample{}, err
	}
	sent, began := 0, time.Now()
	for time.Since(began) < d {
		for range ladderBurst {
			if !q.Send(&out) {
				break
			}
			sent++
		}
		q.Flush()
		if err := c.Flushed(q.Pair(), q.Fd()); err != nil {
			return Sample{}, fmt.Errorf("waiting for completion: %w", err)
		}
	}
	if err := baseline.Wait.Flushed(q.Pair(), q.Fd()); err != nil { // the last ones count only when they have arrived
		return Sample{}, err
	}
	took := time.Since(began).Seconds()
	busyAfter, err := procfs.BusyTime()
	if err != nil {
		return Sample{}, err
	}
	bytes := float64(sent) * ladderFrame
	return Sample{Value: bytes * 8 / took / 1e9, Extra: map[string]float64{extraCPU: (busyAfter - busy).Seconds() / (bytes / gib)}}, nil
}

// ladderDevice makes a TAP that is up.
func ladderDevice() (int, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: "/dev/net/tun", Err: err}
	}
	err = func() error {
		ifr, err := unix.NewIfreq(ladderTAP)
		if err != nil {
			return err
		}
		ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
			return err
		}
		l, err := netlink.LinkByName(ladderTAP)
		if err != nil {
			return err
		}
		return errors.Join(netlink.LinkSetMTU(l, ladderMTU), netlink.LinkSetUp(l))
	}()
	if err != nil {
		return -1, errors.Join(fmt.Errorf("TAP %s: %w", ladderTAP, err), unix.Close(fd))
	}
	return fd, nil
}
