package overloadbench

import (
	"context"
	"errors"
	"fmt"

	"github.com/vasta-net/vasta/bench/pktgen"
	"github.com/vishvananda/netlink"
)

// tapName is the interface of a tapBed, in the network namespace of the run.
const tapName = "overload"

// tapBed is producers that send out of a TAP interface, by packet sockets, and a consumer behind it.
type tapBed struct {
	tap *pktgen.TAP
}

func newTAPBed(s setup) (bed, error) {
	tap, err := pktgen.OpenTAP(tapName, 0)
	if err != nil {
		return nil, err
	}
	b := &tapBed{tap: tap}
	l, err := netlink.LinkByName(tapName)
	if err == nil {
		err = netlink.LinkSetTxQLen(l, s.ring)
	}
	if err == nil {
		err = netlink.LinkSetUp(l)
	}
	if err == nil {
		err = pktgen.AwaitCarrier(context.Background(), tapName)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("TAP %s: %w", tapName, err), tap.Close())
	}
	return b, nil
}

func (b *tapBed) out(int, int) (pktgen.Port, error) { return pktgen.OpenInterface(tapName, false) }

// in is the TAP itself: the bed closes it.
func (b *tapBed) in() (pktgen.Port, error) { return openTAP{b.tap}, nil }

// openTAP is a TAP that Close leaves open.
type openTAP struct{ *pktgen.TAP }

func (openTAP) Close() error { return nil }

func (b *tapBed) counts() (c counts, err error) {
	c.dropped, err = pktgen.LostOut(tapName)
	return c, err
}

func (b *tapBed) close() error { return b.tap.Close() }
