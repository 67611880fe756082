package netbench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/vasta-net/vasta/internal/lab"
)

// qdiscs are what a direction of a link passes: command lines of tc(8) after "qdisc add dev DEVICE", one below the other.
type qdiscs []string

// shape is what a link does to both directions. Its near end is that of the client.
type shape struct {
	out, in qdiscs // from the client, to the client
}

// ifbName is the device that what arrives on a link is led through, because the kernel shapes only what leaves one.
const ifbName = "ifb-shape"

// shaper shapes the link of one device.
type shaper struct {
	rig    *rig
	prefix []string // of command lines, leads into the device's network namespace
	device string
}

// onLink is a shaper of the veth, at host's end.
func (r *rig) onLink() shaper { return shaper{rig: r, device: lab.LinkName} }

// onBehind is a shaper of the routed veth, at the end of the namespace behind host.
func (r *rig) onBehind() shaper {
	return shaper{rig: r, prefix: []string{"nsenter", "--net=" + r.behind.Path()}, device: lab.LinkName}
}

// onGuest is a shaper of the link of a tool's namespace, at the namespace's end. pid is a process in it.
func (r *rig) onGuest(pid int, device string) shaper {
	return shaper{rig: r, prefix: []string{"nsenter", fmt.Sprintf("--net=/proc/%d/ns/net", pid)}, device: device}
}

// apply shapes the link. The caller calls clear, whatever apply returns.
func (s shaper) apply(ctx context.Context, sh shape) error {
	if err := s.add(ctx, s.device, sh.out); err != nil {
		return err
	}
	if len(sh.in) == 0 {
		return nil
	}
	for _, line := range []string{
		"ip link add " + ifbName + " type ifb",
		"ip link set " + ifbName + " txqueuelen 1000 up",
	} {
		if err := s.run(ctx, line); err != nil {
			return err
		}
	}
	// Shaped before anything is led there, so that nothing passes unshaped.
	if err := s.add(ctx, ifbName, sh.in); err != nil {
		return err
	}
	for _, line := range []string{
		"tc qdisc add dev " + s.device + " handle ffff: ingress",
		"tc filter add dev " + s.device + " parent ffff: matchall action mirred egress redirect dev " + ifbName,
	} {
		if err := s.run(ctx, line); err != nil {
			return err
		}
	}
	return nil
}

func (s shaper) add(ctx context.Context, device string, q qdiscs) error {
	for _, line := range q {
		if err := s.run(ctx, "tc qdisc add dev "+device+" "+line); err != nil {
			return err
		}
	}
	return nil
}

// clear takes away what apply added, as far as it came.
func (s shaper) clear(ctx context.Context) error {
	var errs []error
	for _, line := range []string{
		"tc qdisc del dev " + s.device + " root",
		"tc qdisc del dev " + s.device + " ingress",
		"ip link del " + ifbName,
	} {
		if err := s.run(ctx, line); err != nil && !absent(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// absent says whether err tells that what was to be removed was not there.
func absent(err error) bool {
	for _, text := range []string{"Cannot find device", "Invalid handle", "No such file", "zero", "Cannot find specified"} {
		if strings.Contains(err.Error(), text) {
			return true
		}
	}
	return false
}

func (s shaper) run(ctx context.Context, line string) error {
	_, err := s.output(ctx, line)
	return err
}

// output runs a command in the device's network namespace and returns what it writes.
func (s shaper) output(ctx context.Context, line string) (string, error) {
	argv := slices.Concat(s.prefix, strings.Fields(line))
	out, err := s.rig.lab.Host.CommandContext(ctx, lab.Root, argv...).Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w", line, err)
	}
	return string(out), nil
}
