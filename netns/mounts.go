package netns

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

const resolvConfPath = "/etc/resolv.conf"

// privateMounts cuts the stage's mount namespace off: nothing that is mounted from now on is seen outside, nor the reverse.
func privateMounts() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		// The first thing that needs a capability, and so where a kernel stops us that lets anybody make a user
		// namespace but gives no capabilities in it.
		b, ok := usernsBlocker(readSetting, false)
		if !ok {
			b = blocker{"a security module forbids mount(2) in user namespaces", "allow it there, or run vasta as root"}
		}
		return &blockedError{fmt.Errorf("making the mounts private: %w", err), b}
	}
	return nil
}

// procWarning begins the warning of mountProc.
const procWarning = "mounting a fresh /proc"

// mountProc puts a /proc of the new PID namespace over the old one. A container with masked files in /proc refuses it
// (mount_namespaces(7)); the old one then stays, and with it the PID namespace: ps shows outer process ids, but nothing
// can outlive the command, which matters more.
func mountProc() (warning string) {
	err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	if err == nil {
		return ""
	}
	return fmt.Sprintf(procWarning+": %v: the old one stays, and shows the process ids of outside", err)
}

// coverResolvConf mounts a file with the given content over /etc/resolv.conf. The file lives in a tmpfs that has no other
// name: it is mounted for a moment over the directory of the file that it covers, which nobody else can see.
func coverResolvConf(content []byte) error {
	target, err := filepath.EvalSymlinks(resolvConfPath)
	if err != nil {
		return fmt.Errorf("covering %s: %w: create the file, so that there is something to cover", resolvConfPath, err)
	}
	fd, err := unix.Open(target, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("covering %s: opening %s: %w", resolvConfPath, target, err)
	}
	defer unix.Close(fd)

	dir := filepath.Dir(target)
	if err := unix.Mount("vasta", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0755,size=1m"); err != nil {
		return fmt.Errorf("covering %s: mounting a tmpfs: %w", resolvConfPath, err)
	}
	source := filepath.Join(dir, "resolv.conf")
	err = os.WriteFile(source, content, 0o644)
	if err == nil {
		err = unix.Mount(source, "/proc/self/fd/"+strconv.Itoa(fd), "", unix.MS_BIND, "")
	}
	err = errors.Join(err, unix.Unmount(dir, unix.MNT_DETACH))
	if err != nil {
		return fmt.Errorf("covering %s: %w", resolvConfPath, err)
	}
	return nil
}

// openPingGroups lets every group that is mapped inside open ICMP echo sockets.
func openPingGroups() error {
	low, high, err := mappedRange(readSetting(procSelfGIDMap))
	if err != nil {
		return fmt.Errorf("%s: %w", procSelfGIDMap, err)
	}
	return os.WriteFile(sysctlPingGroups, fmt.Appendf(nil, "%d %d", low, high), 0)
}

// calmTailProbes switches TCP's tail loss probes (RFC 8985, 7) off inside. Neither the TAP nor lo ever loses a
// segment, so a probe can only be needless; and on a busy machine, where an ACK takes longer than two round trips of some
// microseconds, there would be many.
func calmTailProbes() error { return os.WriteFile(sysctlEarlyRetrans, []byte("0"), 0) }
