package e2e_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vasta-net/vasta/internal/lab"
	"golang.org/x/sys/unix"
)

// routers is how many there are behind inet on the routes of these tests.
const routers = 3

// end is a route's end in the family of f, and hops are who answers on the way there.
func (f family) end() (end netip.Addr, hops []netip.Addr) {
	near, end := lab.Near4, lab.End4.Addr()
	if f.host.Is6() {
		near, end = lab.Near6, lab.End6.Addr()
	}
	hops = []netip.Addr{f.gateway}
	for i := range routers {
		hops = append(hops, near(i))
	}
	return end, append(hops, end)
}

// startRoute runs vasta in a lab with a route.
func startRoute(t *testing.T, options ...string) (*rig, *lab.Route) {
	t.Helper()
	l := newLab(t)
	route, err := l.NewRoute(routers)
	if err != nil {
		t.Fatal(err)
	}
	r := startIn(t, l, options...)
	return r, route
}

// run runs a program in the namespace and returns what it says.
func (r *rig) run(args ...string) (string, error) {
	out, err := r.Guest.Command(lab.Root, args...).CombinedOutput()
	return string(out), err
}

// traces is how often traceroute may try. Where it takes an error from its socket's queue before the kernel has noted that error as the
// socket's own (raw_err does the one after the other), poll says POLLERR until the end, and traceroute 2.1 reads nothing but errors, turning
// round at full speed: one run in 200 saw no reply of the end while pcap showed all of them inside.
const traces = 3

// TestTraceroute shows every router on the way, and the end: by UDP, by ICMP echo, and as an ordinary user's tracepath does.
func TestTraceroute(t *testing.T) {
	r, _ := startRoute(t)
	bothFamilies(t, func(t *testing.T, f family) {
		end, hops := f.end()
		var want []string
		for _, a := range hops {
			want = append(want, a.String())
		}
		for _, method := range []string{"-U", "-I", ""} {
			args := []string{"traceroute", "-n", "-q", "1", "-w", "3"}
			if method != "" {
				args = append(args, method)
			}
			var out string
			var err error
			for range traces {
				if out, err = r.run(append(args, end.String())...); strings.Join(hopsOf(out), " ") == strings.Join(want, " ") {
					break
				}
			}
			if got := hopsOf(out); err != nil || strings.Join(got, " ") != strings.Join(want, " ") {
				t.Errorf("traceroute %s: %v, want %v (%v)\n%s", method, got, want, err, out)
			}
		}
		out, err := r.run("tracepath", "-n", end.String())
		for _, a := range want {
			if !strings.Contains(out, " "+a+" ") {
				t.Errorf("tracepath does not name %s (%v)\n%s", a, err, out)
			}
		}
	})
}

var hopLine = regexp.MustCompile(`(?m)^ *\d+ +(\S+)`)

// hopsOf are the addresses of traceroute's lines.
func hopsOf(out string) (hops []string) {
	for _, m := range hopLine.FindAllStringSubmatch(out, -1) {
		hops = append(hops, m[1])
	}
	return hops
}

// TestErrorsOfRouters: a datagram that a router cannot pass on fails for the guest's program as it would fail on the host.
func TestErrorsOfRouters(t *testing.T) {
	r, _ := startRoute(t)
	for _, tc := range []struct {
		route, to string
		want      error
		says      string
	}{
		{"unreachable", "203.0.113.201", syscall.EHOSTUNREACH, "Destination Host Unreachable"},
		{"prohibit", "203.0.113.202", syscall.EHOSTUNREACH, "Packet filtered"},
		{"unreachable", "2001:db8:dead::1", syscall.ENETUNREACH, "Destination unreachable: No route"},
		{"prohibit", "2001:db8:dead::2", syscall.EACCES, "Destination unreachable: Administratively prohibited"},
	} {
		out, err := r.Inet.Command(lab.Root, "ip", "route", "add", tc.route, tc.to).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		to := netip.MustParseAddr(tc.to)
		if err := attempt(r, "udp", at(to, 9)); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", tc.to, err, tc.want)
		}
		from := families[0].gateway
		if to.Is6() {
			from = families[1].gateway
		}
		said, err := r.run("ping", "-n", "-c", "1", "-W", "2", tc.to)
		if want := fmt.Sprintf("From %v icmp_seq=1 %s", from, tc.says); err == nil || !strings.Contains(said, want) {
			t.Errorf("%s: ping says %v, want %q\n%s", tc.to, err, want, said)
		}
	}
}

// TestPathMTU: where a link behind the host is narrow, the guest is told, keeps to it, and what it lets others cut arrives.
func TestPathMTU(t *testing.T) {
	const narrow = 1400
	for _, link := range []int{-1, 2} { // the host's own link, and one behind routers
		t.Run(fmt.Sprint(link), func(t *testing.T) {
			r, route := startRoute(t)
			var err error
			if link < 0 {
				err = r.SetMTU(narrow)
			} else {
				err = route.SetMTU(link, narrow)
			}
			if err != nil {
				t.Fatal(err)
			}
			bothFamilies(t, func(t *testing.T, f family) {
				end, _ := f.end()
				head := 28
				if f.host.Is6() {
					head = 48
				}
				fits, beyond := fmt.Sprint(narrow-head), fmt.Sprint(narrow-head+1)
				out, err := r.run("ping", "-n", "-c", "2", "-i", "0.2", "-W", "2", "-M", "do", "-s", fits, end.String())
				if err != nil {
					t.Errorf("ping with what fits: %v\n%s", err, out)
				}
				out, err = r.run("ping", "-n", "-c", "2", "-i", "0.2", "-W", "2", "-M", "do", "-s", beyond, end.String())
				if err == nil || !strings.Contains(strings.ToLower(out), fmt.Sprintf("mtu=%d", narrow)) && !strings.Contains(out, fmt.Sprintf("mtu = %d", narrow)) {
					t.Errorf("ping with one byte more: %v\n%s", err, out)
				}
				out, err = r.run("ping", "-n", "-c", "3", "-i", "0.2", "-W", "2", "-M", "dont", "-s", "5000", end.String())
				if err != nil {
					t.Errorf("ping with what may be cut: %v\n%s", err, out)
				}
				out, _ = r.run("tracepath", "-n", end.String())
				if !strings.Contains(out, fmt.Sprintf("pmtu %d", narrow)) {
					t.Errorf("tracepath does not find %d\n%s", narrow, out)
				}
				udpMTU(t, r, route, end, narrow)
			})
		})
	}
}

// udpMTU sends datagrams to a route's end, whole ones and such as may be cut, and checks what a program learns of the path's MTU.
func udpMTU(t *testing.T, r *rig, route *lab.Route, end netip.Addr, narrow int) {
	t.Helper()
	server := listenUDP(t, route.End, at(end, 0))
	level, discover, mtu := unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_MTU
	if end.Is6() {
		level, discover, mtu = unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_MTU
	}
	c, err := r.Guest.Dial("udp", server.LocalAddr().String(), dialLimit)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	u := c.(*net.UDPConn)
	if err := setInt(u, level, discover, unix.IP_PMTUDISC_DO); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(udpLimit); ; time.Sleep(5 * time.Millisecond) {
		_, err := u.Write(pattern[:4000])
		if errors.Is(err, syscall.EMSGSIZE) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("4000 bytes whole are sent all the time (%v)", err)
		}
	}
	raw, err := u.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var known int
	if err := raw.Control(func(fd uintptr) { known, _ = unix.GetsockoptInt(int(fd), level, mtu) }); err != nil || known != narrow {
		t.Errorf("the guest's socket takes the path for %d bytes wide, want %d", known, narrow)
	}
	if err := setInt(u, level, discover, unix.IP_PMTUDISC_DONT); err != nil {
		t.Fatal(err)
	}
	if _, err := u.Write(pattern[:4000]); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 65536)
	if n, _, err := server.ReadFrom(buf); err != nil || string(buf[:n]) != string(pattern[:4000]) {
		t.Errorf("%d bytes arrived (%v), want 4000", n, err)
	}
}

// TestNarrowGuest: a network behind the namespace, over a link narrower than the namespace's own, has whole streams and datagrams from the host.
func TestNarrowGuest(t *testing.T) {
	const size = 8 << 20
	r := start(t)
	inner := r.Guest.Command(lab.Root, "unshare", "--net", "cat")
	stdin, err := inner.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := inner.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		_ = inner.Wait() // cat ends with its input
	})
	pid := inner.Process.Pid
	netns := fmt.Sprintf("/proc/%d/ns/net", pid)
	eventually(t, "a namespace inside", func() bool { return !sameFile(t, netns, r.Guest.Path()) })
	behind, err := r.Open("behind", netns)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"} {
		if err := r.Guest.Sysctl(key, "1"); err != nil {
			t.Fatal(err)
		}
	}
	// The near end is narrow, the far one takes all: no MSS tells of it.
	for _, step := range []struct {
		ns  *lab.Namespace
		cmd string
	}{
		{r.Guest, fmt.Sprintf("ip link add narrow mtu 1400 type veth peer name wide mtu 65520 netns %d && ip link set narrow up", pid)},
		{r.Guest, "ip addr add 10.9.0.1/24 dev narrow && ip addr add fd09::1/64 dev narrow nodad"},
		{behind, "ip link set lo up && ip link set wide up && ip addr add 10.9.0.2/24 dev wide && ip addr add fd09::2/64 dev wide nodad"},
		{behind, "ip route add default via 10.9.0.1 && ip route add default via fd09::1"},
	} {
		if out, err := step.ns.Command(lab.Root, "sh", "-c", step.cmd).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", step.cmd, err, out)
		}
	}
	bothFamilies(t, func(t *testing.T, f family) {
		near := serve(t, r.Host, f.loopback, source(size))
		if err := download(behind, f.gateway, near, size); err != nil {
			t.Error(err)
		}
		server := listenUDP(t, r.Inet, at(f.far, 0))
		c, err := behind.Dial("udp", server.LocalAddr().String(), dialLimit)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write([]byte("question")); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 65536)
		_, from, err := server.ReadFrom(buf)
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, "a long datagram", func() bool { // the first tells the router, which tells vasta
			if _, err := server.WriteTo(pattern[:9000], from); err != nil {
				t.Fatal(err)
			}
			if err := c.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
				t.Fatal(err)
			}
			n, err := c.Read(buf)
			return err == nil && string(buf[:n]) == string(pattern[:9000])
		})
	})
	if d := r.now().Drops; d["icmp_no_flow"] != 0 || d["bad_transport"] != 0 {
		t.Errorf("errors that were not understood: %v", d)
	}
}

// sameFile reports whether two paths name one file.
func sameFile(t *testing.T, a, b string) bool {
	t.Helper()
	x, err := os.Stat(a)
	if err != nil {
		t.Fatal(err)
	}
	y, err := os.Stat(b)
	if err != nil {
		t.Fatal(err)
	}
	return os.SameFile(x, y)
}

// TestGuestPortUnreachable: when nobody in the namespace wants an answer any more, the host refuses what its peer still sends.
func TestGuestPortUnreachable(t *testing.T) {
	r := start(t)
	bothFamilies(t, func(t *testing.T, f family) {
		server := listenUDP(t, r.Inet, at(f.far, 0))
		c, err := r.Guest.Dial("udp", server.LocalAddr().String(), dialLimit)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte("question")); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 100)
		_, from, err := server.ReadFrom(buf)
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		eventually(t, "the end of the flow", func() bool {
			if _, err := server.WriteTo([]byte("late answer"), from); err != nil {
				t.Fatal(err)
			}
			return r.now().Levels.UDPFlows == 0
		})
	})
	if d := r.now().Drops; d["guest_unreachable"] != 2 {
		t.Errorf("drops %v, want 2 for what the guest did not want", d)
	}
}
