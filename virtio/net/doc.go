// Package net is virtio-net (virtio 1.3, 5.1): a driver, which is what a network card is to an operating system, and the device end, which is the
// card. Both stand on virtio/queue, and on pagepool for their memory.
//
// # The way of a frame
//
//	driver (Pair)                                                  device (DevicePair)
//	pool ─CutPiece─▶ Send ── one descriptor: header and frame ──▶  Take   frames borrowed until Done
//	pool ◀──Put───── reclaim ◀──────────────────────────────────── Done
//	pool ─CutPiece─▶ refill ── empty buffers ───────────────────▶  Deliver copies into as many as the frame needs
//	frames, views of the buffers ◀─ Receive ◀───────────────────── returns them together
//
// A received frame is a view of the buffers that the device wrote, with room in front of it and behind: no byte is copied, but for
// frames up to the copy-break, whose buffers are posted again as they are. It is borrowed until the next Receive. The hook sees it before anything else
// does, the copy-break too, and what the hook drops has cost no more than that.
//
// # Receive modes
//
// Small: a buffer of one descriptor for one frame of the MTU. Big: a chain of pages for one frame of up to 64 KiB. Mergeable: buffers of one descriptor,
// of which the device uses as many as a frame needs; their length follows the mean length of frames.
//
// # Concurrency
//
// A Pair and a DevicePair belong to one goroutine each; pairs know nothing of each other. What concerns the whole device goes through the
// control queue, which one goroutine of the Driver owns.
package net

import (
	"errors"

	"github.com/vasta-net/vasta/pagepool"
	"github.com/vasta-net/vasta/virtio/queue"
)

// Lengths of the header, in bytes.
const (
	plainHdrLen = 12 // struct virtio_net_hdr with num_buffers
	hashHdrLen  = 20 // ... and the hash (HASH_REPORT)
)

// MaxFrame is the longest frame in bytes, without its header: an IP packet of 64 KiB less one byte, its Ethernet header, and a VLAN tag less three bytes
// (5.1.6.3.1 has the sum, 65,550).
const MaxFrame = 65550

// ErrBroken is what every error is that a peer has caused by breaking a rule; the queue is out of use until it is reset.
var ErrBroken = queue.ErrBroken

// errClosed is what calls answer after Close.
var errClosed = errors.New("virtio-net: the driver is closed")

// Transport is how a driver finds its device: a Device in this process, or one behind vhost. The rings and the memory in them are shared; what is here
// is for starting, stopping and waking.
type Transport interface {
	pagepool.Mapper

	// Offered are the features that the device offers.
	Offered() Features
	// ReadConfig copies the configuration from off on and answers its generation, which changes when the configuration does (2.5).
	ReadConfig(p []byte, off int) (generation uint32)
	// QueueLimit is the largest size of a queue; 0 when there is no such queue.
	QueueLimit(i int) int
	// Negotiate sets the features for good (FEATURES_OK); an error is the device's refusal.
	Negotiate(f Features) error
	// Attach gives the device a ring. The device calls call, from any goroutine, when it wants the driver's attention.
	Attach(i int, r queue.Ring, call func()) error
	// Start sets DRIVER_OK: from here on the device may use the rings.
	Start() error
	// Kick tells the device to look at a queue.
	Kick(i int)
	// Reset stops the device and takes rings and features back. When it returns, the device touches no ring any more.
	Reset() error
}

// rxIndex and txIndex are the queues of a pair (5.1.2).
func rxIndex(pair int) int { return 2 * pair }
func txIndex(pair int) int { return 2*pair + 1 }
