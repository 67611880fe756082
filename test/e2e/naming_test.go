package e2e_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vasta-net/vasta/internal/lab"
	"golang.org/x/net/dns/dnsmessage"
)

// knownName is the one name that the tests' resolver knows, with these addresses.
const knownName = "known.example."

var (
	knownAddr4 = netip.MustParseAddr("203.0.113.80")
	knownAddr6 = netip.MustParseAddr("2001:db8:80::80")
)

// resolver answers questions at a's port 53.
func resolver(t *testing.T, ns *lab.Namespace, a netip.Addr) {
	t.Helper()
	c, err := ns.ListenPacket("udp", at(a, 53))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return // closed
			}
			answer, err := answerTo(buf[:n])
			if err == nil {
				_, err = c.WriteTo(answer, from)
			}
			if err != nil {
				t.Errorf("resolver: %v", err)
			}
		}
	}()
}

func answerTo(question []byte) ([]byte, error) {
	var m dnsmessage.Message
	if err := m.Unpack(question); err != nil {
		return nil, err
	}
	m.Response, m.Authoritative, m.Additionals = true, true, nil
	q := m.Questions[0]
	if q.Name.String() != knownName {
		m.RCode = dnsmessage.RCodeNameError
		return m.Pack()
	}
	h := dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 60}
	switch q.Type {
	case dnsmessage.TypeA:
		m.Answers = []dnsmessage.Resource{{Header: h, Body: &dnsmessage.AResource{A: knownAddr4.As4()}}}
	case dnsmessage.TypeAAAA:
		m.Answers = []dnsmessage.Resource{{Header: h, Body: &dnsmessage.AAAAResource{AAAA: knownAddr6.As16()}}}
	}
	return m.Pack()
}

func init() {
	// lookup resolves a name with Go's own resolver and prints the addresses.
	guestPrograms["lookup"] = func(args []string) error {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		addrs, err := (&net.Resolver{PreferGo: true}).LookupHost(ctx, args[0])
		for _, a := range addrs {
			fmt.Println(a)
		}
		return err
	}
}

// withResolvConf runs vasta as an ordinary user on a host with the given resolv.conf, and returns what the command
// writes to standard output.
func withResolvConf(t *testing.T, l *lab.Lab, content string, args ...string) string {
	t.Helper()
	file := filepath.Join(l.Dir(), "resolv.conf")
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), runLimit)
	defer cancel()
	const script = `mount --bind "$1" /etc/resolv.conf; shift
		exec setpriv --reuid 31000 --regid 31000 --clear-groups --inh-caps=-all -- "$@"`
	c := l.Host.CommandContext(ctx, lab.Root, append([]string{"unshare", "--mount", "sh", "-ec", script, "sh", file, vastaPath, "-q"}, args...)...)
	c.Env = append(c.Env, guestEnv+"=1")
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, &stderr)
	}
	return string(out)
}

// TestLoopbackResolver checks that names resolve inside when the host's resolver listens on its loopback.
func TestLoopbackResolver(t *testing.T) {
	for _, tc := range []struct{ name, addr, options string }{
		{"IPv4", "127.0.0.53", ""},
		{"IPv6", "::1", ""},
		{"IPv4, the gateway closed", "127.0.0.53", "--no-map-gw"},
		{"IPv6, the gateway closed", "::1", "--no-map-gw"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := newLab(t)
			resolver(t, l.Host, netip.MustParseAddr(tc.addr))
			conf := "# the host's\nnameserver " + tc.addr + "\noptions timeout:2 attempts:2\n"
			options := strings.Fields(tc.options)
			out := withResolvConf(t, l, conf, append(options, "--", "getent", "ahosts", strings.TrimSuffix(knownName, "."))...)
			if !strings.Contains(out, knownAddr4.String()) || !strings.Contains(out, knownAddr6.String()) {
				t.Errorf("getent says %q", out)
			}
			out = withResolvConf(t, l, conf, append(options, "--", guestPath, "lookup", knownName)...)
			if !strings.Contains(out, knownAddr4.String()) || !strings.Contains(out, knownAddr6.String()) {
				t.Errorf("Go's resolver says %q", out)
			}
			inside := withResolvConf(t, l, conf, append(options, "--", "cat", "/etc/resolv.conf")...)
			if strings.Contains(inside, "nameserver "+tc.addr+"\n") || !strings.Contains(inside, "options timeout:2 attempts:2\n") {
				t.Errorf("the resolv.conf inside:\n%s", inside)
			}
		})
	}
}

// TestReachableResolver checks that the resolvers of the network are asked for the guest, and that one whose address the gateway mapping
// hides can be asked by it all the same.
func TestReachableResolver(t *testing.T) {
	l := newLab(t)
	for name, addr := range map[string]netip.Addr{
		"far": lab.FarAddr4.Addr(), "the router": lab.InetAddr4.Addr(), "the router of IPv6": lab.InetAddr6.Addr(),
	} {
		resolver(t, l.Inet, addr)
		conf := "nameserver " + addr.String() + "\n"
		if inside := withResolvConf(t, l, conf, "--", "cat", "/etc/resolv.conf"); !strings.Contains(inside, "nameserver 169.254.1.1\n") {
			t.Errorf("%s: the resolv.conf inside:\n%s", name, inside)
		}
		if out := withResolvConf(t, l, conf, "--", guestPath, "lookup", knownName); !strings.Contains(out, knownAddr4.String()) {
			t.Errorf("%s: Go's resolver says %q", name, out)
		}
		if out := withResolvConf(t, l, conf, "--", "dig", "+short", "@"+addr.String(), knownName); !strings.Contains(out, knownAddr4.String()) {
			t.Errorf("%s: dig says %q", name, out)
		}
	}
}

// TestResolverOfTheHost checks that names resolve when the host's resolver listens on the host's own address, which is the guest's
// as well.
func TestResolverOfTheHost(t *testing.T) {
	l := newLab(t)
	for _, addr := range []netip.Addr{lab.HostAddr4.Addr(), lab.HostAddr6.Addr()} {
		resolver(t, l.Host, addr)
		out := withResolvConf(t, l, "nameserver "+addr.String()+"\n", "--", guestPath, "lookup", knownName)
		if !strings.Contains(out, knownAddr4.String()) {
			t.Errorf("%s: Go's resolver says %q", addr, out)
		}
	}
}

// TestResolverLoad asks very many questions, with the first resolver silent: each is answered by the second, and they need few descriptors.
func TestResolverLoad(t *testing.T) {
	const n, window = 20000, 100 // no more than fit the receive buffer of a client
	l := newLab(t)
	silent, err := l.Inet.ListenPacket("udp", at(lab.FarAddr4.Addr(), 53))
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	resolver(t, l.Inet, lab.FarAddr6.Addr())
	r := startIn(t, l, "--dns-host", lab.FarAddr4.Addr().String(), "--dns-host", lab.FarAddr6.Addr().String())
	before := r.descriptors()
	client := listenUDP(t, r.Guest, "0.0.0.0:0")
	forwarder := net.UDPAddrFromAddrPort(netip.MustParseAddrPort("169.254.1.1:53"))
	question := dnsmessage.Message{Questions: []dnsmessage.Question{{
		Name: dnsmessage.MustNewName(knownName), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET,
	}}}
	answered := make([]bool, n)
	buf := make([]byte, 1500)
	most, began := 0, time.Now()
	for asked, got := 0, 0; got < n; got++ {
		for ; asked < n && asked-got < window; asked++ {
			question.ID = uint16(asked)
			b, err := question.Pack()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := client.WriteTo(b, forwarder); err != nil {
				t.Fatal(err)
			}
		}
		if err := client.SetDeadline(time.Now().Add(udpLimit)); err != nil {
			t.Fatal(err)
		}
		size, err := client.Read(buf)
		if err != nil {
			t.Fatalf("after %d answers: %v", got, err)
		}
		var m dnsmessage.Message
		if err := m.Unpack(buf[:size]); err != nil || m.RCode != dnsmessage.RCodeSuccess || len(m.Answers) != 1 {
			t.Fatalf("answer %d: %+v, %v", got, m, err)
		}
		if answered[m.ID] {
			t.Fatalf("query %d is answered twice", m.ID)
		}
		answered[m.ID] = true
		if got%1000 == 0 {
			most = max(most, r.descriptors())
		}
	}
	took := time.Since(began)
	c := r.now()
	t.Logf("%d queries in %v, %d tried again, %d descriptors more", n, took, c.DNS.Retries, most-before)
	if c.DNS.Queries != n || c.DNS.Answers != n || c.DNS.Failed != 0 || most-before > 16 {
		t.Errorf("%+v, %d descriptors more than before", c.DNS, most-before)
	}
}
