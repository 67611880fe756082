package agent

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"
)

// NetworkInfo tells how the namespace is connected.
type NetworkInfo struct {
	Gateway    netip.Addr // of the IPv4 default route
	Interface  string     // that the route leads through
	MTU        int        // of the interface
	Congestion string     // congestion control of sockets that do not choose one
}

// sysctls are the files of the settings under /proc/sys that a session changes in
// its namespace.
const (
	congestionFile = "/proc/sys/net/ipv4/tcp_congestion_control"
	reuseFile      = "/proc/sys/net/ipv4/tcp_tw_reuse"
	routeFile      = "/proc/net/route"
)

// network waits, at most limit, for the default route and tells the settings. It
// tries to make congestion the default and lets ports in TIME_WAIT be used again,
// so that TCP_CRR does not run out of them; where it lacks the right to, the
// settings stay, and NetworkInfo shows which they are.
func network(congestion string, limit time.Duration) (*NetworkInfo, error) {
	for file, value := range map[string]string{congestionFile: congestion, reuseFile: "1"} {
		if err := os.WriteFile(file, []byte(value), 0o644); err != nil && !errors.Is(err, os.ErrPermission) {
			return nil, err
		}
	}
	info := &NetworkInfo{}
	current, err := os.ReadFile(congestionFile)
	if err != nil {
		return nil, err
	}
	info.Congestion = strings.TrimSpace(string(current))

	for deadline := time.Now().Add(limit); ; time.Sleep(time.Millisecond) {
		table, err := os.ReadFile(routeFile)
		if err != nil {
			return nil, err
		}
		if info.Interface, info.Gateway, err = defaultRoute(table); err != nil {
			return nil, err
		}
		if info.Interface != "" {
			break
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("no IPv4 default route after %v", limit)
		}
	}
	link, err := net.InterfaceByName(info.Interface)
	if err != nil {
		return nil, err
	}
	info.MTU = link.MTU
	return info, nil
}

// defaultRoute finds the default route in the table that /proc/net/route shows.
// The name is empty when there is none.
func defaultRoute(table []byte) (name string, gateway netip.Addr, err error) {
	for line := range bytes.Lines(table) {
		fields := strings.Fields(string(line))
		const destination, via, flags, mask = 1, 2, 3, 7
		if len(fields) <= mask || fields[destination] != "00000000" || fields[mask] != "00000000" {
			continue
		}
		f, err := strconv.ParseUint(fields[flags], 16, 16)
		if err != nil {
			return "", netip.Addr{}, fmt.Errorf("%s: flags: %w", routeFile, err)
		}
		const up, viaGateway = 1, 2 // RTF_UP and RTF_GATEWAY of linux/route.h
		if f&up == 0 || f&viaGateway == 0 {
			continue
		}
		raw, err := hex.DecodeString(fields[via])
		if err != nil || len(raw) != 4 {
			return "", netip.Addr{}, fmt.Errorf("%s: gateway %q is not 4 bytes in hexadecimal", routeFile, fields[via])
		}
		// The file shows the address as a number of the machine's byte order.
		var a [4]byte
		binary.NativeEndian.PutUint32(a[:], binary.BigEndian.Uint32(raw))
		return fields[0], netip.AddrFrom4(a), nil
	}
	return "", netip.Addr{}, nil
}
