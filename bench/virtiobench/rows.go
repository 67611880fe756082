package virtiobench

import (
	"context"
	"fmt"
	"time"

	"github.com/vasta-net/vasta/bench/internal/command"
	virtionet "github.com/vasta-net/vasta/virtio/net"
)

// row is one line of measurements: subjects that are compared with each other, in turns.
type row struct {
	name, table, title, unit string
	paired                   bool // its bar is about differences that need several rounds
	once                     bool // more rounds would say nothing else
	turns                    int  // the subjects take so many turns in a round, each so much shorter; 0: one. Their differences are told from the machine's moods by number, not by length
	subjects                 []subject
}

// subject is one thing that is measured.
type subject struct {
	name string
	run  func(ctx context.Context, d time.Duration) (Sample, error)
}

// Tables, one for each source.
const (
	tableS0     = "S0 page pool on and off"
	tableS1     = "S1 the verdict before any packet object"
	tableS2     = "S2 receive modes"
	tableRing   = "Rings, 64 bytes"
	tableBreak  = "Copy-break"
	tableWhole  = "Data integrity"
	tableQueues = "Queues, both ends of each on one processor"
)

const mergeable = virtionet.MrgRxbuf

// bigFeatures ask for big buffers.
const bigFeatures = virtionet.GuestCsum | virtionet.GuestTSO4

// receiving is a subject whose frames go to the driver, sending one whose frames go to the device.
func receiving(name string, s setup) subject {
	return subject{name, func(ctx context.Context, d time.Duration) (Sample, error) { return toDriver(ctx, s, d) }}
}

func sending(name string, s setup) subject {
	return subject{name, func(ctx context.Context, d time.Duration) (Sample, error) { return toDevice(ctx, s, d) }}
}

// gbit shows a subject's speed in Gbit/s.
func gbit(s subject) subject {
	return subject{s.name, func(ctx context.Context, d time.Duration) (Sample, error) {
		x, err := s.run(ctx, d)
		if err == nil {
			x.Extra["mpps"], x.Value = x.Value, x.Extra["gbit_s"]
			delete(x.Extra, "gbit_s")
		}
		return x, err
	}}
}

// nsEach shows it in ns for each packet.
func nsEach(s subject) subject {
	return subject{s.name, func(ctx context.Context, d time.Duration) (Sample, error) {
		x, err := s.run(ctx, d)
		if err == nil && x.Value > 0 {
			x.Extra["mpps"], x.Value = x.Value, 1e3/x.Value
		}
		return x, err
	}}
}

const noBreak = -1

// rows are all that is measured.
func rows() (list command.Rows[row]) {
	for _, m := range []struct {
		name string
		f    virtionet.Features
	}{{"small", 0}, {"mergeable", mergeable}} {
		for _, queues := range []int{1, 8} {
			view := setup{queues: queues, frame: 64, features: m.f, hook: dropView, copyBreak: noBreak}
			general := view
			general.general = true
			r := row{
				name: "pool-" + m.name, table: tableS0, title: m.name + ", 64 B, dropped by the hook", unit: "ns each", paired: true, turns: 5,
				subjects: []subject{nsEach(receiving("pool", view)), nsEach(receiving("general arena", general))},
			}
			if queues > 1 {
				r.name, r.title = fmt.Sprintf("%s-%d", r.name, queues), fmt.Sprintf("%s, %d queues, both ends of each on one processor", r.title, queues)
			}
			list = append(list, r)
		}
	}
	list = append(list, flowRows()...)
	for _, m := range []struct {
		name string
		f    virtionet.Features
	}{{"small", 0}, {"mergeable", mergeable}} {
		at := func(name string, c setup) subject {
			c.frame, c.features, c.copyBreak = 64, m.f, noBreak
			return receiving(name, c)
		}
		list = append(list, row{
			name: "view-" + m.name, table: tableS1, title: m.name + ", 64 B", unit: "Mpps", subjects: []subject{
				at("view", setup{hook: dropView}), at("76-byte copy", setup{hook: dropCopy}),
				at("pooled object", setup{hook: dropObject(false)}), at("heap object", setup{hook: dropObject(true)}),
			},
		})
	}
	list = append(append(list, modeRows()...), integrityRow())
	for _, f := range []struct {
		name string
		f    virtionet.Features
	}{{"split", 0}, {"packed", virtionet.RingPacked}, {"split-in-order", virtionet.InOrder}, {"packed-in-order", virtionet.InOrder | virtionet.RingPacked}} {
		r := row{
			name: "ring-" + f.name, table: tableRing, title: f.name, unit: "Mpps", subjects: []subject{
				sending("driver to device, copied out", setup{frame: 64, features: f.f}),
				receiving("device to driver, dropped by the hook", setup{frame: 64, features: f.f, hook: dropView, copyBreak: noBreak}),
			},
		}
		if !f.f.Has(virtionet.InOrder) {
			packed := f.f.Has(virtionet.RingPacked)
			r.subjects = append(r.subjects, testpmd("testpmd driver to device", packed, true), testpmd("testpmd device to driver", packed, false))
		}
		list = append(list, r)
	}
	for _, read := range []bool{false, true} {
		for _, n := range []int{64, 128, 1500} {
			r := row{name: fmt.Sprintf("break-%d", n), table: tableBreak, title: fmt.Sprintf("%d B, mergeable, of which the sink reads the number", n), unit: "Mpps"}
			if read {
				r.name, r.title = r.name+"-read", fmt.Sprintf("%d B, mergeable, of which the sink reads all", n)
			}
			for _, limit := range []int{noBreak, 64, 128, 256, 512} {
				r.subjects = append(r.subjects, receiving(fmt.Sprint(max(limit, 0)), setup{frame: n, features: mergeable, copyBreak: limit, copies: read}))
			}
			list = append(list, r)
		}
	}
	return append(list, producerRow(), row{
		name: "queues", table: tableQueues, title: "64 B, driver to device", unit: "Mpps", paired: true, subjects: []subject{
			{"1 queue", func(ctx context.Context, d time.Duration) (Sample, error) { return together(ctx, 1, d) }},
			{"2 queues", func(ctx context.Context, d time.Duration) (Sample, error) { return together(ctx, 2, d) }},
		},
	})
}

// modeRows are those of row S2.
func modeRows() []row {
	all := []struct {
		name string
		f    virtionet.Features
	}{{"big", bigFeatures}, {"big, indirect", bigFeatures | virtionet.IndirectDesc}, {"mergeable", mergeable}, {"small", 0}}
	steady := row{name: "modes-steady", table: tableS2, title: "1500 B, ring of 256, steady", unit: "Gbit/s", paired: true}
	bursts := row{name: "modes-burst", table: tableS2, title: "1500 B, ring of 256, bursts of 64", unit: "Gbit/s"}
	holds := row{name: "modes-hold", table: tableS2, title: "packets that a ring of 256 holds", unit: "packets"}
	for _, m := range all {
		s := setup{frame: 1500, features: m.f, ring: 256, copyBreak: noBreak}
		steady.subjects = append(steady.subjects, gbit(receiving(m.name, s)))
		s.bursts = 64
		bursts.subjects = append(bursts.subjects, gbit(receiving(m.name, s)))
		holds.subjects = append(holds.subjects, subject{m.name, func(context.Context, time.Duration) (Sample, error) { return holding(m.f) }})
	}
	long := row{name: "long", table: tableS2, title: "long frames, mergeable", unit: "Gbit/s"}
	for _, n := range []int{44*1448 + 66, virtionet.MaxFrame} {
		long.subjects = append(long.subjects, gbit(receiving(fmt.Sprintf("%d B", n), setup{frame: n, features: mergeable | bigFeatures, copyBreak: noBreak})))
	}
	return []row{steady, bursts, holds, long}
}
