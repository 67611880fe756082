package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// Client is the orchestrator's end of a session. It is for one goroutine. After
// an error of its own, in contrast to one that the agent reports, it is dead: an
// answer may still be on its way.
type Client struct {
	stdin     io.WriteCloser
	responses chan Response
	readErr   error         // valid once responses is closed
	done      chan struct{} // closed by Close: nobody receives any more
	dead      error
}

// ErrDead is wrapped by the errors of sessions that can no longer be used.
var ErrDead = errors.New("the session has ended")

// Connect takes over the standard input and output of an agent and waits, at most
// limit, for its first line. The caller closes the client.
func Connect(stdin io.WriteCloser, stdout io.Reader, limit time.Duration) (*Client, error) {
	c := &Client{stdin: stdin, responses: make(chan Response), done: make(chan struct{})}
	go func() {
		defer close(c.responses)
		dec := json.NewDecoder(stdout)
		for {
			var r Response
			if c.readErr = dec.Decode(&r); c.readErr != nil {
				return
			}
			select {
			case c.responses <- r:
			case <-c.done:
			}
		}
	}()
	if _, err := c.receive(limit); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// Call sends a request and waits, at most limit, for the answer.
func (c *Client) Call(req Request, limit time.Duration) (Response, error) {
	if c.dead != nil {
		return Response{}, c.dead
	}
	if err := json.NewEncoder(c.stdin).Encode(req); err != nil {
		c.dead = fmt.Errorf("%w: request %s: %w", ErrDead, req.Op, err)
		return Response{}, c.dead
	}
	r, err := c.receive(limit)
	if err != nil {
		return Response{}, err
	}
	if r.Error != "" {
		return Response{}, fmt.Errorf("inside: %s", r.Error)
	}
	return r, nil
}

func (c *Client) receive(limit time.Duration) (Response, error) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case r, ok := <-c.responses:
		if ok {
			return r, nil
		}
		c.dead = fmt.Errorf("%w: %w", ErrDead, c.readErr)
	case <-timer.C:
		c.dead = fmt.Errorf("%w: no answer within %v", ErrDead, limit)
	}
	return Response{}, c.dead
}

// Close ends the agent by ending its standard input. It is called once.
func (c *Client) Close() error {
	close(c.done)
	return c.stdin.Close()
}
