package programs_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vasta-net/vasta/internal/lab"
)

// nginx writes the configuration of a server of files below root, at ports 8080 and, with TLS and HTTP/2, 8443 of all addresses, and returns how to start it.
func (s *stage) nginx(root string) (argv []string) {
	s.t.Helper()
	dir := s.folder("nginx")
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	template := x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "lab"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{lab.FarAddr4.Addr().AsSlice(), lab.FarAddr6.Addr().AsSlice()},
		IsCA:        true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	cert, err := x509.CreateCertificate(rand.Reader, &template, &template, &key.PublicKey, key)
	if err != nil {
		s.t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		s.t.Fatal(err)
	}
	s.write(filepath.Join(dir, "cert.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}))
	s.write(filepath.Join(dir, "key.pem"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	config := s.write(filepath.Join(dir, "nginx.conf"), fmt.Appendf(nil, `
daemon off;
pid %[1]s/nginx.pid;
error_log stderr;
worker_processes 1;
events {}
http {
	access_log off;
	client_max_body_size 64m;
	client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/fastcgi; uwsgi_temp_path %[1]s/uwsgi; scgi_temp_path %[1]s/scgi;
	server {
		listen 8080; listen [::]:8080;
		listen 8443 ssl http2; listen [::]:8443 ssl http2;
		ssl_certificate %[1]s/cert.pem; ssl_certificate_key %[1]s/key.pem;
		root %[2]s;
		location /echo { return 200 "$request_method $remote_addr\n"; }
	}
}
`, dir, root))
	return []string{"nginx", "-p", dir, "-c", config, "-e", "stderr"}
}

// web is an nginx beyond the host, with a payload.
func (s *stage) web() (root string, content []byte) {
	s.t.Helper()
	root, content = s.folder("www"), payload()
	s.write(filepath.Join(root, "payload"), content)
	s.serve(s.Inet, server, s.nginx(root), at(lab.FarAddr4.Addr(), 8080), at(lab.FarAddr6.Addr(), 8443))
	return root, content
}

func TestCurl(t *testing.T) {
	s := newStage(t)
	_, content := s.web()
	cert := filepath.Join(s.Dir(), "nginx", "cert.pem")
	protocols := []struct{ name, option, scheme, version string }{
		{"h1", "--http1.1", "http", "1.1"}, {"h1 over TLS", "--http1.1", "https", "1.1"}, {"h2", "--http2", "https", "2"},
	}
	// HTTP/3 cannot be tried: neither curl nor nginx of Debian 12 has it. When they do, this says so.
	if out := s.run(t, s.Host, "curl", "--version"); strings.Contains(out, "HTTP3") {
		t.Error("this curl has HTTP/3: add it to the protocols of this test")
	}
	bothFamilies(t, func(t *testing.T, f family) {
		for _, p := range protocols {
			t.Run(p.name, func(t *testing.T) {
				to := filepath.Join(s.folder(strings.ReplaceAll("curl "+f.name+p.name, " ", "-")), "payload")
				port := map[string]int{"http": 8080, "https": 8443}[p.scheme]
				version := s.inside(t, "curl", "-sS", "--fail", f.option, p.option, "--cacert", cert, "-o", to, "-w", "%{http_version}",
					fmt.Sprintf("%s://%s:%d/payload", p.scheme, f.url(), port))
				if version != p.version {
					t.Errorf("HTTP version %s, want %s", version, p.version)
				}
				same(t, to, content)
			})
		}
	})
}

func TestWget(t *testing.T) {
	s := newStage(t)
	_, content := s.web()
	bothFamilies(t, func(t *testing.T, f family) {
		to := filepath.Join(s.folder("wget"+f.name), "payload")
		s.inside(t, "wget", f.option, "-q", "--tries=1", "-O", to, fmt.Sprintf("http://%s:8080/payload", f.url()))
		same(t, to, content)
	})
}

// TestNginx: the server is inside, behind a forwarded port, and sees its clients' own addresses.
func TestNginx(t *testing.T) {
	s := newStage(t)
	root, content := s.folder("www"), payload()
	s.write(filepath.Join(root, "payload"), content)
	argv := append([]string{vastaPath, "-q", "--keep-id", "--listen-when-ready", "-t", "8080,8443", "--"}, s.nginx(root)...)
	s.serve(s.Host, lab.Ordinary, argv, at(lab.HostAddr4.Addr(), 8080), at(lab.HostAddr6.Addr(), 8080), at(lab.HostAddr6.Addr(), 8443))
	bothFamilies(t, func(t *testing.T, f family) {
		host := f.host.String()
		if f.host.Is6() {
			host = "[" + host + "]"
		}
		seen := strings.Fields(s.run(t, s.Inet, "curl", "-sS", "--fail", "--interface", f.far.String(), "http://"+host+":8080/echo"))
		if len(seen) != 2 || seen[0] != "GET" || seen[1] != f.far.String() {
			t.Errorf("nginx has seen %q, want a GET from %s", seen, f.far)
		}
		to := filepath.Join(s.folder("nginx"+f.name), "payload")
		version := s.run(t, s.Inet, "curl", "-sS", "--fail", "--http2", "-k", "-o", to, "-w", "%{http_version}", "https://"+host+":8443/payload")
		if version != "2" {
			t.Errorf("HTTP version %s, want 2", version)
		}
		same(t, to, content)
	})
}

func TestGitClone(t *testing.T) {
	s := newStage(t)
	root := s.folder("www")
	work, bare := filepath.Join(root, "work"), filepath.Join(root, "project.git")
	s.run(t, s.Host, "git", "init", "-q", "-b", "main", work)
	content := payload()
	s.run(t, s.Host, "sh", "-c", fmt.Sprintf("head -c %d /dev/urandom >%s/random", len(content), work))
	content, err := os.ReadFile(filepath.Join(work, "random"))
	if err != nil {
		t.Fatal(err)
	}
	s.run(t, s.Host, "git", "-C", work, "add", ".")
	s.run(t, s.Host, "git", "-C", work, "-c", "user.name=lab", "-c", "user.email=lab@example.org", "commit", "-q", "-m", "random")
	s.run(t, s.Host, "git", "clone", "-q", "--bare", work, bare)
	s.run(t, s.Host, "git", "-C", bare, "update-server-info")
	s.serve(s.Inet, lab.Ordinary, []string{"git", "daemon", "--base-path=" + root, "--export-all", "--reuseaddr", "--listen=" + lab.FarAddr4.Addr().String(),
		"--listen=" + lab.FarAddr6.Addr().String()}, at(lab.FarAddr4.Addr(), 9418), at(lab.FarAddr6.Addr(), 9418))
	s.serve(s.Inet, server, s.nginx(root), at(lab.FarAddr4.Addr(), 8080))
	bothFamilies(t, func(t *testing.T, f family) {
		for scheme, url := range map[string]string{"git": "git://" + f.url() + "/project.git", "http": "http://" + f.url() + ":8080/project.git"} {
			to := filepath.Join(s.folder("git"+f.name+scheme), "project")
			s.inside(t, "git", "clone", "-q", url, to)
			same(t, filepath.Join(to, "random"), content)
		}
	})
}
