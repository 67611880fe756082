package load

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// trickleSize is how much each connection of a crowd sends each second: 1 kbit.
	trickleSize = 125
	// trickleGrace is how long the last answers may take.
	trickleGrace = 5 * time.Second
)

// Trickled is what became of the messages of a crowd.
type Trickled struct {
	Messages int           // sent
	Lost     int           // not answered, or not wholly
	Wrong    int           // connections that got wrong bytes
	Late     time.Duration // how far the sender fell behind its plan: it should not
	Example  string        // says of one of the connections that failed why
}

// Trickle lets every connection of the crowd send 1 kbit a second for d, evenly spread over the second, and checks that
// every byte comes back.
func (c *Crowd) Trickle(d time.Duration) Trickled {
	var (
		t        Trickled
		wg       sync.WaitGroup
		answered atomic.Int64
		wrong    atomic.Int64
		example  atomic.Pointer[string]
		rounds   = int(d / time.Second)
		start    = time.Now()
		note     = func(i int, err error) {
			text := fmt.Sprintf("connection %d: %v", i+1, err)
			example.CompareAndSwap(nil, &text)
		}
	)
	for i, conn := range c.conns {
		if err := conn.SetDeadline(start.Add(d + trickleGrace)); err != nil {
			note(i, err) // it has ended: no message will be answered
		}
		wg.Go(func() {
			n, err := expect(conn, i, rounds)
			answered.Add(int64(n))
			if errors.Is(err, errWrongBytes) {
				wrong.Add(1)
			}
			if err != nil {
				note(i, err)
			}
		})
	}
	for n := range rounds {
		for i, conn := range c.conns {
			due := start.Add(time.Duration(n)*time.Second + time.Second*time.Duration(i)/time.Duration(len(c.conns)))
			if wait := time.Until(due); wait > time.Millisecond {
				time.Sleep(wait)
			} else {
				t.Late = max(t.Late, -wait)
			}
			if _, err := conn.Write(message(uint64(i), uint64(n))[:trickleSize]); err != nil {
				note(i, err)
			}
			t.Messages++
		}
	}
	wg.Wait()
	t.Lost, t.Wrong = t.Messages-int(answered.Load()), int(wrong.Load())
	if text := example.Load(); text != nil {
		t.Example = *text
	}
	return t
}

var errWrongBytes = errors.New("wrong bytes")

// expect reads what connection i gets back and returns how many messages were right.
func expect(conn net.Conn, i, messages int) (int, error) {
	got := make([]byte, trickleSize)
	for n := range messages {
		if _, err := io.ReadFull(conn, got); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				err = errors.New("no answer")
			}
			return n, fmt.Errorf("message %d of %d: %w", n+1, messages, err)
		}
		if !bytes.Equal(got, message(uint64(i), uint64(n))[:trickleSize]) {
			return n, fmt.Errorf("message %d of %d: %w", n+1, messages, errWrongBytes)
		}
	}
	return messages, nil
}
