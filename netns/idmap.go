package netns

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxPingGroup is the largest group id that net.ipv4.ping_group_range takes (include/net/ping.h, GID_T_MAX).
const maxPingGroup = 1<<31 - 1

// An extent is a line of a user or group id map: user_namespaces(7).
type extent struct {
	inside, outside, length uint64
}

// parseIDMap reads the content of /proc/PID/uid_map or gid_map.
func parseIDMap(s string) ([]extent, error) {
	var m []extent
	for line := range strings.Lines(s) {
		var e extent
		if _, err := fmt.Sscan(line, &e.inside, &e.outside, &e.length); err != nil {
			return nil, fmt.Errorf("id map line %q: %w", strings.TrimSpace(line), err)
		}
		m = append(m, e)
	}
	if len(m) == 0 {
		return nil, errors.New("the id map is empty")
	}
	return m, nil
}

// mappedRange returns the first and the last id of a map that ping_group_range can express.
func mappedRange(s string) (low, high uint64, err error) {
	m, err := parseIDMap(s)
	if err != nil {
		return 0, 0, err
	}
	low, high = m[0].inside, m[0].inside+m[0].length-1
	for _, e := range m[1:] {
		low, high = min(low, e.inside), max(high, e.inside+e.length-1)
	}
	return min(low, maxPingGroup), min(high, maxPingGroup), nil
}

// identityMap maps every id of the current user namespace to itself.
func identityMap(path string) ([]syscall.SysProcIDMap, error) {
	m, err := parseIDMap(readSetting(path))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	ids := make([]syscall.SysProcIDMap, len(m))
	for i, e := range m {
		ids[i] = syscall.SysProcIDMap{ContainerID: int(e.inside), HostID: int(e.inside), Size: int(e.length)}
	}
	return ids, nil
}

// setIDMaps chooses the new user namespace's id maps. A caller that may map any id, root, keeps all of them, so that files
// keep their owners; an ordinary user has one, which becomes 0 unless keepID is set. keepsRoot says whether the
// stage runs as uid 0, and so keeps its capabilities when it is executed.
func setIDMaps(attr *syscall.SysProcAttr, keepID bool) (keepsRoot bool, err error) {
	uid, gid := os.Geteuid(), os.Getegid()
	if uid == 0 && hasCapability(unix.CAP_SETUID) && hasCapability(unix.CAP_SETGID) {
		if attr.UidMappings, err = identityMap(procSelfUIDMap); err != nil {
			return false, err
		}
		if attr.GidMappings, err = identityMap(procSelfGIDMap); err != nil {
			return false, err
		}
		// A user namespace that denies setgroups(2) denies it to those inside as well.
		attr.GidMappingsEnableSetgroups = readSetting("/proc/self/setgroups") == "allow"
		return true, nil
	}
	insideUID, insideGID := 0, 0
	if keepID {
		insideUID, insideGID = uid, gid
	}
	attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: insideUID, HostID: uid, Size: 1}}
	attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: insideGID, HostID: gid, Size: 1}}
	return insideUID == 0, nil
}

// hasCapability says whether the calling thread has the capability (below 32) in effect.
func hasCapability(c uint) bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false
	}
	return data[0].Effective&(1<<c) != 0
}
