package programs_test

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/vasta-net/vasta/internal/lab"
	"golang.org/x/net/dns/dnsmessage"
)

// sshd starts a server beyond the host and returns the options of a client that it lets in.
func (s *stage) sshd() (client []string) {
	s.t.Helper()
	dir := s.folder("sshd")
	own := s.t.TempDir() // of root's, with nothing in it for others
	for _, k := range []string{"host", "client"} {
		c := s.Host.Command(lab.Root, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, k))
		if out, err := c.CombinedOutput(); err != nil {
			s.t.Fatalf("ssh-keygen: %v\n%s", err, out)
		}
	}
	if err := os.Chown(filepath.Join(dir, "client"), int(lab.Ordinary.UID), int(lab.Ordinary.GID)); err != nil {
		s.t.Fatal(err)
	}
	copyKey := func(name string) string {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(own, name), b, 0o600)
		}
		if err != nil {
			s.t.Fatal(err)
		}
		return filepath.Join(own, name)
	}
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil { // sshd's own, which its start script makes
		s.t.Fatal(err)
	}
	config := s.write(filepath.Join(dir, "sshd_config"), fmt.Appendf(nil, `
HostKey %s
AuthorizedKeysFile %s
PidFile none
Port 2222
ListenAddress %s
ListenAddress %s
UsePAM no
StrictModes no
PermitRootLogin yes
PasswordAuthentication no
Subsystem sftp internal-sftp
`, copyKey("host"), copyKey("client.pub"), lab.FarAddr4.Addr(), lab.FarAddr6.Addr()))
	s.serve(s.Inet, lab.Root, []string{"/usr/sbin/sshd", "-D", "-e", "-f", config}, at(lab.FarAddr4.Addr(), 2222), at(lab.FarAddr6.Addr(), 2222))
	return []string{"ssh", "-F", "none", "-i", filepath.Join(dir, "client"), "-p", "2222", "-o", "IdentitiesOnly=yes", "-o", "StrictHostKeyChecking=no",
		"-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "BatchMode=yes"}
}

func TestSSH(t *testing.T) {
	s := newStage(t)
	ssh := s.sshd()
	content := payload()
	sum := sha256.Sum256(content)
	file := s.write(filepath.Join(s.folder("data"), "payload"), content)
	bothFamilies(t, func(t *testing.T, f family) {
		argv := append(slices.Clone(ssh), "root@"+f.far.String())
		if got := s.inside(t, append(argv, "echo", "$SSH_CONNECTION")...); !strings.Contains(got, " "+f.far.String()+" 2222") {
			t.Errorf("the server says that the connection is %q", got)
		}
		if got := s.inside(t, "sh", "-c", strings.Join(argv, " ")+" sha256sum <"+file); !strings.HasPrefix(got, hex.EncodeToString(sum[:])) {
			t.Errorf("what came is %q", got)
		}
		if got := s.inside(t, "sh", "-c", strings.Join(argv, " ")+" cat "+file+" | sha256sum"); !strings.HasPrefix(got, hex.EncodeToString(sum[:])) {
			t.Errorf("what came back is %q", got)
		}
	})
}

func TestRsync(t *testing.T) {
	s := newStage(t)
	ssh := s.sshd()
	from := s.folder("from")
	content := payload()
	s.write(filepath.Join(from, "payload"), content)
	for i := range 200 {
		s.write(filepath.Join(from, fmt.Sprint("small", i)), fmt.Append(nil, "file ", i))
	}
	config := s.write(filepath.Join(s.folder("rsyncd"), "rsyncd.conf"), fmt.Appendf(nil, "use chroot = no\n[files]\npath = %s\nread only = yes\n", from))
	for _, f := range families {
		s.serve(s.Inet, lab.Ordinary, []string{"rsync", "--daemon", "--no-detach", "--config", config, "--address", f.far.String(), "--port", "8730"}, at(f.far, 8730))
	}
	bothFamilies(t, func(t *testing.T, f family) {
		for name, source := range map[string]string{"daemon": "rsync://" + f.url() + ":8730/files/", "ssh": "root@" + f.url() + ":" + from + "/"} {
			to := s.folder("to" + f.name + name)
			argv := []string{"rsync", "-rtO", source, to}
			if name == "ssh" {
				argv = append(argv, "-e", strings.Join(ssh, " "))
			}
			s.inside(t, argv...)
			same(t, filepath.Join(to, "payload"), content)
			same(t, filepath.Join(to, "small199"), []byte("file 199"))
		}
	})
}

// TestDig asks a server beyond the host, directly and by way of the forwarder, over UDP and TCP.
func TestDig(t *testing.T) {
	s := newStage(t)
	for _, f := range families {
		udp, err := s.Inet.ListenPacket("udp", at(f.far, 53))
		if err != nil {
			t.Fatal(err)
		}
		tcp, err := s.Inet.Listen("tcp", at(f.far, 53))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			udp.Close()
			tcp.Close()
		})
		go answerUDP(udp)
		go answerTCP(tcp)
	}
	bothFamilies(t, func(t *testing.T, f family) {
		for name, server := range map[string]string{"directly": "@" + f.far.String(), "forwarder": ""} {
			for _, transport := range []string{"+notcp", "+tcp"} {
				for kind, want := range map[string]string{"A": "203.0.113.80", "AAAA": "2001:db8:80::80"} {
					argv := []string{vastaPath, "-q", "--dns-host", f.far.String(), "--", "dig", "+short", "+tries=1", "+time=5", transport, "known.example", kind}
					if server != "" {
						argv = append(argv, server)
					}
					if got := strings.TrimSpace(s.run(t, s.Host, argv...)); got != want {
						t.Errorf("%s %s %s: %q, want %s", name, transport, kind, got, want)
					}
				}
			}
		}
	})
}

func answerUDP(c net.PacketConn) {
	b := make([]byte, 1500)
	for {
		n, from, err := c.ReadFrom(b)
		if err != nil {
			return // closed
		}
		if answer, err := answer(b[:n]); err == nil {
			_, _ = c.WriteTo(answer, from) // dig tells when it gets nothing
		}
	}
}

func answerTCP(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return // closed
		}
		b := make([]byte, 1500)
		if n, err := c.Read(b); err == nil && n > 2 {
			if answer, err := answer(b[2:n]); err == nil {
				_, _ = c.Write(append([]byte{byte(len(answer) >> 8), byte(len(answer))}, answer...)) // dig tells
			}
		}
		c.Close()
	}
}

// answer knows one name.
func answer(question []byte) ([]byte, error) {
	var m dnsmessage.Message
	if err := m.Unpack(question); err != nil {
		return nil, err
	}
	m.Response, m.Additionals = true, nil
	q := m.Questions[0]
	h := dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 60}
	switch q.Type {
	case dnsmessage.TypeA:
		m.Answers = []dnsmessage.Resource{{Header: h, Body: &dnsmessage.AResource{A: [4]byte{203, 0, 113, 80}}}}
	case dnsmessage.TypeAAAA:
		m.Answers = []dnsmessage.Resource{{Header: h, Body: &dnsmessage.AAAAResource{AAAA: [16]byte{0x20, 1, 0xd, 0xb8, 0, 0x80, 15: 0x80}}}}
	}
	return m.Pack()
}

// TestSMTP: msmtp gives a message of a megabyte to a server beyond the host.
func TestSMTP(t *testing.T) {
	s := newStage(t)
	var body strings.Builder
	for i := range 20_000 {
		fmt.Fprintf(&body, "line %d of a message that is longer than any buffer\r\n", i)
	}
	message := "From: a@example.org\r\nTo: b@example.org\r\nSubject: lab\r\n\r\n" + body.String()
	file := s.write(filepath.Join(s.folder("mail"), "message"), []byte(strings.ReplaceAll(message, "\r\n", "\n")))
	bothFamilies(t, func(t *testing.T, f family) {
		l, err := s.Inet.Listen("tcp", at(f.far, 2525))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		var got string
		var serving sync.WaitGroup
		serving.Go(func() {
			c, err := l.Accept()
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			if got, err = receiveMail(c); err != nil {
				t.Errorf("the server: %v", err)
			}
		})
		s.inside(t, "sh", "-c", fmt.Sprintf("msmtp --host=%s --port=2525 --tls=off --auth=off --from=a@example.org b@example.org <%s", f.far, file))
		serving.Wait()
		if !strings.HasSuffix(got, body.String()) {
			t.Errorf("a message of %d bytes has come, want %d", len(got), len(message))
		}
	})
}

// receiveMail is a server's side of one session (RFC 5321).
func receiveMail(c net.Conn) (message string, err error) {
	r := bufio.NewReader(c)
	say := func(line string) {
		if err == nil {
			_, err = fmt.Fprintf(c, "%s\r\n", line)
		}
	}
	say("220 lab")
	for err == nil {
		var line string
		if line, err = r.ReadString('\n'); err != nil {
			return message, err
		}
		switch verb, _, _ := strings.Cut(strings.ToUpper(strings.TrimSpace(line)), " "); verb {
		case "DATA":
			say("354 go on")
			var data strings.Builder
			for err == nil {
				if line, err = r.ReadString('\n'); line == ".\r\n" {
					break
				}
				data.WriteString(strings.TrimPrefix(line, "."))
			}
			message = data.String()
			say("250 taken")
		case "QUIT":
			say("221 bye")
			return message, err
		default:
			say("250 lab")
		}
	}
	return message, err
}

// TestPostgreSQL: a session with questions, a table of a few megabytes each way, and a notification that the server sends by itself.
func TestPostgreSQL(t *testing.T) {
	s := newStage(t)
	programs, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	if err != nil || len(programs) == 0 {
		t.Fatalf("no PostgreSQL server in /usr/lib/postgresql: .ci/prepare installs it (%v)", err)
	}
	bin := programs[len(programs)-1]
	dir := s.folder("postgres")
	data := filepath.Join(dir, "data")
	c := s.Inet.Command(server, filepath.Join(bin, "initdb"), "-D", data, "-U", "lab", "-A", "trust", "--no-sync", "--no-locale", "-E", "UTF8")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	f, err := os.OpenFile(filepath.Join(data, "pg_hba.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(f, "host all all 0.0.0.0/0 trust\nhost all all ::/0 trust\n")
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	s.serve(s.Inet, server, []string{filepath.Join(bin, "postgres"), "-D", data, "-k", dir, "-c", "fsync=off",
		"-h", lab.FarAddr4.Addr().String() + "," + lab.FarAddr6.Addr().String()}, at(lab.FarAddr4.Addr(), 5432), at(lab.FarAddr6.Addr(), 5432))
	script := s.write(filepath.Join(dir, "session.sql"), []byte(`
\set ON_ERROR_STOP on
LISTEN news;
CREATE TEMP TABLE numbers AS SELECT i, md5(i::text) AS digest FROM generate_series(1, 100000) AS i;
\copy numbers TO 'numbers.csv' CSV
CREATE TEMP TABLE again (LIKE numbers);
\copy again FROM 'numbers.csv' CSV
SELECT count(*), sum(i) FROM (SELECT * FROM numbers INTERSECT SELECT * FROM again) AS both_have;
NOTIFY news, 'hello';
SELECT inet_server_addr();
`))
	bothFamilies(t, func(t *testing.T, f family) {
		got := s.inside(t, "psql", "-X", "-q", "-A", "-t", "-h", f.far.String(), "-U", "lab", "-f", script, "postgres")
		for _, want := range []string{"100000|5000050000", `"news" with payload "hello"`, f.far.String()} {
			if !strings.Contains(got, want) {
				t.Errorf("the session says %q, and not %q", got, want)
			}
		}
	})
}
