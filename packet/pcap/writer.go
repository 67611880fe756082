// Package pcap writes the frames of a link to a capture file in the pcapng format, which Wireshark, tshark and
// tcpdump read.
//
// Frames are written as they cross the link: those that the other side segments (GSO) are whole, and marked by a
// comment; checksums that are still partial are so in the file as well.
package pcap

import (
	"bufio"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
	"github.com/vasta-net/vasta/packet"
)

// Direction says which way a frame went. In the file, frames from the guest are inbound, frames to it outbound.
type Direction uint8

// The directions.
const (
	FromGuest Direction = iota
	ToGuest
)

const (
	snapLen    = 128 << 10 // bytes kept of a frame: more than any link carries
	chunkSize  = 256 << 10 // bytes of a write to the file
	chunks     = 4         // writes that may wait for the file
	blockExtra = 512       // at least what a block has besides the frame: headers, options and padding

	flushDelay = time.Second            // how long a frame stays in memory
	stallLimit = 100 * time.Millisecond // how long the link may wait for a file that does not take more
	closeLimit = 2 * time.Second        // how long Close may
)

// Writer writes one capture file. All methods may be called from several goroutines.
//
// Frames are encoded into memory by the caller of Capture, and written by a goroutine of the Writer. A file that is
// slower than the link slows the link down; a file that takes nothing for stallLimit (a pipe that nobody
// reads) has frames left out until it does, and their number is in the file's statistics.
type Writer struct {
	file *os.File
	log  *slog.Logger
	now  func() time.Time

	mu      sync.Mutex
	ng      *pcapgo.NgWriter
	buf     *bufio.Writer // what ng writes to; it is flushed between two blocks only
	frame   []byte        // a frame's pieces put together
	next    []byte        // the chunk that takes the flush under way
	timer   *time.Timer   // flushes a while after the first block
	armed   bool
	stalled bool
	closed  bool
	stats   pcapgo.NgInterfaceStatistics

	free, full chan []byte // the chunks, empty and to be written
	failed     atomic.Bool // writing has failed; nothing more is captured
	drained    chan struct{}
}

// Create makes the file at path, readable by its owner only, instead of one that is there, and begins a capture of
// the link of the given name. Problems in writing later on are logged to log, once, and end the capture.
func Create(path, link string, log *slog.Logger) (*Writer, error) {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("packet capture: %w", err)
	}
	w := &Writer{
		file: file, log: log, now: time.Now, frame: make([]byte, snapLen),
		free: make(chan []byte, chunks), full: make(chan []byte, chunks), drained: make(chan struct{}),
	}
	for range chunks {
		w.free <- make([]byte, chunkSize)
	}
	w.stats.StartTime = w.now()
	w.buf = bufio.NewWriterSize(chunker{w}, chunkSize)
	w.ng, err = pcapgo.NewNgWriterInterface(w.buf,
		pcapgo.NgInterface{
			Name: link, Description: "frames with their virtio-net offloads: GSO frames are whole, checksums may be partial",
			LinkType: layers.LinkTypeEthernet, SnapLength: snapLen, OS: runtime.GOOS,
		},
		pcapgo.NgWriterOptions{SectionInfo: pcapgo.NgSectionInfo{Application: "vasta", OS: runtime.GOOS, Hardware: runtime.GOARCH}})
	if err != nil {
		return nil, fmt.Errorf("packet capture %s: %w", path, err)
	}
	w.timer = time.AfterFunc(flushDelay, w.flushLater)
	w.flush(0)
	go w.drain()
	return w, nil
}

// Capture writes one frame, whose bytes are those of bufs in order; it keeps neither. It blocks for stallLimit at most.
func (w *Writer) Capture(d Direction, hdr *packet.NetHdr, bufs [][]byte) {
	if w.failed.Load() {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return
	}
	length, kept := 0, 0
	for _, b := range bufs {
		length += len(b)
		kept += copy(w.frame[kept:], b)
	}
	w.stats.PacketsReceived++
	if w.buf.Available() < kept+blockExtra && !w.flush(stallLimit) {
		w.stats.PacketsDropped++
		return
	}
	flags := pcapgo.NgEpbFlags{Direction: pcapgo.NgEpbFlagDirectionInbound}
	if d == ToGuest {
		flags.Direction = pcapgo.NgEpbFlagDirectionOutbound
	}
	opts := pcapgo.NgPacketOptions{Flags: &flags}
	if hdr.GSOType != packet.GSONone {
		opts.Comments = []string{describeGSO(hdr)}
	}
	w.check(w.ng.WritePacketWithOptions(gopacket.CaptureInfo{Timestamp: w.now(), CaptureLength: kept, Length: length}, w.frame[:kept], opts))
	if !w.armed {
		w.armed = true
		w.timer.Reset(flushDelay)
	}
}

// describeGSO is the comment of a frame that stands for several segments.
func describeGSO(h *packet.NetHdr) string {
	var kind string
	switch h.GSOType &^ packet.GSOECN {
	case packet.GSOTCPv4:
		kind = "TCPv4"
	case packet.GSOTCPv6:
		kind = "TCPv6"
	case packet.GSOUDPL4:
		kind = "UDP"
	default:
		kind = fmt.Sprintf("%#x", h.GSOType)
	}
	if h.GSOType&packet.GSOECN != 0 {
		kind += "+ECN"
	}
	return fmt.Sprintf("GSO size %d type %s headers %d", h.GSOSize, kind, h.HdrLen)
}

// Close writes what is in memory and the statistics, and closes the file. It gives up on a file that takes nothing
// for closeLimit. Frames captured after it are ignored; so is a second Close.
func (w *Writer) Close() error {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return nil
	}
	w.closed = true
	w.timer.Stop()
	// Only files that can block for good have deadlines: for the others this fails, and is not needed.
	_ = w.file.SetWriteDeadline(time.Now().Add(closeLimit))
	w.stalled = false
	if w.flush(closeLimit) {
		w.stats.EndTime = w.now()
		w.stats.LastUpdate = w.stats.EndTime
		w.check(w.ng.WriteInterfaceStats(0, w.stats))
		w.flush(closeLimit)
	}
	close(w.full)
	w.mu.Unlock()
	<-w.drained
	if w.stats.PacketsDropped > 0 {
		w.log.Warn("packet capture is incomplete: the file did not take all frames", "file", w.file.Name(),
			"lost", w.stats.PacketsDropped, "seen", w.stats.PacketsReceived)
	}
	if err := w.file.Close(); err != nil {
		return fmt.Errorf("packet capture: %w", err)
	}
	return nil
}

// flushLater is the timer's.
func (w *Writer) flushLater() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.armed = false
	if !w.closed && !w.flush(0) {
		w.armed = true
		w.timer.Reset(flushDelay)
	}
}

// flush hands what is in the buffer to the goroutine that writes. It waits so long for a free chunk, but not again
// before one has become free, and reports whether the buffer is empty now.
func (w *Writer) flush(wait time.Duration) bool {
	if w.buf.Buffered() == 0 {
		return true
	}
	select {
	case w.next = <-w.free:
	default:
		if w.stalled || wait == 0 {
			return false
		}
		t := time.NewTimer(wait)
		defer t.Stop()
		select {
		case w.next = <-w.free:
		case <-t.C:
			w.stalled = true
			return false
		}
	}
	w.stalled = false
	w.check(w.buf.Flush())
	return true
}

// chunker is where the buffer is flushed to: the chunk that was taken for it. Both are of the same size.
type chunker struct{ w *Writer }

func (c chunker) Write(b []byte) (int, error) {
	n := copy(c.w.next, b)
	c.w.full <- c.w.next[:n]
	return n, nil
}

// drain writes chunks to the file until Close. A chunk ends where a block ends, so a file that could
// not take one is cut back to the last that it took, and stays readable.
func (w *Writer) drain() {
	defer close(w.drained)
	size := int64(0)
	for c := range w.full {
		if !w.failed.Load() {
			_, err := w.file.Write(c)
			if err != nil {
				w.check(err)
				_ = w.file.Truncate(size) // a pipe cannot be cut, and needs no cutting
			}
			size += int64(len(c))
		}
		w.free <- c[:chunkSize]
	}
}

// check ends the capture at the first error.
func (w *Writer) check(err error) {
	if err != nil && !w.failed.Swap(true) {
		w.log.Error("packet capture stopped, the network goes on without", "file", w.file.Name(), "error", err)
	}
}
