package netns

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestCreateConfiguresNetwork(t *testing.T) {
	cfg := Config{
		IfName:     "uplink0",
		MAC:        MAC{0x02, 0x11, 0x22, 0x33, 0x44, 0x55},
		MTU:        9000,
		TxQueueLen: 5000,
		Addrs:      []netip.Prefix{netip.MustParsePrefix("10.1.2.3/24"), netip.MustParsePrefix("fd00:1::3/64")},
		Routes: []Route{
			// The first one's gateway is reachable only through the second one.
			{Dst: netip.MustParsePrefix("172.16.0.0/16"), Gateway: netip.MustParseAddr("10.9.9.9")},
			{Dst: netip.MustParsePrefix("10.9.0.0/16")},
			{Dst: defaultRoute4, Gateway: netip.MustParseAddr("10.1.2.1"), Metric: 100},
			{Dst: netip.MustParsePrefix("10.1.2.0/24")}, // the kernel has it already
			{Dst: netip.MustParsePrefix("198.51.100.0/24"), Gateway: netip.MustParseAddr("203.0.113.1"), OnLink: true},
			{Dst: defaultRoute6, Gateway: netip.MustParseAddr("fe80::1")},
		},
	}
	out := inside(t, cfg, `ip -j addr show; ip -j route show; ip -j -6 route show; cat /proc/sys/net/ipv6/conf/uplink0/accept_ra`)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) != 4 {
		t.Fatalf("output of %d lines, want 4:\n%s", len(lines), out)
	}

	type link struct {
		IfName  string   `json:"ifname"`
		Flags   []string `json:"flags"`
		MTU     int      `json:"mtu"`
		TxQLen  int      `json:"txqlen"`
		Address string   `json:"address"`
		Addrs   []struct {
			Local     string `json:"local"`
			PrefixLen int    `json:"prefixlen"`
			Tentative bool   `json:"tentative"`
		} `json:"addr_info"`
	}
	var links []link
	decode(t, lines[0], &links)
	if len(links) != 2 || !slices.Contains(links[0].Flags, "UP") || !slices.Contains(links[1].Flags, "UP") {
		t.Fatalf("want lo and the TAP, both up: %+v", links)
	}
	tap := links[1]
	if tap.IfName != cfg.IfName || tap.MTU != cfg.MTU || tap.TxQLen != cfg.TxQueueLen || tap.Address != "02:11:22:33:44:55" {
		t.Errorf("TAP is %+v, want %+v", tap, cfg)
	}
	var addrs []string
	for _, a := range tap.Addrs {
		addrs = append(addrs, fmt.Sprintf("%s/%d", a.Local, a.PrefixLen))
		if a.Tentative {
			t.Errorf("address %s is tentative", a.Local)
		}
	}
	slices.Sort(addrs)
	want := []string{"10.1.2.3/24", "fd00:1::3/64", "fe80::11:22ff:fe33:4455/64"}
	if diff := cmp.Diff(want, addrs); diff != "" {
		t.Errorf("addresses (-want +got):\n%s", diff)
	}

	var routes []string
	for _, line := range lines[1:3] {
		var list []struct {
			Dst, Gateway string
			Metric       int
		}
		decode(t, line, &list)
		for _, r := range list {
			routes = append(routes, fmt.Sprintf("%s via %s metric %d", r.Dst, r.Gateway, r.Metric))
		}
	}
	slices.Sort(routes)
	want = []string{
		"10.1.2.0/24 via  metric 0",
		"10.9.0.0/16 via  metric 0",
		"172.16.0.0/16 via 10.9.9.9 metric 0",
		"198.51.100.0/24 via 203.0.113.1 metric 0",
		"default via 10.1.2.1 metric 100",
		"default via fe80::1 metric 1024",
		"fd00:1::/64 via  metric 256",
		"fe80::/64 via  metric 256",
	}
	if diff := cmp.Diff(want, routes); diff != "" {
		t.Errorf("routes (-want +got):\n%s", diff)
	}
	if lines[3] != "0" {
		t.Errorf("accept_ra is %q, want 0", lines[3])
	}
}

func decode(t *testing.T, s string, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(s), v); err != nil {
		t.Fatalf("%v in %q", err, s)
	}
}

func TestCreateLocalMode(t *testing.T) {
	local := LocalTemplate()
	out := inside(t, local.Config(), "ip -o addr show dev tap0; ip route; ip -6 route")
	for _, want := range []string{"169.254.2.1/16", "default via 169.254.2.2 dev tap0", "default via fe80::1 dev tap0"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing in:\n%s", want, out)
		}
	}
}

func TestCreateSmallMTUHasNoIPv6(t *testing.T) {
	ns, err := Create(Config{MTU: 576, Addrs: []netip.Prefix{LocalAddr4, netip.MustParsePrefix("fd00::2/64")},
		Routes: []Route{{Dst: defaultRoute6, Gateway: LocalGateway6}}})
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	defer closeAll(ns.TAP().FDs)
	if len(ns.Warnings()) != 1 || !strings.Contains(ns.Warnings()[0], "no IPv6") {
		t.Errorf("warnings %q, want one about IPv6", ns.Warnings())
	}
	out, _ := run(t, ns, os.Environ(), "ip", "-o", "addr", "show", "dev", "tap0")
	if !strings.Contains(out, "169.254.2.1/16") || strings.Contains(out, "inet6") {
		t.Errorf("addresses:\n%s", out)
	}
}

// TestQueues sends frames into the TAP from inside and reads them from its descriptors.
func TestQueues(t *testing.T) {
	for _, queues := range []int{1, 4} {
		t.Run(strconv.Itoa(queues), func(t *testing.T) {
			cfg := Config{Queues: queues, Addrs: []netip.Prefix{LocalAddr4}}
			ns := create(t, cfg)
			tap := ns.TAP()
			if len(tap.FDs) != queues {
				t.Fatalf("%d descriptors, want %d", len(tap.FDs), queues)
			}
			if tap.Offloads&tunFBase != tunFBase {
				t.Errorf("offloads %#x lack some of %#x", tap.Offloads, tunFBase)
			}
			var polled []unix.PollFd
			for _, fd := range tap.FDs {
				flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
				if err != nil || flags&unix.O_NONBLOCK == 0 {
					t.Errorf("descriptor %d: flags %#x, %v: it blocks", fd, flags, err)
				}
				size, err := unix.IoctlGetInt(fd, unix.TUNGETVNETHDRSZ)
				if err != nil || size != vnetHeaderLen {
					t.Errorf("descriptor %d: vnet header of %d bytes, %v", fd, size, err)
				}
				polled = append(polled, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
			}
			if _, status := run(t, ns, os.Environ(), "bash", "-c", "echo hello >/dev/udp/169.254.9.9/9"); status != (ExitStatus{}) {
				t.Fatalf("sending a datagram: %v", status)
			}
			const etherTypeARP = 0x0806
			eventually(t, "an ARP request", func() bool {
				if _, err := unix.Poll(polled, 0); err != nil {
					t.Fatal(err)
				}
				for _, p := range polled {
					frame := make([]byte, 65536)
					n, err := unix.Read(int(p.Fd), frame)
					if err == nil && n > vnetHeaderLen+14 &&
						int(frame[vnetHeaderLen+12])<<8|int(frame[vnetHeaderLen+13]) == etherTypeARP {
						return true
					}
				}
				return false
			})
		})
	}
}

func TestIDs(t *testing.T) {
	uid, gid := os.Getuid(), os.Getgid()
	t.Run("root", func(t *testing.T) {
		if got := inside(t, Config{}, "id -u; id -g"); got != "0\n0\n" {
			t.Errorf("ids inside: %q, want 0 and 0", got)
		}
	})
	t.Run("keep", func(t *testing.T) {
		out := inside(t, Config{KeepID: true}, "id -u; id -g; grep -E 'Cap(Inh|Eff|Amb)' /proc/self/status; ip route; cat /proc/sys/net/ipv4/ping_group_range")
		if want := fmt.Sprintf("%d\n%d\n", uid, gid); !strings.HasPrefix(out, want) {
			t.Errorf("ids inside: %q, want %q", out, want)
		}
		if !strings.Contains(out, "CapInh:\t0000000000000000\n") || !strings.Contains(out, "CapAmb:\t0000000000000000\n") {
			t.Errorf("the stage's capabilities leak:\n%s", out)
		}
		if uid != 0 && !strings.Contains(out, "CapEff:\t0000000000000000\n") {
			t.Errorf("an ordinary user has capabilities:\n%s", out)
		}
		if want := fmt.Sprintf("\n%d\t%d\n", gid, gid); uid != 0 && !strings.Contains(out, want) {
			t.Errorf("ping_group_range is not %q in:\n%s", want, out)
		}
	})
	t.Run("owners", func(t *testing.T) {
		dir := t.TempDir()
		owner := uid
		if uid == 0 {
			owner = 31000
			if err := os.Chown(dir, owner, owner); err != nil {
				t.Fatal(err)
			}
		}
		want := "0\n" // an ordinary user's own files are root's inside
		if uid == 0 {
			want = fmt.Sprintf("%d\n", owner)
		}
		if got := inside(t, Config{}, "stat -c %u "+dir); got != want {
			t.Errorf("owner inside: %q, want %q", got, want)
		}
	})
}

func TestResolvConf(t *testing.T) {
	before, err := os.ReadFile(resolvConfPath)
	if err != nil {
		t.Fatal(err)
	}
	const content = "nameserver 169.254.2.2\noptions edns0\n"
	out := inside(t, Config{ResolvConf: []byte(content)}, "cat /etc/resolv.conf; ls /etc/passwd; grep -c ^vasta /proc/self/mounts")
	if want := content + "/etc/passwd\n1\n"; out != want {
		t.Errorf("inside: %q, want %q", out, want)
	}
	after, err := os.ReadFile(resolvConfPath)
	if err != nil || string(after) != string(before) {
		t.Errorf("the host's file changed to %q, %v", after, err)
	}
	mounts, err := os.ReadFile(procSelfMountInfo)
	if err != nil || strings.Contains(string(mounts), " - tmpfs vasta ") {
		t.Errorf("a mount is left on the host (%v):\n%s", err, mounts)
	}
}

func TestPingInside(t *testing.T) {
	out := inside(t, Config{}, "cat /proc/sys/net/ipv4/ping_group_range; ping -c 1 -W 2 127.0.0.1 >/dev/null && ping -c 1 -W 2 ::1 >/dev/null && echo answered")
	want := "0\t0\nanswered\n"
	if os.Geteuid() == 0 {
		want = "0\t2147483647\nanswered\n"
	}
	if out != want {
		t.Errorf("got %q, want %q", out, want)
	}
}

// restricted runs true in a namespace made by a helper, after a shell script has taken something away from it in user
// and mount namespaces that the script may change. It returns the helper's output and status.
func restricted(t *testing.T, cfg Config, script string) (string, int) {
	t.Helper()
	helper := helperCommand(t, cfg, "sh", "-c", "ip -o link show tap0 && exit 9")
	// By a descriptor: the path may lead through folders that are root's, whom the user inside is not.
	binary, err := os.Open(procSelfExe)
	if err != nil {
		t.Fatal(err)
	}
	defer binary.Close()
	helper.ExtraFiles = []*os.File{binary}
	helper.Path = lookTool(t, "unshare")
	helper.Args = append([]string{"unshare", "-Urm", "sh", "-c", script + ` && exec /proc/self/fd/3 "$@"`, "sh"}, helper.Args[1:]...)
	out, err := helper.CombinedOutput()
	if helper.ProcessState == nil {
		t.Fatal(err)
	}
	return string(out), helper.ProcessState.ExitCode()
}

// TestMaskedProc creates the namespaces where a container engine has hidden a part of /proc.
func TestMaskedProc(t *testing.T) {
	out, code := restricted(t, Config{}, "mount -t tmpfs none /proc/fs")
	if code != 9 || !strings.HasPrefix(out, "warning: "+procWarning) || !strings.Contains(out, "tap0") {
		t.Errorf("status %d, output %q: want 9, a warning about /proc, and the interface", code, out)
	}
}

// TestNoResolvConf creates the namespaces where there is no file to cover.
func TestNoResolvConf(t *testing.T) {
	out, code := restricted(t, Config{ResolvConf: []byte("nameserver 192.0.2.1\n")}, "mount -t tmpfs none /etc")
	if code != 9 || !strings.HasPrefix(out, "warning: covering /etc/resolv.conf: ") || !strings.Contains(out, "tap0") {
		t.Errorf("status %d, output %q: want 9, a warning about the file, and the interface", code, out)
	}
}

// TestNoNamespacesAllowed creates the namespaces where a sysctl forbids it: the limit counts per user namespace.
func TestNoNamespacesAllowed(t *testing.T) {
	out, code := restricted(t, Config{}, "echo 0 >/proc/sys/user/max_user_namespaces")
	want := "error: creating the namespaces: no space left on device: user.max_user_namespaces is 0: run as root: sysctl user.max_user_namespaces=10000\n"
	if out != want || code != 1 {
		t.Errorf("status %d, output %q, want 1, %q", code, out, want)
	}
}

// TestNoTunDevice creates a namespace where a container engine gives no /dev/net/tun.
func TestNoTunDevice(t *testing.T) {
	out, code := restricted(t, Config{}, "mount -t tmpfs none /dev/net")
	want := "error: setting up the namespace: opening /dev/net/tun: no such file or directory: run as root: modprobe tun; in a container, give it the device (--device /dev/net/tun)\n"
	if out != want || code != 1 {
		t.Errorf("status %d, output %q, want 1, %q", code, out, want)
	}
}

func lookTool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("the test needs %s: %v: run apt-get install util-linux iproute2 iputils-ping procps bash", name, err)
	}
	return path
}

func TestConfigErrors(t *testing.T) {
	for _, test := range []struct {
		cfg  Config
		want string
	}{
		{Config{IfName: "sixteen-bytes-xx"}, "interface name"},
		{Config{IfName: "a/b"}, "creating TAP a/b"},
		{Config{MTU: 67}, "MTU 67"},
		{Config{MTU: 65522}, "MTU 65522"},
		{Config{MAC: MAC{1}}, "multicast"},
		{Config{Queues: -1}, "queues"},
		{Config{TxQueueLen: -1}, "queue length"},
		{Config{Addrs: make([]netip.Prefix, 1)}, "prefix length"},
		{Config{Routes: []Route{{Dst: defaultRoute4, Gateway: LocalGateway6}}}, "one address family"},
		{Config{Routes: []Route{{Dst: defaultRoute4, Gateway: netip.MustParseAddr("192.0.2.1")}}}, "adding route default via 192.0.2.1 to TAP tap0"},
	} {
		fds := openFDs(t)
		ns, err := Create(test.cfg)
		if err == nil {
			ns.Close()
			closeAll(ns.TAP().FDs)
			t.Errorf("%+v: no error, want %q", test.cfg, test.want)
			continue
		}
		if !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("error %q, want one line with %q", err, test.want)
		}
		if diff := cmp.Diff(fds, openFDs(t)); diff != "" {
			t.Errorf("%v leaves descriptors (-before +after):\n%s", err, diff)
		}
	}
}

func TestCloseEndsEverything(t *testing.T) {
	fds := openFDs(t)
	ns, err := Create(Config{})
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-ns.Gone():
		t.Fatal("gone before Close")
	default:
	}
	if err := ns.Start(Command{Argv: []string{"sleep", "1000"}, Env: os.Environ()}); err != nil {
		t.Fatal(err)
	}
	if err := ns.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ns.Gone():
	case <-time.After(time.Second):
		t.Fatal("not gone after Close")
	}
	if _, err := ns.Wait(); !errors.Is(err, ErrGone) {
		t.Errorf("Wait after Close: %v, want ErrGone", err)
	}
	if err := ns.Signal(unix.SIGTERM); !errors.Is(err, ErrGone) {
		t.Errorf("Signal after Close: %v, want ErrGone", err)
	}
	if err := ns.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	closeAll(ns.TAP().FDs)
	if diff := cmp.Diff(fds, openFDs(t)); diff != "" {
		t.Errorf("descriptors are left (-before +after):\n%s", diff)
	}
}
