package net

import (
	"encoding/binary"
	"slices"

	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/virtio/queue"
)

// controlState is what the driver has set by the control queue. It is replaced as a whole, so that the pairs read one state for a batch.
type controlState struct {
	pairs    int // in use
	filters  bool
	modes    [numRXModes]bool
	mac      [6]byte
	unicast  [][6]byte
	multi    [][6]byte
	vlans    *[4096 / 64]uint64 // nil: all pass
	offloads Features           // receive offloads in force
	rss      *RSSConfig
	coal     []Coalescing // by queue
}

// initialState is that after a reset.
func initialState(f Features, c *Config) *controlState {
	s := &controlState{pairs: 1, mac: c.MAC, filters: f&(CtrlRX|CtrlMACAddr) != 0, offloads: f & (guestGSO | GuestCsum | GuestECN), coal: make([]Coalescing, 2*int(c.MaxPairs))}
	s.modes[Promisc] = !f.Has(CtrlRX) // who cannot ask for less gets all
	if f.Has(CtrlVLAN) {
		s.vlans = new([64]uint64)
	}
	return s
}

// passes says whether a frame is for the driver (5.1.6.5.1 to 5.1.6.5.3).
func (s *controlState) passes(f *packet.Frame) bool {
	var b [18]byte
	n := f.CopyAt(b[:], 0)
	if s.vlans != nil && n >= 16 && b[12] == 0x81 && b[13] == 0 {
		if id := binary.BigEndian.Uint16(b[14:]) & 0xfff; s.vlans[id/64]>>(id%64)&1 == 0 {
			return false
		}
	}
	if !s.filters || s.modes[Promisc] {
		return true
	}
	dst := [6]byte(b[:6])
	switch {
	case dst == [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}:
		return !s.modes[NoBroadcast]
	case dst[0]&1 != 0:
		return !s.modes[NoMulti] && (s.modes[AllMulti] || slices.Contains(s.multi, dst))
	}
	return !s.modes[NoUni] && (s.modes[AllUni] || dst == s.mac || slices.Contains(s.unicast, dst))
}

// Steer says which pair a frame is to be delivered by: as the driver has asked for with RSS; without it, the pair that the driver has sent the frame's flow by.
func (d *Device) Steer(f *packet.Frame) int {
	s := d.state.Load()
	if s == nil || s.rss == nil && s.pairs == 1 {
		return 0
	}
	if s.rss == nil {
		return d.steering.pair(f, s.pairs)
	}
	hash, report := hashOf(f, s.rss.Types, s.rss.Key)
	if report == 0 {
		return int(s.rss.Unclassified)
	}
	return int(s.rss.Table[int(hash)&(len(s.rss.Table)-1)])
}

// AskAnnounce asks the driver to announce its address, by the configuration.
func (d *Device) AskAnnounce() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.config.Status |= announce
	d.generation++
}

// serveControl carries out the commands that wait. The lock is held.
func (d *Device) serveControl() {
	if d.control == nil {
		return
	}
	var chains [controlSize]queue.Chain
	for {
		n, err := d.control.Take(chains[:])
		if err != nil || n == 0 && !d.control.Listen(1) {
			return
		}
		done := make([]queue.Done, n)
		for i, c := range chains[:n] {
			done[i] = queue.Done{ID: c.ID, Len: d.serve(&c)}
		}
		if d.control.Return(done) != nil {
			return
		}
		if d.control.ShouldNotify() {
			d.rings[d.controlIndex()].call()
		}
	}
}

func (d *Device) controlIndex() int { return d.features.controlIndex(len(d.pairs)) }

// serve carries out one command, however it is cut, and writes reply and ack (5.1.6.5). It answers how much it has written.
func (d *Device) serve(c *queue.Chain) (written uint32) {
	var cmd [controlData + 1]byte
	n := 0
	for _, b := range c.Out {
		n += copy(cmd[n:], b)
	}
	ack, reply := byte(ackErr), []byte(nil)
	if n >= 2 && n <= controlData {
		reply, ack = d.obey(cmd[0], cmd[1], cmd[2:n], int(c.InLen)-1)
	}
	reply = append(reply, ack)
	for _, b := range c.In {
		k := copy(b, reply)
		reply = reply[k:]
		written += uint32(k)
	}
	return written
}

// obey carries out a command of which data is what follows class and command; room is what there is for a reply.
func (d *Device) obey(class, cmd uint8, data []byte, room int) (reply []byte, ack byte) {
	s := *d.state.Load()
	ok := false
	switch class {
	case classRX:
		ok = s.setRXMode(d.features, cmd, data)
	case classMAC:
		ok = s.setMAC(d, cmd, data)
	case classVLAN:
		ok = s.setVLAN(d.features, cmd, data)
	case classAnnounce:
		if ok = d.features.Has(GuestAnnounce) && cmd == 0 && len(data) == 0; ok {
			d.config.Status &^= announce
			d.generation++
		}
	case classMQ:
		ok = s.setQueues(d, cmd, data)
	case classOffloads:
		if ok = d.features.Has(CtrlGuestOffloads) && cmd == 0 && len(data) == 8; ok {
			f := Features(binary.LittleEndian.Uint64(data))
			if ok = f&^(d.features&(guestGSO|GuestCsum|GuestECN)) == 0; ok {
				s.offloads = f
			}
		}
	case classCoal:
		reply, ok = s.coalesce(d.features, cmd, data, room)
	}
	if !ok {
		return nil, ackErr
	}
	d.state.Store(&s) // before the command is used: the filter table has to be in force then (5.1.6.5.2.2)
	return reply, ackOK
}

func (s *controlState) setRXMode(f Features, cmd uint8, data []byte) bool {
	needs := CtrlRX
	if RXMode(cmd) > AllMulti {
		needs = CtrlRXExtra
	}
	if cmd >= uint8(numRXModes) || !f.Has(needs) || len(data) != 1 || data[0] > 1 {
		return false
	}
	s.modes[cmd] = data[0] == 1
	return true
}

func (s *controlState) setMAC(d *Device, cmd uint8, data []byte) bool {
	switch {
	case cmd == 1 && d.features.Has(CtrlMACAddr) && len(data) == 6:
		s.mac = [6]byte(data)
		d.config.MAC = s.mac
		d.generation++
		return true
	case cmd == 0 && d.features.Has(CtrlRX):
		var lists [2][][6]byte
		for i := range lists {
			if len(data) < 4 {
				return false
			}
			n := uint64(binary.LittleEndian.Uint32(data))
			data = data[4:]
			if n*6 > uint64(len(data)) {
				return false
			}
			for range n {
				lists[i] = append(lists[i], [6]byte(data))
				data = data[6:]
			}
		}
		s.unicast, s.multi = lists[0], lists[1]
		return len(data) == 0
	}
	return false
}

func (s *controlState) setVLAN(f Features, cmd uint8, data []byte) bool {
	if !f.Has(CtrlVLAN) || cmd > 1 || len(data) != 2 {
		return false
	}
	id := binary.LittleEndian.Uint16(data)
	if id > 4095 {
		return false
	}
	vlans := *s.vlans
	if cmd == 0 {
		vlans[id/64] |= 1 << (id % 64)
	} else {
		vlans[id/64] &^= 1 << (id % 64)
	}
	s.vlans = &vlans
	return true
}

func (s *controlState) setQueues(d *Device, cmd uint8, data []byte) bool {
	le := binary.LittleEndian
	switch {
	case cmd == 0 && d.features.Has(MQ) && len(data) == 2:
		n := int(le.Uint16(data))
		if n < 1 || n > len(d.pairs) {
			return false
		}
		s.pairs, s.rss = n, nil
		return true
	case cmd == 1 && d.features.Has(RSS) && len(data) >= 8:
		r := &RSSConfig{Types: le.Uint32(data), Unclassified: le.Uint16(data[6:])}
		size := int(le.Uint16(data[4:])) + 1
		data = data[8:]
		if r.Types&^allHashes != 0 || !isPowerOf2(size) || size > maxRSSIndirection || int(r.Unclassified) >= len(d.pairs) || len(data) < 2*size+3 {
			return false
		}
		for range size {
			q := le.Uint16(data)
			if int(q) >= len(d.pairs) {
				return false
			}
			r.Table = append(r.Table, q)
			data = data[2:]
		}
		r.MaxTx = le.Uint16(data)
		key := int(data[2])
		// A key that is shorter than what it hashes would be read beyond its end.
		if r.MaxTx < 1 || int(r.MaxTx) > len(d.pairs) || key != len(data)-3 || key > maxRSSKey || (r.Types != 0 && key < maxRSSKey) {
			return false
		}
		r.Key = slices.Clone(data[3:])
		s.rss = r
		s.pairs = int(max(r.MaxTx, r.Unclassified+1, slices.Max(r.Table)+1))
		return true
	}
	return false
}

func (s *controlState) coalesce(f Features, cmd uint8, data []byte, room int) (reply []byte, ok bool) {
	le := binary.LittleEndian
	coal := slices.Clone(s.coal)
	switch {
	case cmd <= 1 && f.Has(NotfCoal) && len(data) == 8:
		for i := range coal {
			if i%2 == int(1-cmd) { // command 0 is for the transmit queues, which have odd numbers
				coal[i] = Coalescing{le.Uint32(data), le.Uint32(data[4:])}
			}
		}
	case cmd == 2 && f.Has(VQNotfCoal) && len(data) == 12 && int(le.Uint16(data)) < 2*s.pairs:
		coal[le.Uint16(data)] = Coalescing{le.Uint32(data[4:]), le.Uint32(data[8:])}
	case cmd == 3 && f.Has(VQNotfCoal) && len(data) == 4 && int(le.Uint16(data)) < 2*s.pairs && room >= 8:
		return coal[le.Uint16(data)].encode(nil), true
	default:
		return nil, false
	}
	s.coal = coal
	return nil, true
}
