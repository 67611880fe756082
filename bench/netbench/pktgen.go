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

	"github.com/vasta-net/vasta/internal/lab"
)

// pktgenFrames is how many frames the kernel's packet generator sends in one round.
const pktgenFrames = 200_000

// dropEverything is a filter that lets nothing through: one instruction, "ret #0".
const dropEverything = "1\n6 0 0 0\n"

// pktgenScript has the packet generator of the kernel send as fast as it can into device $1, $2 frames of 64 bytes with their check sequence, and tells how that went.
const pktgenScript = `modprobe pktgen && cd /proc/net/pktgen && echo rem_device_all >kpktgend_0 && echo add_device $1 >kpktgend_0 || exit 1
for c in "count $2" "pkt_size 60" "delay 0" "dst 192.0.2.1" "dst_mac 9a:55:9a:55:9a:55"; do echo $c >$1 || exit 1; done
echo start >pgctrl; cat $1; echo rem_device_all >kpktgend_0`

// pktgenResult is the line that tells what was sent and how long that took.
var pktgenResult = regexp.MustCompile(`Result: OK: (\d+)\([^)]*\) usec, (\d+) `)

// pktgenDrop sends frames from inside to a vasta that drops all of them before it makes anything of them: what is left is the way of a frame.
func pktgenDrop(ctx context.Context, r *rig, s *subject) (sample Sample, err error) {
	filter := filepath.Join(r.lab.Dir(), "drop-everything")
	if err := os.WriteFile(filter, []byte(dropEverything), 0o644); err != nil {
		return Sample{}, err
	}
	x, err := openVastaWith(ctx, r, s, lab.MTU, "--filter="+filter)
	if err != nil {
		if x != nil {
			err = errors.Join(err, x.close())
		}
		return Sample{}, fmt.Errorf("start: %w", err)
	}
	defer func() { err = errors.Join(err, x.close()) }()
	inside, err := x.inside(r)
	if err != nil {
		return Sample{}, err
	}
	defer func() { err = errors.Join(err, inside.Close()) }()
	before, err := x.linkCosts(ctx)
	if err != nil {
		return Sample{}, err
	}
	out, err := inside.CommandContext(ctx, lab.Root, "sh", "-c", pktgenScript, "pktgen", x.network.Interface, strconv.Itoa(pktgenFrames)).Output()
	if err != nil {
		return Sample{}, fmt.Errorf("pktgen: %w", err)
	}
	found := pktgenResult.FindStringSubmatch(string(out))
	if found == nil {
		return Sample{}, fmt.Errorf("pktgen says %q", strings.Join(strings.Fields(string(out)), " "))
	}
	micros, _ := strconv.ParseFloat(found[1], 64) // digits, both
	sent, _ := strconv.ParseFloat(found[2], 64)
	after, err := x.linkCosts(ctx)
	if err != nil {
		return Sample{}, err
	}
	got := float64(after.FromGuest - before.FromGuest)
	if got == 0 || micros == 0 {
		return Sample{}, errors.New("nothing has come")
	}
	c, was := after.Calls, before.Calls
	calls := c.LinkRead + c.LinkWrite + c.Wait - was.LinkRead - was.LinkWrite - was.Wait
	return Sample{
		Value: got / micros * 1e3,
		Extra: map[string]float64{
			extraSent: sent / micros * 1e3, extraLostFrames: 100 * (1 - got/sent), extraCalls: float64(calls) / got,
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
