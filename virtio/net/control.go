package net

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/vasta-net/vasta/virtio/queue"
)

// Classes and commands of the control queue (5.1.6.5).
const (
	classRX       = 0 // PROMISC 0, ALLMULTI 1, ALLUNI 2, NOMULTI 3, NOUNI 4, NOBCAST 5
	classMAC      = 1 // TABLE_SET 0, ADDR_SET 1
	classVLAN     = 2 // ADD 0, DEL 1
	classAnnounce = 3 // ACK 0
	classMQ       = 4 // VQ_PAIRS_SET 0, RSS_CONFIG 1, HASH_CONFIG 2
	classOffloads = 5 // SET 0
	classCoal     = 6 // TX_SET 0, RX_SET 1, VQ_SET 2, VQ_GET 3

	ackOK  = 0
	ackErr = 1
)

// RXMode is one of the ways to widen or narrow what a device receives.
type RXMode uint8

// The receive modes; the first two need CTRL_RX, the others CTRL_RX_EXTRA.
const (
	Promisc RXMode = iota
	AllMulti
	AllUni
	NoMulti
	NoUni
	NoBroadcast
	numRXModes
)

// Coalescing is when a device notifies: after so many packets or microseconds.
type Coalescing struct{ MaxPackets, MaxUsecs uint32 }

// ErrControl is what a command answers that the device has refused, and ErrNoAnswer one that it has not carried out in time: the queue is out of use then.
var (
	ErrControl  = errors.New("virtio-net: the device refuses the command")
	ErrNoAnswer = errors.New("virtio-net: the device does not answer on the control queue")
)

// answerTime is how long the control queue waits for the device.
const answerTime = 5 * time.Second

const (
	controlSize = 16      // descriptors
	controlData = 8 << 10 // bytes of a command: the longest is a table of addresses
)

// command is one command on its way to the goroutine that owns the control queue.
type command struct {
	class, cmd uint8
	data       []byte
	reply      []byte // for the device to fill, in front of the ack
	needs      Features
	done       chan error
}

// control is the driver's end of the control queue. Its goroutine alone touches it, so that commands from anywhere never meet in it.
type control struct {
	vq       queue.Driver
	t        Transport
	index    int
	mem      []byte // the command, then 16 bytes for reply and ack
	addr     uint64
	commands chan command
	answered chan struct{} // the device has called
	quit     chan struct{}
	ended    chan struct{}
}

// controlIndex is the number of the control queue (5.1.2).
func (f Features) controlIndex(maxPairs int) int {
	if f&(MQ|RSS) != 0 {
		return 2 * maxPairs
	}
	return 2
}

func (d *Driver) startControl(ring queue.DriverConfig, mem []byte, addr uint64) error {
	vq, err := queue.NewDriver(ring)
	if err != nil {
		return err
	}
	c := &control{
		vq: vq, t: d.t, index: d.features.controlIndex(int(d.config.MaxPairs)), mem: mem, addr: addr,
		commands: make(chan command), answered: make(chan struct{}, 1), quit: make(chan struct{}), ended: make(chan struct{}),
	}
	if err := d.t.Attach(c.index, ring.Ring, func() {
		select {
		case c.answered <- struct{}{}:
		default:
		}
	}); err != nil {
		return err
	}
	d.control = c
	go c.run()
	return nil
}

// run carries commands out, one after the other.
func (c *control) run() {
	defer close(c.ended)
	for {
		select {
		case x := <-c.commands:
			x.done <- c.carryOut(x)
		case <-c.quit:
			return
		}
	}
}

func (c *control) carryOut(x command) error {
	if err := c.vq.Err(); err != nil {
		return err
	}
	if c.vq.InFlight() > 0 {
		return ErrNoAnswer // the one before may still be written to
	}
	c.mem[0], c.mem[1] = x.class, x.cmd
	n := 2 + copy(c.mem[2:controlData], x.data)
	answer := c.mem[controlData:]
	clear(answer)
	answer[len(x.reply)] = ackErr
	out := []queue.Segment{{Addr: c.addr, Len: uint32(n)}}
	in := []queue.Segment{{Addr: c.addr + controlData, Len: uint32(len(x.reply) + 1)}}
	if k, err := c.vq.Publish([]queue.Buffer{{Out: out, In: in}}); k == 0 {
		return errors.Join(err, ErrNoAnswer)
	}
	if c.vq.ShouldNotify() {
		c.t.Kick(c.index)
	}
	late := time.NewTimer(answerTime)
	defer late.Stop()
	var used [1]queue.Used
	for {
		k, err := c.vq.Reap(used[:])
		if err != nil {
			return err
		}
		if k == 1 {
			break
		}
		if c.vq.Listen(1) {
			continue
		}
		select {
		case <-c.answered:
		case <-late.C:
			return ErrNoAnswer
		case <-c.quit:
			return errClosed
		}
	}
	if answer[len(x.reply)] != ackOK {
		return ErrControl
	}
	copy(x.reply, answer)
	return nil
}

// stop ends the goroutine and waits for it.
func (c *control) stop() {
	close(c.quit)
	<-c.ended
}

// command hands a command to the control queue and waits for what becomes of it. Any goroutine.
func (d *Driver) command(ctx context.Context, x command) error {
	if !d.features.Has(x.needs) {
		return fmt.Errorf("virtio-net: %v was not negotiated", x.needs&^d.features)
	}
	if d.control == nil {
		return errors.New("virtio-net: CTRL_VQ was not negotiated")
	}
	if len(x.data) > controlData-2 {
		return fmt.Errorf("virtio-net: a command of %d bytes; at most %d", len(x.data), controlData-2)
	}
	x.done = make(chan error, 1)
	select {
	case d.control.commands <- x:
	case <-d.control.ended:
		return errClosed
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case err := <-x.done:
		return err
	case <-d.control.ended:
		return errClosed
	}
}

// SetPairs has the device use so many pairs, 1 to all; pools and rings of all are there already. Commands may be given from any goroutine.
func (d *Driver) SetPairs(ctx context.Context, n int) error {
	if n < 1 || n > len(d.pairs) {
		return fmt.Errorf("virtio-net: %d queue pairs; there are 1 to %d", n, len(d.pairs))
	}
	return d.command(ctx, command{class: classMQ, data: le16(n), needs: MQ})
}

// SetRXMode switches a receive mode.
func (d *Driver) SetRXMode(ctx context.Context, m RXMode, on bool) error {
	needs := CtrlRX
	if m > AllMulti {
		needs = CtrlRXExtra
	}
	return d.command(ctx, command{class: classRX, cmd: uint8(m), data: []byte{byte(btoi(on))}, needs: needs})
}

// SetMAC sets the address that the device receives for.
func (d *Driver) SetMAC(ctx context.Context, mac [6]byte) error {
	return d.command(ctx, command{class: classMAC, cmd: 1, data: mac[:], needs: CtrlMACAddr})
}

// SetMACTable sets the further addresses that the device receives for.
func (d *Driver) SetMACTable(ctx context.Context, unicast, multicast [][6]byte) error {
	var b []byte
	for _, list := range [][][6]byte{unicast, multicast} {
		b = binary.LittleEndian.AppendUint32(b, uint32(len(list)))
		for _, mac := range list {
			b = append(b, mac[:]...)
		}
	}
	return d.command(ctx, command{class: classMAC, data: b, needs: CtrlRX})
}

// SetVLAN has the device pass a VLAN, or not any more.
func (d *Driver) SetVLAN(ctx context.Context, id int, pass bool) error {
	if id < 0 || id > 4095 {
		return fmt.Errorf("virtio-net: VLAN %d; 0 to 4095", id)
	}
	return d.command(ctx, command{class: classVLAN, cmd: uint8(btoi(!pass)), data: le16(id), needs: CtrlVLAN})
}

// AckAnnounce tells the device that its wish to be announced was carried out.
func (d *Driver) AckAnnounce(ctx context.Context) error {
	return d.command(ctx, command{class: classAnnounce, needs: GuestAnnounce})
}

// SetOffloads switches receive offloads, of those that were negotiated: GUEST_CSUM, GUEST_TSO4 and so on.
func (d *Driver) SetOffloads(ctx context.Context, f Features) error {
	return d.command(ctx, command{class: classOffloads, data: binary.LittleEndian.AppendUint64(nil, uint64(f)), needs: CtrlGuestOffloads})
}

// SetRSS has the device spread frames by their hashes.
func (d *Driver) SetRSS(ctx context.Context, r RSSConfig) error {
	if len(r.Table) == 0 || !isPowerOf2(len(r.Table)) || len(r.Key) > 255 {
		return fmt.Errorf("virtio-net: RSS with a table of %d and a key of %d bytes; a power of two, and at most 255", len(r.Table), len(r.Key))
	}
	le := binary.LittleEndian
	b := le.AppendUint32(nil, r.Types)
	b = le.AppendUint16(b, uint16(len(r.Table)-1))
	b = le.AppendUint16(b, r.Unclassified)
	for _, q := range r.Table {
		b = le.AppendUint16(b, q)
	}
	b = le.AppendUint16(b, r.MaxTx)
	b = append(append(b, byte(len(r.Key))), r.Key...)
	return d.command(ctx, command{class: classMQ, cmd: 1, data: b, needs: RSS})
}

// SetCoalescing says how notifications are put together, for all transmit or all receive queues.
func (d *Driver) SetCoalescing(ctx context.Context, transmit bool, c Coalescing) error {
	return d.command(ctx, command{class: classCoal, cmd: uint8(btoi(!transmit)), data: c.encode(nil), needs: NotfCoal})
}

// SetQueueCoalescing says it for one queue, by its number among all.
func (d *Driver) SetQueueCoalescing(ctx context.Context, index int, c Coalescing) error {
	return d.command(ctx, command{class: classCoal, cmd: 2, data: c.encode(append(le16(index), 0, 0)), needs: VQNotfCoal})
}

// QueueCoalescing asks what holds for one queue.
func (d *Driver) QueueCoalescing(ctx context.Context, index int) (c Coalescing, err error) {
	var reply [8]byte
	err = d.command(ctx, command{class: classCoal, cmd: 3, data: append(le16(index), 0, 0), reply: reply[:], needs: VQNotfCoal})
	c.MaxPackets, c.MaxUsecs = binary.LittleEndian.Uint32(reply[:]), binary.LittleEndian.Uint32(reply[4:])
	return c, err
}

func (c Coalescing) encode(b []byte) []byte {
	return binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(b, c.MaxPackets), c.MaxUsecs)
}

func le16(n int) []byte { return binary.LittleEndian.AppendUint16(nil, uint16(n)) }
