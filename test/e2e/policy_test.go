package e2e_test

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vasta-net/vasta/internal/lab"
	"golang.org/x/sys/unix"
)

// ruleArgs makes options of rules.
func ruleArgs(rules ...string) (args []string) {
	for _, r := range rules {
		verb, text, _ := strings.Cut(r, " ")
		args = append(args, "--"+verb, text)
	}
	return args
}

// serveWord answers HTTP requests with a word.
func serveWord(t *testing.T, ns *lab.Namespace, a netip.AddrPort, word string) {
	t.Helper()
	serveAt(t, ns, a, func(c *net.TCPConn) error {
		if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
			return nil // no client of the test's
		}
		_, err := fmt.Fprintf(c, "HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(word), word)
		return err
	})
}

// curlIn is what curl says of a URL inside, and how it ended.
func curlIn(r *rig, url string, more ...string) (string, error) {
	args := append([]string{"curl", "-sS", "--noproxy", "*", "-m", "5", url}, more...)
	out, err := r.Guest.Command(lab.Ordinary, args...).CombinedOutput()
	return string(out), err
}

// TestPolicy checks with curl, nc and ping that what rules allow is reached, and that everything else is refused at once, in either direction.
func TestPolicy(t *testing.T) {
	var rules []string
	for _, f := range families {
		rules = append(rules, fmt.Sprintf("allow out tcp %v 8001", f.far), fmt.Sprintf("allow in tcp %v %d", f.peer(), innerPort))
	}
	rules = append(rules, "deny all")
	r := start(t, append(ruleArgs(rules...), "-t", fmt.Sprintf("%d:%d,%d", outerPort, innerPort, samePort), "--no-map-gw")...)
	bothFamilies(t, func(t *testing.T, f family) {
		for _, port := range []uint16{8001, 8002} {
			serveWord(t, r.Inet, netip.AddrPortFrom(f.far, port), "outside")
		}
		saySelf(t, r.Guest, netip.AddrPortFrom(f.host, innerPort), "inside")
		saySelf(t, r.Guest, netip.AddrPortFrom(f.host, samePort), "inside")
		if out, err := curlIn(r, "http://"+at(f.far, 8001)); err != nil || out != "outside" {
			t.Errorf("what is allowed: %v, %q", err, out)
		}
		began := time.Now()
		const refused = 7 // curl's exit status
		if out, err := curlIn(r, "http://"+at(f.far, 8002)); err == nil || !strings.Contains(err.Error(), fmt.Sprint("exit status ", refused)) {
			t.Errorf("what is denied: %v, %q", err, out)
		}
		if _, err := r.Guest.Dial("tcp", at(f.far, 8002), dialLimit); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("what is denied: %v", err)
		}
		c, err := r.Guest.Dial("udp", at(f.far, 8001), dialLimit)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err = c.Write([]byte("x")); err == nil {
			_ = c.SetReadDeadline(time.Now().Add(dialLimit)) // a datagram socket takes it
			_, err = c.Read(make([]byte, 1))
		}
		if !errors.Is(err, unix.EHOSTUNREACH) && !errors.Is(err, unix.EACCES) {
			t.Errorf("a datagram that is denied: %v", err)
		}
		if out, err := r.Guest.Command(lab.Ordinary, "ping", "-c", "1", "-W", "5", f.far.String()).CombinedOutput(); err == nil ||
			!strings.Contains(string(out), "iltered") && !strings.Contains(string(out), "rohibited") {
			t.Errorf("ping: %v, %s", err, out)
		}
		if took := time.Since(began); took > dialLimit {
			t.Errorf("refusals take %v", took)
		}
		if got := heard(t, r.Inet, f.host, outerPort); got != "inside" {
			t.Errorf("an inbound connection that is allowed: %q", got)
		}
		for _, denied := range []struct {
			from *lab.Namespace
			to   netip.Addr
			port uint16
		}{{r.Inet, f.host, samePort}, {r.Host, f.loopback, outerPort}} {
			c, err := dial(denied.from, denied.to, denied.port)
			if err == nil { // the kernel accepts before vasta can ask
				_, err = c.Read(make([]byte, 1))
				c.Close()
			}
			if !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("an inbound connection that is denied: %v", errorText(err))
			}
		}
	})
	c := r.settle()
	if n := c.Drops["policy_denied"]; n != 2*6 {
		t.Errorf("%d refusals counted, want 12", n)
	}
	if len(c.Policy.Rules) != 5 || c.Policy.Rules[4].Rule != "deny all" || c.Policy.Rules[4].Flows != 12 || c.Policy.Rules[0].Flows != 1 {
		t.Errorf("rules counted: %+v", c.Policy.Rules)
	}
}

// TestPolicyFile checks rules from a file, and what is said of those that are wrong.
func TestPolicyFile(t *testing.T) {
	l := newLab(t)
	dir := l.Dir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	f := families[0]
	good := write("good", fmt.Sprintf("# the far host, but not its first port\ndeny tcp %v 8001\nallow %v # the rest of it\n", f.far, f.far))
	r := startIn(t, l, "--policy", good, "--deny", "all")
	serveWord(t, r.Inet, netip.AddrPortFrom(f.far, 8001), "outside")
	serveWord(t, r.Inet, netip.AddrPortFrom(f.far, 8002), "outside")
	if out, err := curlIn(r, "http://"+at(f.far, 8002)); err != nil || out != "outside" {
		t.Errorf("what is allowed: %v, %q", err, out)
	}
	if _, err := r.Guest.Dial("tcp", at(f.far, 8001), dialLimit); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("what is denied: %v", err)
	}
	bad := write("bad", "deny 10.0.0.0/8\n\nalow all\n")
	vastaFails(t, l, 1, fmt.Sprintf("vasta: option --policy: %s: line 3: \"alow\": a rule begins with allow or deny", bad), "-q", "--policy", bad, "--", "true")
	vastaFails(t, l, 1, "vasta: option --policy: open ", "-q", "--policy", filepath.Join(dir, "none"), "--", "true")
	vastaFails(t, l, 1, "vasta: options --allow, --deny and --policy: allow tcp: this changes nothing", "-q", "--allow", "tcp", "--", "true")
}
