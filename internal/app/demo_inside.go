package app

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// demoEnv tells this program that it runs in the namespace of a demonstration, and where the server is.
const demoEnv = "VASTA_DEMO_SERVER"

// demoPatience bounds the whole exchange of one file.
const demoPatience = 5 * time.Minute

// DemoInside is the part of the demonstration in the namespace. When this process is it, ok is true, and status is the
// exit status; on a terminal it becomes a shell instead of returning.
func DemoInside(stdout, stderr io.Writer) (status int, ok bool) {
	server := os.Getenv(demoEnv)
	if server == "" {
		return 0, false
	}
	if err := demonstrate(stdout, server); err != nil {
		fmt.Fprintf(stderr, "vasta: demo: %v\n", err)
		return exitFailure, true
	}
	if !isTerminal(os.Stdin) || !isTerminal(os.Stdout) {
		return 0, true
	}
	fmt.Fprintf(stdout, `
Now a shell in the namespace; "exit" leaves it. Some things to try:
  ip address; ip route
  curl http://%[1]s/
  curl -o /dev/null http://%[1]s/file
  curl -T FILE http://%[1]s/
`, server)
	if err := becomeShell(); err != nil {
		fmt.Fprintf(stderr, "vasta: demo: %v\n", err)
		return exitFailure, true
	}
	return 0, true
}

// demonstrate fetches the file and sends it back.
func demonstrate(stdout io.Writer, server string) error {
	host, _, err := net.SplitHostPort(server)
	if err != nil {
		return fmt.Errorf("%s=%s: %w", demoEnv, server, err)
	}
	fmt.Fprintf(stdout, "A namespace with a network of its own. Its gateway, %s, leads to this machine's loopback.\n", host)
	file := newDemoFile()
	want := file.checksum()
	took, err := fetchFile(server, want)
	if err != nil {
		return fmt.Errorf("fetching a file from %s: %w", server, err)
	}
	fmt.Fprintf(stdout, "  fetched a file from the host  %s\n", describeSpeed(took))
	if took, err = sendFile(server, file, want); err != nil {
		return fmt.Errorf("sending a file to %s: %w", server, err)
	}
	fmt.Fprintf(stdout, "  sent a file to the host       %s\n", describeSpeed(took))
	return nil
}

// describeSpeed says in words how fast the file was moved.
func describeSpeed(took time.Duration) string {
	return fmt.Sprintf("%d MiB in %.2f s, %.1f Gbit/s, every byte right", demoFileSize>>20, took.Seconds(), demoFileSize*8/took.Seconds()/1e9)
}

func fetchFile(server string, want uint32) (time.Duration, error) {
	began := time.Now()
	c, r, length, err := request(server, "GET /file HTTP/1.0\r\n\r\n", nil)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	sum, n, err := checksumOf(r)
	took := time.Since(began)
	if err != nil {
		return 0, err
	}
	if n != length || sum != want {
		return 0, fmt.Errorf("got %s, want %s", describeFile(n, sum), describeFile(demoFileSize, want))
	}
	return took, nil
}

func sendFile(server string, file *demoFile, want uint32) (time.Duration, error) {
	began := time.Now()
	c, r, _, err := request(server, fmt.Sprintf("PUT /file HTTP/1.0\r\nContent-Length: %d\r\n\r\n", demoFileSize), file)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	took := time.Since(began)
	answer, err := io.ReadAll(io.LimitReader(r, 4096))
	if err != nil {
		return 0, err
	}
	if got := strings.TrimSpace(string(answer)); got != "received "+describeFile(demoFileSize, want) {
		return 0, fmt.Errorf("the server %s, want %s", got, describeFile(demoFileSize, want))
	}
	return took, nil
}

// request sends a request and reads the answer's header. The caller closes c.
func request(server, head string, body io.WriterTo) (c net.Conn, r *bufio.Reader, length int64, err error) {
	c, err = net.DialTimeout("tcp", server, demoPatience)
	if err != nil {
		return nil, nil, 0, err
	}
	defer func() {
		if err != nil {
			c.Close()
		}
	}()
	if err = c.SetDeadline(time.Now().Add(demoPatience)); err != nil {
		return nil, nil, 0, err
	}
	if _, err = io.WriteString(c, head); err != nil {
		return nil, nil, 0, err
	}
	if body != nil {
		if _, err = body.WriteTo(c); err != nil {
			return nil, nil, 0, err
		}
	}
	r = bufio.NewReader(c)
	status, err := readLine(r)
	if err == nil && !strings.HasPrefix(status, "HTTP/1.0 200 ") {
		err = fmt.Errorf("the server says %q", status)
	}
	if err == nil {
		length, _, err = readHeader(r)
	}
	return c, r, length, err
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// becomeShell replaces this process by the user's shell. It returns only when that fails.
func becomeShell() error {
	if err := os.Unsetenv(demoEnv); err != nil {
		return err
	}
	path := shell()
	if err := syscall.Exec(path, []string{path}, os.Environ()); err != nil {
		return fmt.Errorf("cannot start the shell %s: %w (set SHELL to one)", path, err)
	}
	return nil
}
