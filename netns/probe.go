package netns

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Check is one line of what the machine offers.
type Check struct {
	Name   string
	OK     bool
	Detail string // what was found
	Buys   string // what vasta does with it
	Cure   string // what to do when it is not OK; empty when it is
}

const vhostNetPath = "/dev/vhost-net"

// Probe tries out what this package and the links need, in a namespace that it throws away. It takes some 50 ms.
func Probe() []Check {
	ns, err := Create(Config{})
	var tap *TAP
	if err == nil {
		tap = ns.TAP()
		defer func() { _ = ns.Close() }() // whatever it answers, the namespace ends
		defer closeAll(tap.FDs)
	}
	checks := []Check{probeNamespaces(err), probeTun()}
	checks = append(checks, probeOffloads(tap, err)...)
	return append(checks, probeProc(ns), probeVhostNet(), probePing(readSetting(sysctlPingGroups), groups()))
}

func probeNamespaces(err error) Check {
	c := Check{Name: "namespaces", OK: true, Detail: "user, network, mount and PID namespaces can be made",
		Buys: "vasta -- CMD without any privilege"}
	var blocked *blockedError
	if errors.As(err, &blocked) {
		c.OK, c.Detail, c.Cure = false, fmt.Sprintf("%v: %s", blocked.err, blocked.reason), blocked.cure
	}
	return c
}

func probeTun() Check {
	c := Check{Name: tunPath, Buys: "the namespace's network interface"}
	fd, err := unix.Open(tunPath, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		reason, cure := tunOpenCause(err)
		c.Detail, c.Cure = fmt.Sprintf("%v: %s", err, reason), cure
		return c
	}
	unix.Close(fd)
	c.OK, c.Detail = true, "can be opened"
	return c
}

// probeOffloads reports on a TAP that was made for the purpose; nil when err kept it from being made.
func probeOffloads(tap *TAP, err error) []Check {
	tso := Check{Name: "TCP segmentation offload", Buys: "frames of 64 KiB: one system call where there were 44"}
	uso := Check{Name: "UDP segmentation offload", Buys: "the same for QUIC and other UDP traffic"}
	if tap == nil {
		tso.Detail = "not tried, since no interface could be made: " + err.Error()
		tso.Cure = "see the lines above"
		uso.Detail, uso.Cure = "not tried, since no interface could be made", tso.Cure
		return []Check{tso, uso}
	}
	tso.OK, tso.Detail = true, "TSO4, TSO6 and checksum offload are accepted"
	uso.OK, uso.Detail = true, "USO4 and USO6 are accepted"
	if !tap.USO() {
		uso.OK, uso.Detail, uso.Cure = false, "the kernel does not know it", "use Linux 6.2 or later"
	}
	return []Check{tso, uso}
}

// probeProc reports on the /proc of a new PID namespace, in ns, nil when there is none.
func probeProc(ns *Namespace) Check {
	c := Check{Name: "fresh /proc", Buys: "ps and the like show the inside's own processes"}
	if ns == nil {
		c.Detail, c.Cure = "not tried, since no namespace could be made", "see the lines above"
		return c
	}
	c.OK, c.Detail = true, "can be mounted"
	for _, w := range ns.Warnings() {
		if strings.HasPrefix(w, procWarning) {
			c.OK, c.Detail, c.Cure = false, w, "unmask /proc in the container that vasta runs in (--security-opt unmask=ALL)"
		}
	}
	return c
}

func probeVhostNet() Check {
	c := Check{Name: vhostNetPath, Buys: "with --vhost, the kernel moves the frames: no system call for each"}
	fd, err := unix.Open(vhostNetPath, unix.O_RDWR|unix.O_CLOEXEC, 0)
	switch {
	case err == nil:
		unix.Close(fd)
		c.OK, c.Detail = true, "can be opened"
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		c.Detail, c.Cure = err.Error(), "run as root: usermod -aG kvm USER (the group that owns it), and log in again; or setfacl -m u:USER:rw "+vhostNetPath
	default:
		c.Detail, c.Cure = err.Error(), "run as root: modprobe vhost_net"
	}
	return c
}

// probePing reads the content of net.ipv4.ping_group_range against the caller's groups.
func probePing(sysctl string, groups []int) Check {
	c := Check{Name: sysctlName(sysctlPingGroups), Buys: "ping from inside reaches the outside"}
	var low, high int
	if _, err := fmt.Sscan(sysctl, &low, &high); err != nil {
		c.Detail, c.Cure = fmt.Sprintf("%s cannot be read", sysctlPingGroups), "mount /proc/sys"
		return c
	}
	c.Detail = fmt.Sprintf("groups %d to %d may open ICMP echo sockets", low, high)
	if low > high {
		c.Detail = "no group may open ICMP echo sockets"
	}
	c.OK = slices.ContainsFunc(groups, func(g int) bool { return low <= g && g <= high })
	if !c.OK {
		c.Cure = fmt.Sprintf("run as root: sysctl %s=\"0 %d\"", c.Name, maxPingGroup)
	}
	return c
}

// groups returns the caller's effective and supplementary groups.
func groups() []int {
	all, err := os.Getgroups()
	if err != nil {
		return []int{os.Getegid()}
	}
	return append(all, os.Getegid())
}
