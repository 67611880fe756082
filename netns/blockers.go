package netns

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// The sysctls that stop an ordinary user from making namespaces. The second exists on kernels patched by Debian and
// Ubuntu, the third on those with Ubuntu's AppArmor.
const (
	sysctlMaxUserNS    = "/proc/sys/user/max_user_namespaces"
	sysctlUnprivUser   = "/proc/sys/kernel/unprivileged_userns_clone"
	sysctlAppArmor     = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"
	sysctlPingGroups   = "/proc/sys/net/ipv4/ping_group_range"
	sysctlEarlyRetrans = "/proc/sys/net/ipv4/tcp_early_retrans"
	sysctlMaxNetNS     = "/proc/sys/user/max_net_namespaces"
	sysctlMaxPIDNS     = "/proc/sys/user/max_pid_namespaces"
	sysctlMaxMountNS   = "/proc/sys/user/max_mnt_namespaces"
	procSelfUIDMap     = "/proc/self/uid_map"
	procSelfGIDMap     = "/proc/self/gid_map"
	procSelfExe        = "/proc/self/exe"
	procSelfMountInfo  = "/proc/self/mountinfo"
)

// A blocker is a setting that forbids what failed.
type blocker struct {
	reason, cure string
}

// usernsBlocker looks for the setting that keeps the caller from making namespaces; ok is false when none is found.
// root says whether the caller has privileges, for which only the limits count.
func usernsBlocker(read func(path string) string, root bool) (b blocker, ok bool) {
	for _, limit := range []string{sysctlMaxUserNS, sysctlMaxNetNS, sysctlMaxPIDNS, sysctlMaxMountNS} {
		if read(limit) == "0" {
			key := sysctlName(limit)
			return blocker{key + " is 0", "run as root: sysctl " + key + "=10000"}, true
		}
	}
	if root {
		return blocker{}, false
	}
	if read(sysctlUnprivUser) == "0" {
		key := sysctlName(sysctlUnprivUser)
		return blocker{key + " is 0", "run as root: sysctl " + key + "=1"}, true
	}
	if v := read(sysctlAppArmor); v != "" && v != "0" {
		key := sysctlName(sysctlAppArmor)
		return blocker{"AppArmor restricts unprivileged user namespaces (" + key + " is " + v + ")",
			"install vasta's AppArmor profile, or run as root: sysctl " + key + "=0"}, true
	}
	return blocker{}, false
}

// sysctlName turns the path of a sysctl into its name.
func sysctlName(path string) string {
	return strings.ReplaceAll(strings.TrimPrefix(path, "/proc/sys/"), "/", ".")
}

// readSetting returns a file's content without white space around it, empty when it cannot be read.
func readSetting(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// A blockedError says that the namespaces could not be made, and what forbids it.
type blockedError struct {
	err error
	blocker
}

// Error returns one line.
func (e *blockedError) Error() string {
	return fmt.Sprintf("creating the namespaces: %v: %s: %s", e.err, e.reason, e.cure)
}

// Unwrap returns the system call's error.
func (e *blockedError) Unwrap() error { return e.err }

// createError explains why the stage could not be started in new namespaces.
func createError(err error) error {
	b, ok := usernsBlocker(readSetting, os.Geteuid() == 0)
	switch {
	case ok:
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EUSERS):
		b = blocker{"a limit of user.max_*_namespaces, or the nesting depth of 32, is reached", "raise the limit by sysctl, or run vasta less deep"}
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		b = blocker{"a container's seccomp filter, a chroot or a security module forbids clone(CLONE_NEWUSER)", "allow it there, or run vasta outside"}
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS):
		b = blocker{"the kernel is built without user, network or PID namespaces", "use one with CONFIG_USER_NS, CONFIG_NET_NS and CONFIG_PID_NS"}
	default:
		b = blocker{"the system is short of processes, memory or descriptors", "see what the error says"}
	}
	return &blockedError{err, b}
}

// tunOpenCause explains an error of opening [tunPath].
func tunOpenCause(err error) (reason, cure string) {
	switch {
	case errors.Is(err, unix.ENOENT):
		return "the device is missing", "run as root: modprobe tun; in a container, give it the device (--device " + tunPath + ")"
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return "the device may not be opened", "run as root: chmod 0666 " + tunPath + "; in a container, allow the device (--device " + tunPath + ")"
	case errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return "the kernel has no TUN/TAP driver", "run as root: modprobe tun"
	}
	return "the device cannot be opened", "see what the error says"
}
