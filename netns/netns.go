// Package netns makes or joins the network namespace that vasta serves: it creates the user, network, mount and PID
// namespaces (or attaches to existing ones), puts a TAP interface with its addresses and routes inside, runs the command
// there, and hands the TAP's queue descriptors to the caller.
//
// # Processes
//
// Namespaces are entered by a helper process, the stage: the running binary executed again with "vasta-stage" as argv[0].
// A Go process is multithreaded from its first instruction and so can neither unshare nor join a user namespace itself.
// Every program that uses this package must call [StageMain] as the first thing in main.
//
//	caller ──── socketpair ──── stage ──── command
//	(host namespaces)           (pid 1 of the new PID namespace; reaps orphans, keeps no TAP descriptor)
//
// The stage dies with the caller (PR_SET_PDEATHSIG, and end-of-file on the socketpair), and everything in the PID namespace
// dies with the stage, so nothing is left on the host whatever kills the caller. When [Attach] joined a namespace, the stage
// only lives until the TAP is configured, and the TAP itself goes when its last descriptor is closed.
//
// # Privileges
//
// [Create] needs none. [Attach] needs what setns(2) needs: to be the owner of the target's user namespace, or root.
package netns

import (
	"errors"
	"net/netip"
	"os"
	"syscall"
)

// Config says what the inside of a namespace looks like. The zero value is usable: one queue, the defaults of the
// constants below, no address but the link-local one.
type Config struct {
	// IfName is the TAP's name inside, at most 15 bytes; empty means [LocalIfName].
	IfName string
	// MAC is the TAP's (the guest's) Ethernet address; zero means a random, locally administered one.
	MAC MAC
	// MTU of the TAP in bytes, 68 to 65521; zero means [DefaultMTU].
	MTU int
	// Queues is the number of TAP queues; zero means one. More than one sets IFF_MULTI_QUEUE.
	Queues int
	// TxQueueLen is the length in frames of each queue's ring inside the kernel; zero means [DefaultTxQueueLen].
	TxQueueLen int
	// Backpressure has the interface hold back what its full queue has no room for, where the kernel can (IFF_BACKPRESSURE, Linux 7.3).
	Backpressure bool
	// Addrs are added to the TAP, IPv6 ones without duplicate address detection. An IPv6 link-local address made from
	// the MAC is always added, unless the kernel has no IPv6.
	Addrs []netip.Prefix
	// Routes are added after the addresses, in an order in which each one's gateway is reachable.
	Routes []Route

	// Sockets asks for [Namespace.Sockets]. It keeps a namespace that was attached to from going before Close.
	Sockets bool

	// KeepID keeps the caller's user and group id inside instead of uid 0. Create only.
	KeepID bool
	// ResolvConf, when not nil, is what /etc/resolv.conf contains inside. Nothing is written to the host's file
	// systems. Create only.
	ResolvConf []byte
}

// Defaults of [Config].
const (
	// DefaultMTU is the largest MTU whose frames, with an Ethernet header, fit the 64 KiB of one IP packet buffer,
	// rounded down to a multiple of 16; it is pasta's default as well.
	DefaultMTU = 65520
	// DefaultTxQueueLen holds the windows of eight flows of nearly 4 MiB in frames of 1500 bytes. It is the most that the
	// kernels 6.1.192 and 6.12.117 of Debian take.
	DefaultTxQueueLen = 32767
	// LocalIfName is the TAP's name when the host has no interface to take it from.
	LocalIfName = "tap0"
)

// MAC is an Ethernet address.
type MAC [6]byte

// Route is a unicast route through the TAP.
type Route struct {
	Dst     netip.Prefix // 0.0.0.0/0 or ::/0 for a default route
	Gateway netip.Addr   // the zero Addr: the destination is on the link
	Metric  int          // zero: the kernel's default
	OnLink  bool         // the gateway is on the link although no other route says so
	MTU     int          // of the way, in bytes; zero: the interface's
}

// TAP is a configured TAP interface and its queues.
type TAP struct {
	// FDs are the queues' descriptors, one per queue, non-blocking and close-on-exec, not known to Go's poller. They
	// belong to the caller from the moment Create or Attach returns; the interface goes when the last one is closed.
	// Each frame has a 12-byte struct virtio_net_hdr_mrg_rxbuf in front.
	FDs []int
	// Name, MAC and MTU as they are inside.
	Name string
	MAC  MAC
	MTU  int
	// Offloads are the TUN_F_* bits that the kernel accepted.
	Offloads uint32
}

// USO says whether the kernel passes UDP segmentation offload frames (Linux 6.2 and later).
func (t *TAP) USO() bool { return t.Offloads&tunFUSO == tunFUSO }

// Command is a program to run inside a namespace.
type Command struct {
	// Argv is the command and its arguments. A name without a slash is looked up in Env's PATH.
	Argv []string
	// Env is its whole environment, in the form "key=value".
	Env []string
	// Stdin, Stdout and Stderr become descriptors 0 to 2; nil means /dev/null. They remain the caller's.
	// The command gets no other descriptor.
	Stdin, Stdout, Stderr *os.File
	// Foreground makes the caller stand for the command toward its shell: the caller stops when the command stops
	// (the terminal's stop signals to itself are absorbed), continues the command when it is continued itself, and takes
	// the terminal back when the command has ended. Set it only in a program whose whole purpose is to run the command.
	Foreground bool
}

// ExitStatus tells how a command ended.
type ExitStatus struct {
	Code   int            // the exit status, when Signal is 0
	Signal syscall.Signal // the signal that killed it, or 0
}

// Shell returns the status as a shell gives it in $?: the exit status, or 128 plus the signal's number.
func (s ExitStatus) Shell() int {
	if s.Signal != 0 {
		return 128 + int(s.Signal)
	}
	return s.Code
}

// StartError is the error of a command that could not be executed.
type StartError struct {
	// Code is the exit status a shell gives: 127 when the command was not found, 126 when it cannot be executed.
	Code int
	msg  string
}

// Error returns one line that names the command and the reason.
func (e *StartError) Error() string { return e.msg }

// ErrGone is the error of an operation on a namespace that does not exist any more.
var ErrGone = errors.New("the namespace is gone")

// Target is an existing namespace to attach to: either PID or NetNS is set.
type Target struct {
	// PID is a process in the network namespace.
	PID int
	// NetNS is the path of a network namespace; a name without a slash stands for /run/netns/NAME.
	NetNS string
	// UserNS is the path of the user namespace to join first. Empty means the owner of the network namespace, as the
	// kernel tells it, and no joining when that is the caller's own.
	UserNS string
}
