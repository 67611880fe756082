package queue_test

import (
	"errors"
	"io"
	"testing"

	"github.com/vasta-net/vasta/virtio/queue"
)

// TestGuardLetsPanicsThrough: what is no fault of a peer's memory is nobody's to catch.
func TestGuardLetsPanicsThrough(t *testing.T) {
	m, err := queue.NewMemory(queue.Region{Addr: 1 << 40, Mem: make([]byte, 4096)})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Guard(func() error { return io.ErrShortWrite }); !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("the answer of f became %v", err)
	}
	at := func(p *int) int { return *p }
	for name, f := range map[string]func(){
		"a panic":       func() { panic("mine") },
		"a nil pointer": func() { at(nil) },
		"an index":      func() { _ = make([]int, 1)[len(t.Name())] },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s was caught", name)
				}
			}()
			err := m.Guard(func() error { f(); return nil })
			t.Errorf("%s became the error %v", name, err)
		}()
	}
}
