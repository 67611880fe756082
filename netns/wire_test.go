package netns

import (
	"bytes"
	"errors"
	"io"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func testPair(t *testing.T) (a, b conn) {
	t.Helper()
	a, b, err := connPair()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.close(); b.close() })
	return a, b
}

func TestWire(t *testing.T) {
	a, b := testPair(t)
	r, w := pipe(t)
	argv := []string{"x", string(bytes.Repeat([]byte("y"), 1<<20))}
	sent := make(chan error, 1)
	go func() {
		err := a.send(kindStart, stageCommand{Argv: argv}, int(w.Fd()))
		if err == nil {
			err = a.send(kindStarted, nil)
		}
		sent <- err
	}()
	m, err := b.receive()
	if err != nil {
		t.Fatal(err)
	}
	var cmd stageCommand
	if err := m.decode(&cmd); err != nil {
		t.Fatal(err)
	}
	if m.kind != kindStart || len(m.fds) != 1 || cmp.Diff(argv, cmd.Argv) != "" {
		t.Errorf("kind %d, descriptors %v, %d arguments", m.kind, m.fds, len(cmd.Argv))
	}
	flags, err := unix.FcntlInt(uintptr(m.fds[0]), unix.F_GETFD, 0)
	if err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("the descriptor has flags %#x, %v: it is inherited", flags, err)
	}
	passed := os.NewFile(uintptr(m.fds[0]), "passed")
	passed.WriteString("hello\n")
	passed.Close()
	if line := readLine(t, r); line != "hello\n" {
		t.Errorf("through the descriptor: %q", line)
	}
	if m, err := b.receive(); err != nil || m.kind != kindStarted || len(m.body) != 0 {
		t.Errorf("second message: %+v, %v", m, err)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

func TestWireBadMessages(t *testing.T) {
	for name, test := range map[string]struct {
		bytes []byte
		want  error // nil: any
	}{
		"nothing":          {nil, io.EOF},
		"half a header":    {[]byte{1, 2}, io.EOF},
		"half a body":      {[]byte{1, 10, 0, 0, 0, 'x'}, io.EOF},
		"a giant's length": {[]byte{1, 0xff, 0xff, 0xff, 0xff}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := testPair(t)
			fds := openFDs(t)
			null, err := os.Open(os.DevNull)
			if err != nil {
				t.Fatal(err)
			}
			// With a descriptor, which must not be left open.
			if len(test.bytes) > 0 {
				if err := unix.Sendmsg(a.fd, test.bytes, unix.UnixRights(int(null.Fd())), nil, 0); err != nil {
					t.Fatal(err)
				}
			}
			null.Close()
			if err := unix.Shutdown(a.fd, unix.SHUT_WR); err != nil {
				t.Fatal(err)
			}
			if _, err := b.receive(); err == nil || test.want != nil && !errors.Is(err, test.want) {
				t.Errorf("error %v, want %v", err, test.want)
			}
			if diff := cmp.Diff(fds, openFDs(t)); diff != "" {
				t.Errorf("descriptors are left (-before +after):\n%s", diff)
			}
		})
	}
}

func TestWireBadBody(t *testing.T) {
	m := message{kind: kindReady, body: []byte("{")}
	if err := m.decode(&stageReady{}); err == nil {
		t.Error("no error")
	}
}
