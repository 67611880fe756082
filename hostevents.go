package vasta

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// hostEvents tells that the host's network may have changed: links, addresses, routes, or resolv.conf.
type hostEvents struct {
	changed chan struct{} // one waits at most
	netlink *nl.NetlinkSocket
	inotify *os.File // nil when there is none to be had: resolv.conf is looked at only when something else changes
	files   []string // names of resolv.conf in the directories that are watched
	readers sync.WaitGroup
}

// watchHost begins to watch.
func watchHost() (*hostEvents, error) {
	socket, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_ROUTE,
		unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV6_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("cannot listen to netlink: %w", err)
	}
	e := &hostEvents{changed: make(chan struct{}, 1), netlink: socket}
	e.readers.Go(e.readNetlink)
	if fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK); err == nil {
		e.inotify = os.NewFile(uintptr(fd), "inotify")
		e.watchFiles()
		e.readers.Go(e.readInotify)
	}
	return e, nil
}

func (e *hostEvents) close() {
	e.netlink.Close()
	if e.inotify != nil {
		e.inotify.Close()
	}
	e.readers.Wait()
}

func (e *hostEvents) tell() {
	select {
	case e.changed <- struct{}{}:
	default:
	}
}

// readNetlink looks at no message: what is so is asked for when all have come. When messages were lost (ENOBUFS) something has happened, too.
func (e *hostEvents) readNetlink() {
	for {
		if _, _, err := e.netlink.Receive(); err != nil && !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.EINTR) {
			return
		}
		e.tell()
	}
}

// Events of resolv.conf: of the file itself, wherever it lies, and of the directories that name it, for it is replaced more often than
// written to.
const (
	fileEvents = unix.IN_MODIFY | unix.IN_CLOSE_WRITE | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF
	dirEvents  = unix.IN_CREATE | unix.IN_CLOSE_WRITE | unix.IN_MOVED_TO | unix.IN_DELETE
)

// watchFiles watches resolv.conf and, where it is a link, what it leads to. What is watched already stays so.
func (e *hostEvents) watchFiles() {
	raw, err := e.inotify.SyscallConn()
	if err != nil {
		return // closed
	}
	paths := []string{resolvConfPath}
	if target, err := filepath.EvalSymlinks(resolvConfPath); err == nil && target != resolvConfPath {
		paths = append(paths, target)
	}
	e.files = e.files[:0]
	_ = raw.Control(func(fd uintptr) { // fails when it is closed
		for _, p := range paths {
			e.files = append(e.files, filepath.Base(p))
			// What is not there cannot be watched; its directory tells when it comes.
			_, _ = unix.InotifyAddWatch(int(fd), p, fileEvents)
			_, _ = unix.InotifyAddWatch(int(fd), filepath.Dir(p), dirEvents)
		}
	})
}

func (e *hostEvents) readInotify() {
	buf := make([]byte, 4096)
	for {
		n, err := e.inotify.Read(buf)
		if err != nil {
			return
		}
		if e.concerns(buf[:n]) {
			e.watchFiles()
			e.tell()
		}
	}
}

// concerns reports whether an event (inotify(7)) is about resolv.conf, and not about its neighbours.
func (e *hostEvents) concerns(b []byte) bool {
	for len(b) >= unix.SizeofInotifyEvent {
		size := int(binary.NativeEndian.Uint32(b[12:]))
		b = b[unix.SizeofInotifyEvent:]
		if size > len(b) {
			return true
		}
		name := string(bytes.TrimRight(b[:size], "\x00"))
		b = b[size:]
		if name == "" {
			return true
		}
		for _, f := range e.files {
			if name == f {
				return true
			}
		}
	}
	return false
}
