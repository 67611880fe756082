package load

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// exchangeSize is the size of a request and of its response in a short connection, in bytes.
const exchangeSize = 256

// Churned is what became of a number of short connections.
type Churned struct {
	Done      int // opened, answered rightly and closed
	Failed    int
	Wrong     int     // of the failed ones, those with wrong bytes in the answer
	Reasons   Reasons // why the others failed
	Example   string  // says of one of the failed ones why
	PerSecond float64
}

// Churn has total connections from clients at a time: each is opened, carries a request and its response, and is closed.
// What fails is counted. stop, when not nil, ends it early.
func Churn(server netip.Addr, total, clients int, stop <-chan struct{}) Churned {
	var (
		next, failed, wrong atomic.Int64
		example             atomic.Pointer[string]
		reasons             Reasons
		mu                  sync.Mutex // of reasons
		wg                  sync.WaitGroup
	)
	start := time.Now()
	for range clients {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				i := next.Add(1) - 1
				if i >= int64(total) {
					return
				}
				right, err := shortConnection(server, i)
				if err == nil {
					continue
				}
				failed.Add(1)
				if right {
					mu.Lock()
					reasons.add(because("connection", err))
					mu.Unlock()
				} else {
					wrong.Add(1)
				}
				text := fmt.Sprintf("connection %d: %v", i+1, err)
				example.CompareAndSwap(nil, &text)
				time.Sleep(pollInterval) // what refuses one refuses the next, at once
			}
		})
	}
	wg.Wait()
	tried := min(next.Load(), int64(total))
	c := Churned{Done: int(tried - failed.Load()), Failed: int(failed.Load()), Wrong: int(wrong.Load()), Reasons: reasons}
	c.PerSecond = float64(c.Done) / time.Since(start).Seconds()
	if text := example.Load(); text != nil {
		c.Example = *text
	}
	return c
}

// shortConnection has one connection. right is false when bytes of the answer were wrong.
func shortConnection(server netip.Addr, i int64) (right bool, err error) {
	addr := netip.AddrPortFrom(server, PortsHold[i%int64(len(PortsHold))]).String()
	conn, err := net.DialTimeout("tcp", addr, replyTimeout)
	if err != nil {
		return true, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(replyTimeout)); err != nil {
		return true, err
	}
	request, response := message(uint64(i), 0), make([]byte, exchangeSize)
	if _, err := conn.Write(request); err != nil {
		return true, fmt.Errorf("request: %w", err)
	}
	if n, err := io.ReadFull(conn, response); err != nil {
		return true, fmt.Errorf("response, after %d bytes: %w", n, err)
	}
	if !bytes.Equal(request, response) {
		return false, fmt.Errorf("response: wrong bytes")
	}
	return true, nil
}

// message makes the exchangeSize bytes that connection who sends as its n-th message: no two are alike.
func message(who, n uint64) []byte {
	b := make([]byte, exchangeSize)
	copy(b, pattern()[(who*7919+n*104729)%period:])
	binary.BigEndian.PutUint64(b, who)
	binary.BigEndian.PutUint64(b[8:], n)
	return b
}
