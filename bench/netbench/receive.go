package netbench

import (
	"context"
	"errors"
	"fmt"

	"github.com/vasta-net/vasta/internal/lab"
)

// The table of S0: buffers of 4 KiB that a frame takes several of, with the namespace's GSO, and buffers of 2 KiB that a frame of the MTU takes one of, without; one pair and one stream,
// eight and eight. What the namespace's kernel sends again is beside the speed.
var (
	smallWay    = vhostPath{"vasta-vhost-2k", []string{"--vhost", "on", "--vhost-tuning", "buffer=2048,receive=256"}}
	zeroCopyWay = vhostPath{"vasta-vhost-zerocopy", []string{"--vhost", "on"}}

	receivePairs = []int{1, 8}
)

// receiveSubjects are those that no other load has.
func receiveSubjects(bin string) []*subject {
	all := []*subject{smallWay.subject(bin, 1), zeroCopyWay.subject(bin, 1)}
	for _, p := range []vhostPath{pagesWay, smallWay} {
		p.name = queuedPath(p.name, 8)
		all = append(all, p.subject(bin, 8))
	}
	return all
}

func receiveLoads() (all []load) {
	for _, pairs := range receivePairs {
		for _, k := range []struct {
			name, title string
			way         vhostPath
			gso         bool
		}{{"mergeable", "buffers of 4 KiB, GSO on", pagesWay, true}, {"small", "buffers of 2 KiB, GSO off", smallWay, false}} {
			way, other := k.way.name, tapPath.name
			if pairs > 1 {
				way, other = queuedPath(way, pairs), queuedPath(other, pairs)
			}
			all = append(all, load{
				name: fmt.Sprintf("vhost-%s-%d", k.name, pairs), title: fmt.Sprintf("TCP %d streams over %d queue pairs, MTU 1500, ns→host, %s", pairs, pairs, k.title), unit: "Gbit/s",
				phase: phaseNetem, when: whenLabNamed, who: named(other, way), alone: receiving(pairs, k.gso),
			})
		}
	}
	return append(all, load{
		name: "vhost-zerocopy", title: "TCP 8 streams, MTU 65520, host→ns, by experimental_zcopytx", unit: "Gbit/s", phase: phaseNetem, when: whenLabNamed,
		who: named(vhostsWay.name, zeroCopyWay.name), alone: zeroCopy,
	})
}

// receiving measures streams from a namespace whose MTU is small and whose kernel cuts segments itself, or has the device do it.
func receiving(streams int, gso bool) func(context.Context, *rig, *subject) (Sample, error) {
	return func(ctx context.Context, r *rig, s *subject) (Sample, error) {
		return r.alone(ctx, s, smallMTU, func(x *session) (Sample, error) {
			if !gso {
				if err := x.cutInside(ctx, r); err != nil {
					return Sample{}, err
				}
			}
			return linkThroughput(streams, false)(ctx, r, x)
		})
	}
}

// cutInside has the namespace's kernel cut segments before they come to the device.
func (x *session) cutInside(ctx context.Context, r *rig) (err error) {
	inside, err := x.inside(r)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, inside.Close()) }()
	argv := []string{"ethtool", "-K", x.network.Interface, "tso", "off", "gso", "off"}
	if out, err := inside.CommandContext(ctx, lab.Root, argv...).CombinedOutput(); err != nil {
		return fmt.Errorf("ethtool: %w: %s", err, out)
	}
	return nil
}

// zeroCopy measures with the module's parameter as the subject wants it.
func zeroCopy(ctx context.Context, r *rig, s *subject) (sample Sample, err error) {
	if s.Name == zeroCopyWay.name {
		if err := loadDevice(ctx, r.lab, "experimental_zcopytx=1"); err != nil {
			return Sample{}, err
		}
		defer func() { err = errors.Join(err, loadDevice(ctx, r.lab)) }()
	}
	return r.alone(ctx, s, lab.MTU, func(x *session) (Sample, error) { return linkThroughput(8, true)(ctx, r, x) })
}

// loadDevice has the kernel load vhost-net anew, with these parameters. Nobody has it open.
func loadDevice(ctx context.Context, l *lab.Lab, parameters ...string) error {
	for _, argv := range [][]string{{"modprobe", "-r", "vhost_net"}, append([]string{"modprobe", "vhost_net"}, parameters...)} {
		if out, err := l.Host.CommandContext(ctx, lab.Root, argv...).CombinedOutput(); err != nil {
			return fmt.Errorf("vhost-net: %w: %s", err, out)
		}
	}
	return openDevice(ctx, l)
}
