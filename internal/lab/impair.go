package lab

import (
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Impairment is what a bad network does to packets in one direction: the kernel's netem, tc-netem(8), and behind it a bottleneck.
// Percentages are of packets, each chosen independently. netem takes a GSO frame for one packet.
type Impairment struct {
	Name                     string
	Loss, Duplicate, Reorder float32 // percent
	// Delay holds every packet up, except those that Reorder lets overtake. Reorder needs it.
	Delay time.Duration
	// Bottleneck is what all packets pass after that; one with a rate of 0 is none. An impairment that is nothing else needs no netem.
	Bottleneck Bottleneck
}

// Bottleneck is a slow link, a token bucket: tc-tbf(8), with a queue that drops what does not fit.
type Bottleneck struct {
	Rate uint64 // in bits per second
	// Burst is the size of the bucket, in bytes; 0 is two packets of the device's MTU. A GSO frame that is larger is cut to packets before
	// it is queued.
	Burst int
	// Packets is the length of the queue, in packets; Bytes is it in bytes, for a bottleneck without Packets.
	Packets, Bytes int
}

// Impairments are the bad networks that TCP is tested and measured on.
var Impairments = []Impairment{
	{Name: "1% loss", Loss: 1},
	{Name: "5% reorder", Reorder: 5, Delay: 2 * time.Millisecond},
	{Name: "1% duplicate", Duplicate: 1},
	{Name: "20 ms delay", Delay: 20 * time.Millisecond},
}

// impairmentQueue is how many packets netem holds at most: so many that none is lost but those that Loss asks for.
const impairmentQueue = 20000

// Impair puts an impairment on a device of the namespace, instead of the one it had: on what the device sends and, by way of an IFB
// device, on what it receives. The kernel must have netem, ifb and act_mirred; it loads the modules by itself. What fails may be half
// done: Mend undoes it.
func (ns *Namespace) Impair(device string, i Impairment) error {
	return errors.Join(ns.ImpairSent(device, i), ns.ImpairReceived(device, i))
}

// ImpairSent puts an impairment on what a device of the namespace sends, instead of the one it had.
func (ns *Namespace) ImpairSent(device string, i Impairment) error {
	err := ns.withLink(device, func(link netlink.Link) error { return i.put(link) })
	if err != nil {
		return fmt.Errorf("lab: %s on what %s sends: %w", i.Name, device, err)
	}
	return nil
}

// ImpairReceived puts an impairment on what a device of the namespace receives, instead of the one it had.
func (ns *Namespace) ImpairReceived(device string, i Impairment) error {
	err := ns.withLink(device, func(link netlink.Link) error {
		queue, err := netlink.LinkByName(ifbName(device))
		if err == nil { // it is redirected already
			return i.put(queue)
		}
		if queue, err = addIFB(link); err != nil {
			return err
		}
		// Impaired before anything is redirected, so that nothing passes unimpaired.
		return errors.Join(i.put(queue), redirectReceived(link, queue))
	})
	if err != nil {
		return fmt.Errorf("lab: %s on what %s receives: %w", i.Name, device, err)
	}
	return nil
}

// Mend removes the impairments of a device, if it has any and is still there. Packets that they hold are lost.
func (ns *Namespace) Mend(device string) error {
	err := ns.withLink(device, func(link netlink.Link) error {
		ifb, err := netlink.LinkByName(ifbName(device))
		if err == nil { // otherwise only what it sends was impaired
			err = errors.Join(gone(netlink.QdiscDel(ingress(link))), netlink.LinkDel(ifb))
		} else if errors.As(err, new(netlink.LinkNotFoundError)) {
			err = nil
		}
		return errors.Join(err, unqueue(link))
	})
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("lab: mending %s in %s: %w", device, ns.name, err)
	}
	return nil
}

// unqueue gives a link its default qdisc back.
func unqueue(link netlink.Link) error {
	return gone(netlink.QdiscDel(&netlink.GenericQdisc{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Parent: netlink.HANDLE_ROOT}}))
}

// gone is err without the answer that there was no qdisc, or only the default one.
func gone(err error) error {
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// Handles of the qdiscs of an impairment.
var (
	impairmentHandle = netlink.MakeHandle(1, 0)
	bottleneckHandle = netlink.MakeHandle(2, 0)
	queueHandle      = netlink.MakeHandle(3, 0)
)

// put makes the impairment the link's qdisc, instead of the one it had.
func (i Impairment) put(link netlink.Link) error {
	if err := unqueue(link); err != nil {
		return err
	}
	at := netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Handle: impairmentHandle, Parent: netlink.HANDLE_ROOT}
	if !i.bare() {
		err := netlink.QdiscAdd(netlink.NewNetem(at, netlink.NetemQdiscAttrs{
			Loss: i.Loss, Duplicate: i.Duplicate, ReorderProb: i.Reorder,
			Latency: uint32(i.Delay.Microseconds()), Limit: impairmentQueue,
		}))
		if err != nil || i.Bottleneck.Rate == 0 {
			return err
		}
		at.Parent = at.Handle | 1
	}
	at.Handle = bottleneckHandle
	return i.Bottleneck.put(link, at)
}

// bare says whether an impairment is nothing but a bottleneck.
func (i Impairment) bare() bool {
	return i.Bottleneck.Rate > 0 && i.Loss == 0 && i.Duplicate == 0 && i.Reorder == 0 && i.Delay == 0
}

// put puts the bottleneck at its place below an impairment, or instead of one.
func (b Bottleneck) put(link netlink.Link, at netlink.QdiscAttrs) error {
	burst := b.Burst
	if burst == 0 {
		burst = 2 * (link.Attrs().MTU + ethernetHeader)
	}
	rate := b.Rate / 8
	err := netlink.QdiscAdd(&netlink.Tbf{QdiscAttrs: at, Rate: rate, Limit: uint32(b.Bytes), Buffer: netlink.Xmittime(rate, uint32(burst))})
	if err != nil || b.Packets == 0 {
		return err
	}
	// A netem that does nothing is a queue of a number of packets.
	at.Parent, at.Handle = at.Handle|1, queueHandle
	return netlink.QdiscAdd(netlink.NewNetem(at, netlink.NetemQdiscAttrs{Limit: uint32(b.Packets)}))
}

// ethernetHeader is the length of the header that the kernel counts as part of a packet, in bytes.
const ethernetHeader = 14

// ifbQueue is how many packets an IFB takes from its qdisc at once; its default is 32.
const ifbQueue = 1000

// addIFB adds the IFB device that belongs to a device.
func addIFB(link netlink.Link) (netlink.Link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.TxQLen = ifbName(link.Attrs().Name), link.Attrs().MTU, ifbQueue
	if err := netlink.LinkAdd(&netlink.Ifb{LinkAttrs: attrs}); err != nil {
		return nil, fmt.Errorf("ifb: %w", err)
	}
	queue, err := netlink.LinkByName(attrs.Name)
	if err != nil {
		return nil, err
	}
	if err := netlink.LinkSetUp(queue); err != nil {
		return nil, fmt.Errorf("ifb up: %w", err)
	}
	return queue, nil
}

// redirectReceived sends what a device receives through its IFB, whose queue holds it up before it goes on. It runs in the device's
// namespace.
func redirectReceived(link, ifb netlink.Link) error {
	if err := netlink.QdiscAdd(ingress(link)); err != nil {
		return fmt.Errorf("ingress: %w", err)
	}
	err := netlink.FilterAdd(&netlink.MatchAll{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: link.Attrs().Index,
			Parent:    netlink.MakeHandle(0xffff, 0), // the ingress qdisc's handle
			Priority:  1,
			Protocol:  unix.ETH_P_ALL,
		},
		Actions: []netlink.Action{netlink.NewMirredAction(ifb.Attrs().Index)},
	})
	if err != nil {
		return fmt.Errorf("redirection: %w", err)
	}
	return nil
}

// ifbName is the name of the IFB device that belongs to a device, at most 15 characters.
func ifbName(device string) string { return "i" + device[:min(len(device), unix.IFNAMSIZ-2)] }

func ingress(link netlink.Link) netlink.Qdisc {
	return &netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: link.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_INGRESS,
	}}
}
