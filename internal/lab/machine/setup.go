package machine

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// mounts are the file systems of the guest beside its root.
var mounts = []struct {
	source, target, kind string
	flags                uintptr
	data                 string
}{
	{"proc", "/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	{"sysfs", "/sys", "sysfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID, "mode=0755"},
	{"devpts", "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "gid=5,mode=0620,ptmxmode=0666"},
	{"tmpfs", "/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
	{"tmpfs", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755"},
	{"tmpfs", "/tmp", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
	{"cgroup2", "/sys/fs/cgroup", "cgroup2", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
}

// deviceModules make the devices that the machine and its tests always use.
var deviceModules = []string{"virtio_pci", "virtio_console", "virtio_rng", "9pnet_virtio", "9p", "tun"}

// sysctls are set as Debian's systemd sets them.
var sysctls = map[string]string{
	"net/ipv4/ping_group_range":           "0 2147483647",
	"net/ipv4/ip_unprivileged_port_start": "1024",
	"kernel/pid_max":                      "4194304",
	"fs/nr_open":                          "1048576",
}

// shareOptions are those of 9p. The default of cache is none: what one side writes the other sees. Of the source, which nobody
// changes meanwhile, pages are kept.
const shareOptions = "trans=virtio,version=9p2000.L,msize=1048576,access=any"

// setUp makes of the initial RAM file system what tests expect of a Debian machine.
func setUp() error {
	if err := leaveInitramfs(); err != nil {
		return fmt.Errorf("root file system: %w", err)
	}
	for _, m := range mounts {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.source, m.target, m.kind, m.flags, m.data); err != nil {
			return fmt.Errorf("mounting %s: %w", m.target, err)
		}
	}
	settings, err := readSettings()
	if err != nil {
		return err
	}
	if err := runQuietly("/usr/bin/busybox", "--install", "-s", busyboxDir); err != nil {
		return err
	}
	if err := runQuietly("modprobe", append([]string{"--all"}, deviceModules...)...); err != nil {
		return err
	}
	for key, value := range sysctls {
		if err := os.WriteFile(filepath.Join("/proc/sys", key), []byte(value), 0); err != nil {
			return err
		}
	}
	err = errors.Join(
		os.Chown("/home/user", 1000, 1000),
		os.Chmod("/dev/net/tun", 0o666),
		unix.Sethostname([]byte("machine")),
		// Those of systemd.
		unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 1024, Max: 524288}),
		unix.Settimeofday(&unix.Timeval{Sec: settings.time}),
		runQuietly("ip", "link", "set", "lo", "up"),
		share(tagShared, settings.shared, shareOptions),
	)
	if settings.source != "" {
		err = errors.Join(err, share(tagSource, settings.source, shareOptions+",ro,cache=loose"))
	}
	return err
}

// leaveInitramfs makes the root a mount of its own over the initial one, of the same files: pivot_root(2) refuses to move the
// initial one, and namespaces need it to move theirs. Nothing is copied.
func leaveInitramfs() error {
	const on = "/mnt"
	if err := unix.Mount("/", on, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	if err := unix.Chdir(on); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return err
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	return unix.Chdir("/")
}

// share mounts a folder of the host where it lies on the host.
func share(tag, where, options string) error {
	if err := os.MkdirAll(where, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(tag, where, "9p", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		return fmt.Errorf("mounting %s of the host: %w", where, err)
	}
	return nil
}

// settings are what the host passes on the kernel's command line.
type settings struct {
	shared, source string
	time           int64
}

func readSettings() (s settings, err error) {
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return s, err
	}
	for _, word := range strings.Fields(string(line)) {
		key, value, _ := strings.Cut(word, "=")
		switch key {
		case "vasta.shared":
			err = unhex(value, &s.shared)
		case "vasta.source":
			err = unhex(value, &s.source)
		case "vasta.time":
			s.time, err = strconv.ParseInt(value, 10, 64)
		}
		if err != nil {
			return s, fmt.Errorf("kernel command line, %s: %w", word, err)
		}
	}
	if s.shared == "" {
		return s, fmt.Errorf("kernel command line: vasta.shared: %w", fs.ErrNotExist)
	}
	return s, nil
}

func unhex(value string, s *string) error {
	decoded, err := hex.DecodeString(value)
	*s = string(decoded)
	return err
}

func runQuietly(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
