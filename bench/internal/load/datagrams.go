package load

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/vasta-net/vasta/bench/internal/procfs"
	"golang.org/x/sys/unix"
)

// PortDatagrams is where a [Server] is asked, over TCP, to receive or send a stream of datagrams: one JSON line each way for each step.
const PortDatagrams = 7400

const (
	// askLimit is how long a step of a stream may take beyond the stream itself.
	askLimit = 5 * time.Second
	// knockEvery is the time between two datagrams of a client that wants to be sent some: the first tells the server where to.
	knockEvery = 20 * time.Millisecond
)

// datagramRequest begins a stream.
type datagramRequest struct {
	Stream
	Download bool // the server sends
}

// datagramReply is any answer of the server's.
type datagramReply struct {
	Error    string
	Port     uint16          // where datagrams are to be sent
	Sent     Sent            // of a download
	Arrivals Arrivals        // of an upload
	Lost     procfs.UDPDrops // by the server's kernel meanwhile
}

// Probe is what became of one stream of datagrams.
type Probe struct {
	Sent     Sent
	Arrivals Arrivals
	// Near and Far are what the kernels of the client's and of the server's network namespace dropped meanwhile.
	Near, Far procfs.UDPDrops
}

// Offered is how many datagrams a second were sent.
func (p Probe) Offered() float64 { return perSecond(p.Sent.Datagrams, p.Sent.Took) }

// Received is how many datagrams a second came, while some did.
func (p Probe) Received() float64 { return perSecond(p.Arrivals.Received, p.Arrivals.Span) }

// Lost is how many datagrams did not come.
func (p Probe) Lost() int { return max(p.Sent.Datagrams-p.Arrivals.Received, 0) }

// Late is how long after the last was sent the last came.
func (p Probe) Late() time.Duration { return p.Arrivals.Last - p.Sent.End }

func perSecond(n int, d time.Duration) float64 {
	if d <= 0 {
		return 0
	}
	return float64(n) / d.Seconds()
}

// Datagrams has one stream of datagrams to, or from, a Server.
func Datagrams(server netip.Addr, s Stream, download bool) (p Probe, err error) {
	if s.Size < seqLen {
		return Probe{}, fmt.Errorf("datagrams of %d bytes have no room for their number", s.Size)
	}
	control, err := net.DialTimeout("tcp4", netip.AddrPortFrom(server, PortDatagrams).String(), askLimit)
	if err != nil {
		return Probe{}, err
	}
	defer control.Close()
	if err := control.SetDeadline(time.Now().Add(s.Duration + sinkLimit + askLimit)); err != nil {
		return Probe{}, err
	}
	before, err := procfs.ReadUDPDrops()
	if err != nil {
		return Probe{}, err
	}
	ask, answers := json.NewEncoder(control), json.NewDecoder(control)
	var reply datagramReply
	if err := exchangeLine(ask, answers, datagramRequest{s, download}, &reply); err != nil {
		return Probe{}, err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return Probe{}, err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, sockaddr(server, reply.Port)); err != nil {
		return Probe{}, err
	}
	if download {
		p, err = receiveStream(fd, s, answers)
	} else {
		p, err = sendStream(fd, s, ask, answers)
	}
	if err != nil {
		return Probe{}, err
	}
	after, err := procfs.ReadUDPDrops()
	p.Near = after.Sub(before)
	return p, err
}

func exchangeLine(ask *json.Encoder, answers *json.Decoder, request any, reply *datagramReply) error {
	if err := ask.Encode(request); err != nil {
		return err
	}
	return readReply(answers, reply)
}

func readReply(answers *json.Decoder, reply *datagramReply) error {
	*reply = datagramReply{}
	if err := answers.Decode(reply); err != nil {
		return err
	}
	if reply.Error != "" {
		return fmt.Errorf("server: %s", reply.Error)
	}
	return nil
}

func sendStream(fd int, s Stream, ask *json.Encoder, answers *json.Decoder) (Probe, error) {
	sent, err := s.send(fd)
	if err != nil {
		return Probe{}, err
	}
	var reply datagramReply
	err = exchangeLine(ask, answers, sent, &reply)
	return Probe{Sent: sent, Arrivals: reply.Arrivals, Far: reply.Lost}, err
}

func receiveStream(fd int, s Stream, answers *json.Decoder) (Probe, error) {
	k, err := newSink(fd, s.Size, s.Segments)
	if err != nil {
		return Probe{}, err
	}
	ended := make(chan struct{})
	knocked := make(chan error, 1)
	go func() { knocked <- knock(fd, ended) }()
	var reply datagramReply
	replyErr := readReply(answers, &reply)
	close(ended)
	arrivals, err := k.wait(reply.Sent.Datagrams)
	return Probe{Sent: reply.Sent, Arrivals: arrivals, Far: reply.Lost}, errors.Join(replyErr, err, <-knocked)
}

// knock sends an empty datagram now and then, until ended is closed: any may be lost.
func knock(fd int, ended <-chan struct{}) error {
	for {
		if _, err := unix.Write(fd, nil); err != nil {
			return fmt.Errorf("datagram to the server: %w", err)
		}
		select {
		case <-ended:
			return nil
		case <-time.After(knockEvery):
		}
	}
}

// serveDatagrams serves one client after the other until ln is closed.
func serveDatagrams(ln net.Listener, addr netip.Addr) {
	for {
		conn := accept(ln)
		if conn == nil {
			return
		}
		reply := json.NewEncoder(conn)
		if err := serveStream(conn, reply, addr); err != nil {
			_ = reply.Encode(datagramReply{Error: err.Error()}) // a client that has gone needs none
		}
		conn.Close()
	}
}

func serveStream(conn net.Conn, reply *json.Encoder, addr netip.Addr) error {
	if err := conn.SetDeadline(time.Now().Add(askLimit)); err != nil {
		return err
	}
	requests := json.NewDecoder(conn)
	var req datagramRequest
	if err := requests.Decode(&req); err != nil {
		return err
	}
	if err := conn.SetDeadline(time.Now().Add(req.Duration + sinkLimit + askLimit)); err != nil {
		return err
	}
	before, err := procfs.ReadUDPDrops()
	if err != nil {
		return err
	}
	fd, err := socket(unix.SOCK_DGRAM, askLimit)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, sockaddr(addr, 0)); err != nil {
		return err
	}
	bound, err := unix.Getsockname(fd)
	if err != nil {
		return err
	}
	answer := datagramReply{Port: uint16(bound.(*unix.SockaddrInet4).Port)}
	if req.Download {
		err = answer.send(fd, req.Stream, reply)
	} else {
		err = answer.receive(fd, req.Stream, reply, requests)
	}
	if err != nil {
		return err
	}
	after, err := procfs.ReadUDPDrops()
	if err != nil {
		return err
	}
	answer.Lost = after.Sub(before)
	if err := reply.Encode(answer); err != nil {
		return err
	}
	// The socket stays until the client has gone: what it may still send would be refused.
	_, err = io.Copy(io.Discard, conn)
	return err
}

func (a *datagramReply) send(fd int, s Stream, reply *json.Encoder) error {
	if err := reply.Encode(a); err != nil {
		return err
	}
	var client unix.Sockaddr
	_, err := retry(func() (n int, err error) {
		n, client, err = unix.Recvfrom(fd, make([]byte, 1), 0)
		return n, err
	})
	if err != nil {
		return fmt.Errorf("no datagram of the client came: %w", err)
	}
	if err := unix.Connect(fd, client); err != nil {
		return err
	}
	a.Sent, err = s.send(fd)
	return err
}

func (a *datagramReply) receive(fd int, s Stream, reply *json.Encoder, requests *json.Decoder) error {
	k, err := newSink(fd, s.Size, s.Segments)
	if err != nil {
		return err
	}
	err = reply.Encode(a)
	var sent Sent
	if err == nil {
		err = requests.Decode(&sent)
	}
	var sinkErr error
	a.Arrivals, sinkErr = k.wait(sent.Datagrams)
	return errors.Join(err, sinkErr)
}
