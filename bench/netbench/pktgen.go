package netbench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/vasta-net/vasta/internal/lab"
)

// pktgenFrames is how many frames the kernel's packet generator sends in one round.
const pktgenFrames = 200_000

// dropEverything is a filter that lets nothing through: one instruction, "ret #0".
const dropEverything = "1\n6 0 0 0\n"

// pktgenScript has the packet generator of the kernel send as fast as it can into device $1, $2 frames of 64 bytes with their check sequence, with the settings that
// follow, and tells how that went. What the device's queue refuses is not of those frames: the generator counts it as errors.
const pktgenScript = `d=$1 n=$2; shift 2
modprobe pktgen && cd /proc/net/pktgen && echo rem_device_all >kpktgend_0 && echo add_device $d >kpktgend_0 || exit 1
for c in "count $n" "pkt_size 60" "delay 0" "dst_mac 9a:55:9a:55:9a:55" "$@"; do echo $c >$d || exit 1; done
echo start >pgctrl; cat $d; echo rem_device_all >kpktgend_0`

// pktgenResult is what tells what was sent, and how long that took; pktgenRefused what was not.
var (
	pktgenResult  = regexp.MustCompile(`Result: OK: (\d+)\([^)]*\) usec, (\d+) `)
	pktgenRefused = regexp.MustCompile(`errors: (\d+)`)
)

// generated is what the kernel's packet generator has done.
type generated struct {
	took          time.Duration
	sent, refused float64 // frames; those refused are not among those sent
}

// pktgen has the kernel's packet generator send frames into a device of the namespace.
func pktgen(ctx context.Context, ns *lab.Namespace, device string, frames int, settings ...string) (generated, error) {
	argv := append([]string{"sh", "-c", pktgenScript, "pktgen", device, strconv.Itoa(frames)}, settings...)
	out, err := ns.CommandContext(ctx, lab.Root, argv...).Output()
	if err != nil {
		return generated{}, fmt.Errorf("pktgen: %w", err)
	}
	found, refused := pktgenResult.FindSubmatch(out), pktgenRefused.FindSubmatch(out)
	if found == nil || refused == nil {
		return generated{}, fmt.Errorf("pktgen says %q", strings.Join(strings.Fields(string(out)), " "))
	}
	micros, _ := strconv.ParseInt(string(found[1]), 10, 64) // digits, all three
	var g generated
	g.took = time.Duration(micros) * time.Microsecond
	g.sent, _ = strconv.ParseFloat(string(found[2]), 64)
	g.refused, _ = strconv.ParseFloat(string(refused[1]), 64)
	if g.took == 0 {
		return generated{}, errors.New("pktgen has sent nothing")
	}
	return g, nil
}

// pktgenDrop sends frames from inside to a vasta that drops all of them before it makes anything of them: what is left is the way of a frame.
func pktgenDrop(ctx context.Context, r *rig, s *subject) (Sample, error) {
	filter := filepath.Join(r.lab.Dir(), "drop-everything")
	if err := os.WriteFile(filter, []byte(dropEverything), 0o644); err != nil {
		return Sample{}, err
	}
	return r.aloneInside(ctx, s, func(x *session, inside *lab.Namespace) (Sample, error) { return dropped(ctx, x, inside) }, "--filter="+filter)
}

// dropped sends them.
func dropped(ctx context.Context, x *session, inside *lab.Namespace) (Sample, error) {
	before, err := x.linkCosts(ctx)
	if err != nil {
		return Sample{}, err
	}
	g, err := pktgen(ctx, inside, x.network.Interface, pktgenFrames, "dst 192.0.2.1")
	if err != nil {
		return Sample{}, err
	}
	after, err := x.linkCosts(ctx)
	if err != nil {
		return Sample{}, err
	}
	got := float64(after.FromGuest - before.FromGuest)
	if got == 0 {
		return Sample{}, errors.New("nothing has come")
	}
	return Sample{
		Value: got / g.took.Seconds() / 1e3,
		Extra: map[string]float64{
			extraSent: g.sent / g.took.Seconds() / 1e3, extraLostFrames: 100 * (1 - got/g.sent), extraCalls: float64(after.linkCalls()-before.linkCalls()) / got,
			extraFrameCPU: (after.cpu - before.cpu).Seconds() * 1e6 / got,
		},
	}, nil
}

// What pktgenDrop tells beside the rate.
const (
	extraSent       = "sent k/s"
	extraLostFrames = "% lost"
	extraFrameCPU   = "tool µs/frame"
)

// pktgenLoads are one.
func pktgenLoads() []load {
	return []load{{
		name: "vhost-pktgen", title: "frames of 64 bytes from inside into a program that drops them (pktgen)", unit: "k/s", phase: phaseNetem, when: whenLabNamed,
		who: named(tapPath.name, vhostsWay.name, pollPath.name), alone: pktgenDrop,
	}}
}

func pktgenBars() barList {
	var b barList
	tap, vhost := of(tapPath.name, statMedian, "vhost-pktgen"), of(vhostsWay.name, statMedian, "vhost-pktgen")
	b.add("vhost-net, pktgen 64 B into a program that drops, delivered", atLeast(1.1, "x TAP", vhost, &tap), nil)
	b.add("vhost-net, pktgen 64 B into a program that drops, system calls per frame", atMost(0.03, "a frame", vhost.with(extraCalls), nil), nil)
	return b
}
