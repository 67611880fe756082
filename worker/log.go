package worker

import (
	"context"
	"log/slog"

	"github.com/vasta-net/vasta/flow/tcp"
	"github.com/vasta-net/vasta/hostsock"
)

var kindNames = [...]string{freeSlot: "none", tcpFlow: "TCP", udpFlow: "UDP", icmpFlow: "ICMP", dnsFlow: "resolver", spliceFlow: "TCP"}

var endings = [...]string{
	tcp.NotOver: "closed", tcp.Finished: "finished", tcp.GuestReset: "reset by the guest",
	tcp.HostReset: "reset by the host", tcp.GuestSilent: "the guest is silent", tcp.Evicted: "evicted",
}

// talks reports whether flows are logged. It is asked once: what is written for each flow costs much more than the flow.
func talks(log *slog.Logger) bool { return log.Enabled(context.Background(), slog.LevelDebug) }

// logOpened tells of a new flow.
func (w *Worker) logOpened(f *flowSlot) { w.logFlow("flow opened", f) }

// logEnded tells of the end of a flow.
func (w *Worker) logEnded(f *flowSlot) {
	if f.kind != tcpFlow {
		w.logFlow("flow ended", f)
		return
	}
	w.logFlow("flow ended", f, slog.String("how", endings[f.conn.Why()]))
}

// logRefused tells why the host side of a flow could not be opened.
func (w *Worker) logRefused(f *flowSlot, err hostsock.Errno) {
	w.logFlow("flow refused", f, slog.String("error", err.Error()))
}

func (w *Worker) logFlow(what string, f *flowSlot, more ...slog.Attr) {
	attrs := append([]slog.Attr{
		slog.String("protocol", kindNames[f.kind]),
		slog.String("guest", f.key.GuestAddrPort().String()), slog.String("peer", f.key.PeerAddrPort().String()),
	}, more...)
	w.Log.LogAttrs(context.Background(), slog.LevelDebug, what, attrs...)
}
