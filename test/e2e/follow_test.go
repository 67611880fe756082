package e2e_test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vasta-net/vasta/internal/lab"
)

// shell is a shell in a namespace that vasta has made on a host with a resolv.conf of its own.
type shell struct {
	t      *testing.T
	in     io.Writer
	out    *bufio.Reader
	resolv string // the host's file
}

// newShell starts vasta and the shell; both end with the test.
func newShell(t *testing.T, l *lab.Lab, content string, options ...string) *shell {
	t.Helper()
	s := &shell{t: t, resolv: filepath.Join(l.Dir(), "resolv.conf")}
	s.setResolvConf(content)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	const script = `mount --bind "$1" /etc/resolv.conf; shift
		exec setpriv --reuid 31000 --regid 31000 --clear-groups --inh-caps=-all -- "$@"`
	argv := append([]string{"unshare", "--mount", "sh", "-ec", script, "sh", s.resolv, vastaPath}, options...)
	c := l.Host.CommandContext(ctx, lab.Root, append(argv, "--", "sh")...)
	log := &logBuffer{}
	c.Stderr = log
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := c.Wait(); err != nil {
			t.Errorf("vasta: %v", err)
		}
		cancel()
		if t.Failed() {
			t.Logf("vasta says: %s", log)
		}
	})
	s.in, s.out = in, bufio.NewReader(out)
	return s
}

// setResolvConf writes the host's file in place, as it is bound there.
func (s *shell) setResolvConf(content string) {
	s.t.Helper()
	if err := os.WriteFile(s.resolv, []byte(content), 0o644); err != nil {
		s.t.Fatal(err)
	}
}

// run runs a command in the shell and returns what it writes.
func (s *shell) run(command string) string {
	s.t.Helper()
	const end = "the end of the output"
	if _, err := io.WriteString(s.in, command+" 2>&1; echo; echo "+end+"\n"); err != nil {
		s.t.Fatal(err)
	}
	var all strings.Builder
	for {
		line, err := s.out.ReadString('\n')
		if err != nil {
			s.t.Fatalf("%s: %v after %q", command, err, all.String())
		}
		if line == end+"\n" {
			return strings.TrimSuffix(all.String(), "\n")
		}
		all.WriteString(line)
	}
}

// eventually runs a command until its output has what is wanted.
func (s *shell) eventually(command string, want ...string) {
	s.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		out, missing := s.run(command), ""
		for _, w := range want {
			if !strings.Contains(out, w) {
				missing = w
			}
		}
		if missing == "" {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("%s: no %q in\n%s", command, missing, out)
		}
	}
}

// sharedDir makes a directory that the shell may write to.
func sharedDir(t *testing.T, l *lab.Lab) string {
	t.Helper()
	dir := filepath.Join(l.Dir(), "shared")
	// The umask takes some of what Mkdir gives.
	if err := errors.Join(os.Mkdir(dir, 0o777), os.Chmod(dir, 0o777)); err != nil {
		t.Fatal(err)
	}
	return dir
}

const askKnown = "dig +short +tries=1 +time=2 " + knownName

// TestFollowResolvConf checks that a change of the host's resolv.conf holds inside at once.
func TestFollowResolvConf(t *testing.T) {
	l := newLab(t)
	resolver(t, l.Host, netip.MustParseAddr("127.0.0.53"))
	s := newShell(t, l, "nameserver "+lab.FarAddr6.Addr().String()+"\nsearch before.example\n")
	if out := s.run(askKnown); strings.Contains(out, knownAddr4.String()) { // nobody listens there
		t.Fatalf("%s: %s", askKnown, out)
	}
	s.setResolvConf("nameserver 127.0.0.53\nsearch after.example\n")
	s.eventually(askKnown, knownAddr4.String())
	s.eventually("cat /etc/resolv.conf", "nameserver 169.254.1.1", "search after.example")
	s.setResolvConf("")
	s.eventually("cat /etc/resolv.conf; dig +tries=1 +time=2 "+knownName, "nameserver 169.254.1.1", "SERVFAIL") // nobody listens at 127.0.0.1
}

// TestFollowAddresses checks that the inside goes with the host from one network to another, and that a connection to the host survives.
func TestFollowAddresses(t *testing.T) {
	l := newLab(t)
	resolver(t, l.Inet, lab.FarAddr4.Addr())
	s := newShell(t, l, "nameserver "+lab.FarAddr4.Addr().String()+"\n")
	s.eventually("ip -o addr show dev eth0", lab.HostAddr4.String(), lab.HostAddr6.String())
	echo, err := l.Host.Listen("tcp", "127.0.0.1:7007")
	if err != nil {
		t.Fatal(err)
	}
	defer echo.Close()
	go func() {
		for {
			c, err := echo.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); _, _ = io.Copy(c, c) }()
		}
	}()
	s.run("cd " + sharedDir(t, l) + "; mkfifo there; nc -N " + lab.InetAddr4.Addr().String() + " 7007 <there >back & exec 3>there; sleep 0.1")
	s.run("echo one >&3")
	s.eventually("cat back", "one")
	for _, command := range []string{
		"ip addr add 203.0.113.2/24 dev eth0", "ip route replace default via 203.0.113.1 dev eth0 onlink", "ip addr del " + lab.HostAddr4.String() + " dev eth0",
		"ip addr add 2001:db8:7::2/64 dev eth0 nodad", "ip -6 route replace default via 2001:db8:7::1 dev eth0 onlink", "ip addr del " + lab.HostAddr6.String() + " dev eth0",
	} {
		argv := strings.Fields(command)
		if out, err := l.Host.Command(lab.Root, argv...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", command, err, out)
		}
	}
	for _, command := range []string{"ip addr add 203.0.113.1/24 dev eth0", "ip addr add 2001:db8:7::1/64 dev eth0 nodad"} {
		if out, err := l.Inet.Command(lab.Root, strings.Fields(command)...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", command, err, out)
		}
	}
	s.eventually("ip -o addr show dev eth0; ip route; ip -6 route", "203.0.113.2/24", "2001:db8:7::2/64", "default via 203.0.113.1", "default via 2001:db8:7::1")
	s.eventually("ip route get "+lab.FarAddr4.Addr().String(), "src 203.0.113.2")
	s.eventually(askKnown, knownAddr4.String())
	s.run("echo two >&3")
	s.eventually("cat back", "one\ntwo")
	s.run("exec 3>&-; wait")
}

// TestFollowMTU checks that the inside has the MTUs of the host's interface and routes when that was asked for, also after they have changed, what is told of
// them, and that what was begun before goes on: a transfer with segments of the old size.
func TestFollowMTU(t *testing.T) {
	l := newLab(t)
	if err := l.SetMTU(1500); err != nil {
		t.Fatal(err)
	}
	s := newShell(t, l, "", "--mtu", "host", "-t", "7008")
	const ask = "ip link show dev eth0; ip route get " // and an address of the outside
	far := lab.FarAddr4.Addr().String()
	s.eventually(ask+far, " mtu 1500 ")
	dir := sharedDir(t, l)
	s.run("cd " + dir + "; nc -l -N 7008 </dev/null | sha256sum >sum &")
	s.eventually("ss -ltn", ":7008")
	c, err := l.Host.Dial("tcp", "127.0.0.1:7008", 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	sum := sha256.New()
	random := io.TeeReader(rand.NewChaCha8([32]byte{1}), sum)
	send := func() {
		t.Helper()
		if _, err := io.CopyN(c, random, 512<<10); err != nil {
			t.Fatal(err)
		}
	}
	send()
	for _, command := range []string{"ip link set eth0 mtu 1420", "ip route replace default via " + lab.InetAddr4.Addr().String() + " dev eth0 mtu 1360"} {
		if out, err := l.Host.Command(lab.Root, strings.Fields(command)...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", command, err, out)
		}
	}
	s.eventually(ask+far, " mtu 1420 ", " mtu 1360 ")
	send()
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	s.eventually("cat sum", hex.EncodeToString(sum.Sum(nil)))
}

// TestDeadResolver checks that names resolve, over UDP and TCP, when the host's first resolver is silent.
func TestDeadResolver(t *testing.T) {
	l := newLab(t)
	silent, err := l.Inet.ListenPacket("udp", at(lab.FarAddr6.Addr(), 53))
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	resolver(t, l.Inet, lab.FarAddr4.Addr())
	streamResolver(t, l.Inet, lab.FarAddr4.Addr())
	s := newShell(t, l, "nameserver "+lab.FarAddr6.Addr().String()+"\nnameserver "+lab.FarAddr4.Addr().String()+"\n", "-q")
	for _, command := range []string{
		"dig +short +tries=1 +time=1 @169.254.1.1 " + knownName, "dig +short +tries=1 +time=1 " + knownName, "dig +short +tcp +tries=1 +time=2 " + knownName,
		"getent hosts " + strings.TrimSuffix(knownName, "."),
	} {
		if out := s.run(command); !strings.Contains(out, knownAddr4.String()) && !strings.Contains(out, knownAddr6.String()) {
			t.Errorf("%s: %s", command, out)
		}
	}
}

// streamResolver answers questions over TCP at a's port 53.
func streamResolver(t *testing.T, ns *lab.Namespace, a netip.Addr) {
	t.Helper()
	listener, err := ns.Listen("tcp", at(a, 53))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return // closed
			}
			go answerStream(c)
		}
	}()
}

func answerStream(c net.Conn) {
	defer c.Close()
	var size [2]byte
	for {
		if _, err := io.ReadFull(c, size[:]); err != nil {
			return
		}
		question := make([]byte, binary.BigEndian.Uint16(size[:]))
		if _, err := io.ReadFull(c, question); err != nil {
			return
		}
		answer, err := answerTo(question)
		if err != nil {
			return
		}
		if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...)); err != nil {
			return
		}
	}
}
