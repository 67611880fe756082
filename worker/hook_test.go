package worker_test

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/stats"
	"github.com/vasta-net/vasta/worker"
)

// TestHook: of a batch, echo requests to one host are dropped, those to another go back as they came, through a queue that is full the first time, a Redirect goes
// nowhere when nobody takes it, and what passes reaches the gateway: in order, and no flow is made of the others.
func TestHook(t *testing.T) {
	swap := 0
	r := newRig(t, func(c *worker.Config) {
		c.Hook = func(frames []packet.Frame, verdicts []packet.Verdict) {
			for i := range frames {
				var b [38]byte
				if frames[i].CopyAt(b[:], 0); binary.BigEndian.Uint16(b[12:]) != packet.EtherIPv4 {
					continue
				}
				switch b[33] { // the last byte of the destination
				case 10:
					verdicts[i] = packet.Drop
				case 11:
					packet.SwapMACs(frames[i:i+1], verdicts[i:i+1])
					swap++
				case 12:
					verdicts[i] = packet.RedirectTo(3)
				}
			}
		}
	})
	echo := func(last byte) []byte {
		return serialize(guest4, server4, layers.IPProtocolICMPv4,
			&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(layers.ICMPv4TypeEchoRequest, 0), Id: uint16(last)}, gopacket.Payload("payload"))
	}
	to := func(last byte) []byte {
		b := echo(last)
		old := b[33]
		b[33] = last
		// The header's sum changes by as much as the address does (RFC 1624).
		sum := uint32(^binary.BigEndian.Uint16(b[24:])) + uint32(^uint16(old)) + uint32(last)
		sum = sum&0xffff + sum>>16
		binary.BigEndian.PutUint16(b[24:], ^uint16(sum&0xffff+sum>>16))
		return b
	}
	r.link.Refuse(1)
	for _, last := range []byte{10, 11, 20, 12, 11, 21} {
		r.link.Inject(packet.NetHdr{}, to(last))
	}
	r.settle()
	sent := r.link.Take()
	back := to(11)
	copy(back, guestMAC[:])
	copy(back[6:], gwMAC[:])
	if len(sent) != 1 || !bytes.Equal(sent[0].Data, back) || swap != 2 {
		t.Errorf("%d frames came back, of %d", len(sent), swap)
	}
	r.dropped(stats.Filtered, 1)
	r.dropped(stats.RedirectRefused, 1)
	r.dropped(stats.LinkFull, 1)
	if s := r.stats; s.RxFrames != 6 || s.ICMPOpened != 2 || s.TxFrames != 1 {
		t.Errorf("%d frames from the guest, %d echo flows, %d frames to the guest", s.RxFrames, s.ICMPOpened, s.TxFrames)
	}
}
