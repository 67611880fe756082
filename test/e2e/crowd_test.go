package e2e_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/vasta-net/vasta/internal/lab"
)

// serveEach listens at an address, says at which port, and serves each connection, which is closed then. It ends with the listener.
func serveEach(address string, serve func(*net.TCPConn)) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	fmt.Println(l.Addr().(*net.TCPAddr).Port)
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			serve(c.(*net.TCPConn))
			c.Close()
		}()
	}
}

func init() {
	// hold ADDR accepts connections and keeps each until its peer has closed it.
	guestPrograms["hold"] = func(args []string) error {
		return serveEach(args[0], func(c *net.TCPConn) { _, _ = io.Copy(io.Discard, c) }) // its peer's affair
	}
	// answer ADDR answers one byte on every connection.
	guestPrograms["answer"] = func(args []string) error {
		return serveEach(args[0], func(c *net.TCPConn) { _ = echoOne(c) }) // its peer's affair
	}
	// churn N ADDR has N connections of one byte each way, a few at a time.
	guestPrograms["churn"] = func(args []string) error {
		n, err := strconv.Atoi(args[0])
		if err != nil {
			return err
		}
		const workers = 4
		errs := make(chan error, workers)
		for i := range workers {
			go func() {
				for k := i; k < n; k += workers {
					if err := exchange(func() (net.Conn, error) { return net.DialTimeout("tcp", args[1], dialLimit) }); err != nil {
						errs <- fmt.Errorf("connection %d: %w", k, err)
						return
					}
				}
				errs <- nil
			}()
		}
		for range workers {
			err = errors.Join(err, <-errs)
		}
		fmt.Println("done")
		return err
	}
	// crowd N ADDR opens N connections, says so, and closes them when it is told to by a line.
	guestPrograms["crowd"] = func(args []string) error {
		n, err := strconv.Atoi(args[0])
		if err != nil {
			return err
		}
		open := make([]net.Conn, 0, n)
		for range n {
			c, err := net.DialTimeout("tcp", args[1], dialLimit)
			if err != nil {
				return fmt.Errorf("connection %d: %w", len(open), err)
			}
			open = append(open, c)
		}
		fmt.Println("open")
		if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
			return err
		}
		for _, c := range open {
			if err := c.Close(); err != nil {
				return err
			}
		}
		return nil
	}
}

// startGuest starts one of the guest programs as root in a namespace, and returns the first line that it writes.
func startGuest(t *testing.T, ns *lab.Namespace, args ...string) (cmd *lab.Cmd, stdin io.WriteCloser, line string) {
	t.Helper()
	cmd = ns.Command(lab.Root, append([]string{guestPath}, args...)...)
	cmd.Env = append(cmd.Env, guestEnv+"=1")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	return cmd, stdin, startAndRead(t, cmd)
}

// TestCrowd has 10,000 connections at once, each side in a process of its own, and nothing left of them.
func TestCrowd(t *testing.T) {
	const n = 10_000
	r := start(t)
	before, memory := r.usage(), r.memory()
	var leave []func()
	for _, f := range families {
		server, _, line := startGuest(t, r.Inet, "hold", at(f.far, 0))
		defer func() {
			server.Kill()
			_ = server.Wait() // killed
		}()
		port, err := strconv.ParseUint(strings.TrimSpace(line), 10, 16)
		if err != nil {
			t.Fatal(err)
		}
		crowd, stdin, line := startGuest(t, r.Guest, "crowd", fmt.Sprint(n/len(families)), at(f.far, uint16(port)))
		if line != "open\n" {
			t.Fatalf("the crowd says %q", line)
		}
		leave = append(leave, func() {
			if _, err := io.WriteString(stdin, "leave\n"); err != nil {
				t.Error(err)
			}
			if err := crowd.Wait(); err != nil {
				t.Errorf("the crowd: %v", err)
			}
		})
	}
	c := r.now()
	if c.Levels.TCPFlows != n || c.Levels.Fragments != 0 || c.Levels.Pages > readPages*uint64(len(c.Workers)) {
		t.Errorf("%+v, want %d idle flows without memory", c.Levels, n)
	}
	if each := (r.memory() - memory) / n; each > connectionMemory {
		t.Errorf("%d bytes for each idle connection, want at most %d", each, connectionMemory)
	} else {
		t.Logf("%d bytes for each idle connection", each)
	}
	r.wantIdle("with 10,000 idle connections")
	for _, f := range leave {
		f()
	}
	r.wantUsage(before)
}
