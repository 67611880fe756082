package netns

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// TestSockets checks that what listens inside is told, and what only the namespace itself reaches is not.
func TestSockets(t *testing.T) {
	ns := create(t, Config{Addrs: before.Addrs, Routes: before.Routes, Sockets: true})
	become := func(want string) {
		t.Helper()
		got := ""
		defer func() {
			if t.Failed() {
				t.Logf("%s listen, want %s", got, want)
			}
		}()
		eventually(t, "the ports "+want, func() bool {
			var tcp, udp PortSet
			for range 2 { // answers do not get mixed up
				if err := errors.Join(ns.Sockets().Listening(&tcp, false), ns.Sockets().Listening(&udp, true)); err != nil {
					t.Fatal(err)
				}
			}
			got = fmt.Sprint(slices.Collect(tcp.All()), slices.Collect(udp.All()))
			return got == want
		})
	}
	become("[] []")
	script := `for s in tcp4-listen:8004,bind=127.0.0.1 tcp6-listen:8005,bind=[::1] udp4-recv:9003,bind=127.0.0.1 udp4-connect:192.0.2.1:53,bind=192.0.2.2:9004 \
			tcp4-listen:8001 tcp6-listen:8002 tcp4-listen:8003,bind=192.0.2.2 udp4-recv:9001 udp6-recv:9002; do
			socat -u "$s" /dev/null &
		done; cat`
	r, w := pipe(t)
	r.Fd() // which makes it a blocking one, as cat expects
	if err := ns.Start(Command{Argv: []string{"sh", "-c", script}, Env: os.Environ(), Stdin: r}); err != nil {
		t.Fatal(err)
	}
	become("[8001 8002 8003] [9001 9002]")
	w.Close()
	if _, err := ns.Wait(); err != nil { // kills what is left inside
		t.Error(err)
	}
	become("[] []")
}

// Without being asked for there is no such socket, and none in the answers' way.
func TestNoSockets(t *testing.T) {
	if ns := create(t, Config{}); ns.Sockets() != nil {
		t.Error("a socket that was not asked for")
	}
}

// TestPortSet checks the set against a map.
func TestPortSet(t *testing.T) {
	var s PortSet
	want := []uint16{0, 1, 63, 64, 80, 1023, 65534, 65535}
	for _, port := range want {
		s.Add(port)
		s.Add(port)
	}
	for port := range 1 << 16 {
		if s.Has(uint16(port)) != slices.Contains(want, uint16(port)) {
			t.Errorf("port %d: %v", port, s.Has(uint16(port)))
		}
	}
	if got := slices.Collect(s.All()); !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// FuzzSocketsAnswer: whatever comes as an answer, nothing but an error follows.
func FuzzSocketsAnswer(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{20, 0, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Add(slices.Concat([]byte{88, 0, 0, 0, 20, 0, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 10, 0, 0, 0x1f, 0x90}, make([]byte, 66)))
	f.Add(bytes.Repeat([]byte{255}, 100))
	f.Fuzz(func(t *testing.T, answer []byte) {
		s := Sockets{seq: 1}
		var ports PortSet
		if _, err := s.take(&ports, answer); err != nil && strings.Contains(err.Error(), "\n") {
			t.Errorf("the error is not one line: %q", err)
		}
		if ports.Has(0) {
			t.Error("port 0 listens")
		}
	})
}
