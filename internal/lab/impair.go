package lab

import (
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Impairment is what a bad network does to packets in one direction: the kernel's netem, tc-netem(8). Percentages are of packets, each
// chosen independently. netem takes a GSO frame for one packet.
type Impairment struct {
	Name                     string
	Loss, Duplicate, Reorder float32 // percent
	// Delay holds every packet up, except those that Reorder lets overtake. Reorder needs it.
	Delay time.Duration
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
// device, on what it receives. The kernel must have netem, ifb and act_mirred; it loads the modules by itself.
func (ns *Namespace) Impair(device string, i Impairment) error {
	return errors.Join(ns.ImpairSent(device, i), ns.ImpairReceived(device, i))
}

// ImpairSent puts an impairment on what a device of the namespace sends, instead of the one it had.
func (ns *Namespace) ImpairSent(device string, i Impairment) error {
	err := ns.withLink(device, func(link netlink.Link) error { return netlink.QdiscReplace(netem(link, i)) })
	if err != nil {
		return fmt.Errorf("lab: %s on what %s sends: %w", i.Name, device, err)
	}
	return nil
}

// ImpairReceived puts an impairment on what a device of the namespace receives, instead of the one it had.
func (ns *Namespace) ImpairReceived(device string, i Impairment) error {
	err := ns.withLink(device, func(link netlink.Link) error {
		queue, err := redirectReceived(link)
		if err != nil {
			return err
		}
		return netlink.QdiscReplace(netem(queue, i))
	})
	if err != nil {
		return fmt.Errorf("lab: %s on what %s receives: %w", i.Name, device, err)
	}
	return nil
}

// Mend removes the impairments of a device. Packets that they hold are lost.
func (ns *Namespace) Mend(device string) error {
	err := ns.withLink(device, func(link netlink.Link) error {
		ifb, err := netlink.LinkByName(ifbName(device))
		if err == nil { // otherwise only what it sends was impaired
			err = errors.Join(netlink.QdiscDel(ingress(link)), netlink.LinkDel(ifb))
		} else if errors.As(err, new(netlink.LinkNotFoundError)) {
			err = nil
		}
		sent := netlink.QdiscDel(netem(link, Impairment{}))
		if errors.Is(sent, unix.ENOENT) || errors.Is(sent, unix.EINVAL) { // there is only the default queue
			sent = nil
		}
		return errors.Join(err, sent)
	})
	if err != nil {
		return fmt.Errorf("lab: mending %s in %s: %w", device, ns.name, err)
	}
	return nil
}

// Bottleneck is a slow link: a token bucket with a queue that drops what does not fit.
type Bottleneck struct {
	// Rate is in bits per second.
	Rate uint64
	// Queue is the length of the queue, in packets of the device's MTU.
	Queue int
}

// Narrow puts a bottleneck on what a device of the namespace sends, instead of the impairment it had. A delay belongs on the other
// direction, by ImpairReceived, or on another device. GSO frames are cut to packets before they are queued.
func (ns *Namespace) Narrow(device string, b Bottleneck) error {
	err := ns.withLink(device, func(link netlink.Link) error {
		// A bucket of two packets: anything longer is cut up.
		packet := link.Attrs().MTU + ethernetHeader
		rate := b.Rate / 8
		return netlink.QdiscReplace(&netlink.Tbf{
			QdiscAttrs: rootQdisc(link),
			Rate:       rate,
			Limit:      uint32(b.Queue * packet),
			Buffer:     netlink.Xmittime(rate, uint32(2*packet)),
		})
	})
	if err != nil {
		return fmt.Errorf("lab: %d bit/s on what %s sends: %w", b.Rate, device, err)
	}
	return nil
}

// ethernetHeader is the length of the header that the kernel counts as part of a packet, in bytes.
const ethernetHeader = 14

// redirectReceived sends what a device receives through an IFB device, whose queue holds it up before it goes on, and returns that. It
// runs in the device's namespace.
func redirectReceived(link netlink.Link) (netlink.Link, error) {
	name := ifbName(link.Attrs().Name)
	if queue, err := netlink.LinkByName(name); err == nil {
		return queue, nil // it is already done
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = name, link.Attrs().MTU
	if err := netlink.LinkAdd(&netlink.Ifb{LinkAttrs: attrs}); err != nil {
		return nil, fmt.Errorf("ifb: %w", err)
	}
	queue, err := netlink.LinkByName(name)
	if err != nil {
		return nil, err
	}
	if err := netlink.LinkSetUp(queue); err != nil {
		return nil, fmt.Errorf("ifb up: %w", err)
	}
	if err := netlink.QdiscAdd(ingress(link)); err != nil {
		return nil, fmt.Errorf("ingress: %w", err)
	}
	redirect := netlink.NewMirredAction(queue.Attrs().Index)
	err = netlink.FilterAdd(&netlink.MatchAll{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: link.Attrs().Index,
			Parent:    netlink.MakeHandle(0xffff, 0), // the ingress qdisc's handle
			Priority:  1,
			Protocol:  unix.ETH_P_ALL,
		},
		Actions: []netlink.Action{redirect},
	})
	if err != nil {
		return nil, fmt.Errorf("redirection: %w", err)
	}
	return queue, nil
}

// ifbName is the name of the IFB device that belongs to a device, at most 15 characters.
func ifbName(device string) string { return "i" + device[:min(len(device), unix.IFNAMSIZ-2)] }

func rootQdisc(link netlink.Link) netlink.QdiscAttrs {
	return netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT}
}

func ingress(link netlink.Link) netlink.Qdisc {
	return &netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: link.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_INGRESS,
	}}
}

func netem(link netlink.Link, i Impairment) netlink.Qdisc {
	return netlink.NewNetem(rootQdisc(link), netlink.NetemQdiscAttrs{
		Loss: i.Loss, Duplicate: i.Duplicate, ReorderProb: i.Reorder,
		Latency: uint32(i.Delay.Microseconds()), Limit: impairmentQueue,
	})
}
