package allbench

import (
	"encoding/json"
	"slices"
	"time"

	"github.com/vasta-net/vasta/bench/internal/page"
	"github.com/vasta-net/vasta/bench/netbench"
	"github.com/vasta-net/vasta/bench/overloadbench"
	"github.com/vasta-net/vasta/bench/virtiobench"
)

// section is one of the rows that the project implements and measures: what a source has done, with the source's own figures.
type section struct {
	name, title, about string
	source             []page.Figure
	parts              []part
}

// RowName implements what command.Rows asks for.
func (s section) RowName() string { return s.name }

// part is one run of another benchmark.
type part struct {
	command string // the words after "vasta bench"
	only    string // what it measures of that; "" is all
	// quick and least are the same for the shorter forms. A part without least is left out of that form.
	quick, least []string
	takes        [2]time.Duration // about, in the full and in the quick form
	vasta        bool             // it takes option --vasta
	lab          bool             // it runs in the guest machine
	show         func(results []byte) (page.Section, error)
}

// sections are all of them.
func sections() []section {
	virtio := func(only string, takes time.Duration, least ...string) part {
		return part{
			command: "virtio", only: only, quick: []string{"--quick"}, least: append(least, "--rounds", "1", "--seconds", "0.05"),
			takes: [2]time.Duration{takes, takes / 6}, show: showVirtio,
		}
	}
	net := func(only string, takes time.Duration, least ...string) part {
		p := part{command: "net", only: only, quick: []string{"--quick"}, takes: [2]time.Duration{takes, 50 * time.Second}, vasta: true, show: showNet}
		if least != nil {
			p.least = slices.Concat(least, []string{"--rounds", "1", "--seconds", "1"})
		}
		return p
	}
	lab := func(command, only string, full, quick time.Duration, less ...string) part {
		return part{
			command: command, only: only, quick: append(less, "--quick"), takes: [2]time.Duration{full, quick}, vasta: true, lab: true, show: showNet,
		}
	}
	return []section{
		{
			"S0", "recycled pages for receive buffers", "virtio_net over a page pool (2026): pages of each queue's own pool, mapped once.",
			[]page.Figure{
				{What: "mergeable, 1 queue, 1 stream", Before: "25.7 Gbit/s, 0 retransmits", After: "26.2 Gbit/s, 0 retransmits"},
				{What: "mergeable, 8 queues, 8 streams", Before: "95.6 Gbit/s, 236,432 retransmits", After: "97.9 Gbit/s, 188,249 retransmits"},
				{What: "small, 1 queue", Before: "9.17 Gbit/s, 15,152 retransmits", After: "9.19 Gbit/s, 12,203 retransmits"},
				{What: "small, 8 queues", Before: "43.0 Gbit/s, 974,500 retransmits", After: "44.7 Gbit/s, 717,411 retransmits"},
			},
			[]part{
				virtio("pool,tcp", 3*time.Minute, "--only", "pool-small"),
				lab("vhost", "mergeable,small", 10*time.Minute, 90*time.Second, "--only", "mergeable-1,small-1"),
			},
		},
		{
			"S1", "views instead of copies, the verdict before any packet object", "build_skb for small buffers (2017).",
			[]page.Figure{{What: "XDP_DROP, 64 B, small buffers", Before: "11.1 Mpps", After: "14.4 Mpps"}},
			[]part{virtio("view", time.Minute, "--only", "view-small")},
		},
		{
			"S2", "receive buffers that the device merges", "Mergeable receive buffers (2008), with a copy-break of 128 bytes.",
			[]page.Figure{
				{What: "10 GbE, external netperf", Before: "1 Gbit/s", After: "2 Gbit/s"},
				{What: "host to guest, without GSO", Before: "0.7 Gbit/s", After: "1.7 Gbit/s"},
				{What: "ring entries of a large packet", Before: "20", After: "as many as it fills"},
			},
			[]part{virtio("modes,long,integrity,break", 4*time.Minute, "--only", "modes-hold")},
		},
		{
			"S3", "the namespace's rings served by vhost-net", "pasta over the kernel's vhost-net (2025, not merged). Emulated: only ratios mean anything.",
			[]page.Figure{
				{What: "out of the namespace", Before: "26.3 Gbit/s", After: "36.9 Gbit/s"},
				{What: "into the namespace", Before: "16 Gbit/s", After: "17.26 Gbit/s"},
				{What: "the first step, waiting for each pass of vhost", Before: "16 Gbit/s", After: "13 Gbit/s"},
				{What: "without a namespace, and veth", After: "47.8 Gbit/s"},
			},
			[]part{lab("vhost", "1-,4-,8-,ring,mtu1500,udp,tcp-rr,ladder,zerocopy", 43*time.Minute, 2*time.Minute, "--only", "1-,ladder")},
		},
		{
			"S4", "nothing lost under overload: queues with stop and wake", "tun/tap ring with stop and wake of the queue (2026).",
			[]page.Figure{
				{What: "TAP + vhost-net, pinned, 1 thread", Before: "452 Kpps, lost 1154 Kpps", After: "454 Kpps, lost 0"},
				{What: "TAP + vhost-net, pinned, 4 threads, each", Before: "71 Kpps, lost 1527 Kpps", After: "79 Kpps, lost 0"},
				{What: "TAP, not pinned", Before: "196 Kpps, lost 1618 Kpps", After: "185 Kpps, lost 0"},
				{What: "TAP + vhost-net, not pinned", Before: "577 Kpps, lost 1170 Kpps", After: "578 Kpps, lost 0"},
				{What: "TCP, 1 stream; 4 streams", Before: "22.0; 21.4 Gbit/s", After: "22.0; 21.5 Gbit/s"},
				{What: "TCP, 8 streams, the version that was reverted", Before: "13.5 Gbit/s", After: "9.1 Gbit/s"},
			},
			[]part{
				{
					command: "overload", quick: []string{"--quick"}, least: []string{"--count", "1000", "--only", "ring-1"},
					takes: [2]time.Duration{15 * time.Minute, 50 * time.Second}, vasta: true, show: showOverload,
				},
				lab("overload --lab", "", 20*time.Minute, 2*time.Minute),
				net("overload", 3*time.Minute, "--only", "overload-1-up"),
			},
		},
		{
			"S5", "what reviewers asked for", "Packets a second from pktgen into a program that drops, 8 queues with 8 streams, UDP, and veth beside it all.",
			[]page.Figure{
				{What: "XDP_DROP and pktgen", After: "asked for in the review of S0"},
				{What: "zero copy against veth, UDP out of the namespace", After: "left open by the source of S3"},
			},
			[]part{
				virtio("ring,queues,producers", 2*time.Minute, "--only", "queues"),
				lab("vhost", "pktgen,4q,8q", 15*time.Minute, time.Minute, "--only", "pktgen"),
				net("tcp-1,tcp-8", 5*time.Minute),
				net("udp-rr,udp-64-up,udp-1472", 3*time.Minute),
				net("udp-gso,udp-64-flood,udp-65507", 2*time.Minute),
			},
		},
	}
}

func showVirtio(results []byte) (page.Section, error) {
	var r virtiobench.Results
	if err := json.Unmarshal(results, &r); err != nil {
		return page.Section{}, err
	}
	s := page.Section{Bars: r.PageBars()}
	for _, table := range r.PageSections() {
		s.Charts = append(s.Charts, table.Charts...)
	}
	return s, nil
}

func showNet(results []byte) (page.Section, error) {
	var r netbench.Results
	if err := json.Unmarshal(results, &r); err != nil {
		return page.Section{}, err
	}
	return page.Section{Bars: r.PageBars(), Charts: r.PageCharts()}, nil
}

func showOverload(results []byte) (page.Section, error) {
	var r overloadbench.Results
	if err := json.Unmarshal(results, &r); err != nil {
		return page.Section{}, err
	}
	return page.Section{Bars: r.PageBars(), Charts: r.PageCharts()}, nil
}
