package vasta

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Errors that are asked for with errors.Is.
var (
	// ErrGone says that the guest's end of the link does not exist any more: its namespace or interface has gone, or the peer has closed.
	ErrGone = errors.New("vasta: the guest's end of the link is gone")
	// ErrClosed says that the network has ended, or was closed.
	ErrClosed = errors.New("vasta: the network is closed")
	// ErrNoFamily says that the host has no network of the address family asked for, and no address was given in its place.
	ErrNoFamily = errors.New("the host has no network of the address family asked for: ask for both families, or give an address and a gateway")
	// ErrWatch says that what a namespace listens on cannot be asked for, which deferred and automatic ports need.
	ErrWatch = errors.New("forwarding ports as the guest listens")
	// ErrNotForwarded says that a port to be removed is not forwarded.
	ErrNotForwarded = errors.New("vasta: the port is not forwarded")
)

// ConfigError is a mistake in a Config.
type ConfigError struct {
	Field string // as Guest.MTU
	Err   error
}

// Error names the field and what is wrong with it.
func (e *ConfigError) Error() string { return fmt.Sprintf("vasta: Config.%s: %v", e.Field, e.Err) }

// Unwrap returns what is wrong.
func (e *ConfigError) Unwrap() error { return e.Err }

// PortError is the error of a port that cannot be forwarded. It wraps the reason, as syscall.EADDRINUSE or syscall.EACCES.
type PortError struct {
	Network string // "tcp" or "udp"
	Inside  bool   // a port of the namespace's loopback
	Listen  string // where on the host, or inside
	Err     error
	cure    string
}

// Error is one line: which port, why, and what to do.
func (e *PortError) Error() string {
	where := ""
	if e.Inside {
		where = " of the namespace"
	}
	return fmt.Sprintf("cannot listen on port %s%s: %v%s", e.Listen, where, e.Err, e.cure)
}

// Unwrap returns the reason.
func (e *PortError) Unwrap() error { return e.Err }

// portCure is what to do about a reason.
func portCure(err error, device string) string {
	switch {
	case errors.Is(err, unix.EACCES):
		return " (ports below net.ipv4.ip_unprivileged_port_start need root; choose a higher one, as 8080:80)"
	case errors.Is(err, unix.EADDRINUSE):
		return " (another program has this port: stop it, or choose another port)"
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return " (this machine does not have the address)"
	case errors.Is(err, unix.ENODEV):
		return fmt.Sprintf(" (this machine has no interface %s)", device)
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE):
		return " (too many open files: forward fewer ports, or raise the limit, ulimit -n and fs.file-max)"
	}
	return ""
}

// DescriptorError says that forwarded ports need more open files than there may be.
type DescriptorError struct {
	Network    string // of most of them, "tcp" or "udp"
	Inside     bool   // most of them are of the namespace's loopback
	Ports      int
	Need, Have int // open files
}

// Error is one line.
func (e *DescriptorError) Error() string {
	return fmt.Sprintf("forwarding %d ports takes %d open files, and this process may have %d: forward fewer, or raise the limit (ulimit -n; LimitNOFILE= of systemd)",
		e.Ports, e.Need, e.Have)
}

// Unwrap makes it EMFILE for errors.Is.
func (e *DescriptorError) Unwrap() error { return unix.EMFILE }

// VHostError says why vhost-net, which was asked for, cannot be used.
type VHostError struct{ Err error }

func (e *VHostError) Error() string { return fmt.Sprintf("vhost-net cannot be used: %v", e.Err) }

func (e *VHostError) Unwrap() error { return e.Err }
