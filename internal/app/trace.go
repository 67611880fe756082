package app

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"

	"github.com/vasta-net/vasta"
	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/stats"
)

// levelTrace is below debug.
const levelTrace = slog.LevelDebug - 4

// tracer logs every frame: what --trace is for.
type tracer struct{ log *slog.Logger }

// frame logs one frame of the link. It may be called by several workers at once.
func (t *tracer) frame(to vasta.Side, hdr *packet.NetHdr, bufs [][]byte) {
	var pkt packet.Packet
	f := packet.Frame{Hdr: *hdr, Bufs: bufs}
	for _, b := range bufs {
		f.Len += len(b)
	}
	attrs := []slog.Attr{slog.String("to", [...]string{vasta.ToHost: "host", vasta.ToGuest: "guest"}[to]), slog.Int("bytes", f.Len)}
	if hdr.GSOType != packet.GSONone {
		attrs = append(attrs, slog.Int("gso_size", int(hdr.GSOSize)))
	}
	switch reason := pkt.Parse(&f); {
	case reason != stats.None:
		attrs = append(attrs, slog.String("bad", reason.String()))
	case pkt.EtherType == packet.EtherARP:
		attrs = append(attrs, slog.String("protocol", "ARP"))
	default:
		attrs = append(attrs, slog.String("protocol", protocolName(pkt.Proto)),
			slog.String("source", end(pkt.Src, pkt.SrcPort)), slog.String("destination", end(pkt.Dst, pkt.DstPort)))
		if pkt.Proto == packet.ProtoTCP {
			attrs = append(attrs, slog.String("flags", fmt.Sprintf("%#02x", pkt.Transport()[13])))
		}
	}
	t.log.LogAttrs(context.Background(), levelTrace, "frame", attrs...)
}

func protocolName(p uint8) string {
	switch p {
	case packet.ProtoTCP:
		return "TCP"
	case packet.ProtoUDP:
		return "UDP"
	case packet.ProtoICMP:
		return "ICMP"
	case packet.ProtoICMPv6:
		return "ICMPv6"
	}
	return fmt.Sprint(p)
}

// end is one end of a packet; ICMP has no ports.
func end(a netip.Addr, port uint16) string {
	if port == 0 {
		return a.String()
	}
	return netip.AddrPortFrom(a, port).String()
}
