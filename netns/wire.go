package netns

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// messageKind tells the messages between caller and stage apart.
type messageKind byte

const (
	kindConfig     messageKind = iota + 1 // to the stage, first: stageConfig
	kindReady                             // from the stage: stageReady, with the TAP's descriptors
	kindFailed                            // from the stage: stageFailure; it ends
	kindStart                             // to the stage: stageCommand, with descriptors 0 to 2
	kindStarted                           // from the stage
	kindNotStarted                        // from the stage: stageFailure
	kindSignal                            // to the stage: stageSignal for the command
	kindStopped                           // from the stage: stageStop, a signal has stopped the command
	kindContinue                          // to the stage: the same stageStop, end it
	kindExited                            // from the stage: ExitStatus; it ends
	kindUpdate                            // to the stage: stageUpdate
	kindUpdated                           // from the stage: stageFailure, without a message when all was done
	kindOpen                              // to the stage: stageOpen
	kindOpened                            // from the stage: stageFailure, without a message when all was done, with the sockets
)

type stageConfig struct {
	Config
	// Attached: the namespace existed before, and only the TAP is made.
	Attached bool
	// Update: the TAP exists too, and is changed.
	Update *stageUpdate
	// Open: the TAP exists too, and sockets are asked for.
	Open *stageOpen
}

type stageReady struct {
	Name     string
	MAC      MAC
	MTU      int
	Offloads uint32
	Stats    bool // the last descriptor is for Dropped
	Sockets  bool // the last of the others is for Sockets
	Warnings []string
}

type stageFailure struct {
	Message      string
	Code         int    // as StartError.Code; kindNotStarted only
	Reason, Cure string // of a blockedError, without them in Message; kindFailed only
}

// failureOf packs a stage's error.
func failureOf(err error) stageFailure {
	var blocked *blockedError
	if errors.As(err, &blocked) {
		return stageFailure{Message: blocked.err.Error(), Reason: blocked.reason, Cure: blocked.cure}
	}
	return stageFailure{Message: err.Error()}
}

// unpack makes an error of it again.
func (f *stageFailure) unpack() error {
	if f.Reason != "" {
		return &blockedError{errors.New(f.Message), blocker{f.Reason, f.Cure}}
	}
	return errors.New(f.Message)
}

type stageCommand struct {
	Argv, Env []string
}

type stageSignal struct {
	Signal int
}

// stageStop names one stop of the command: the number of times it had been stopped and continued by then.
type stageStop struct {
	Changes int64
}

// message is one message of the socketpair. Its descriptors belong to the receiver.
type message struct {
	kind messageKind
	body []byte
	fds  []int
}

// decode unmarshals the body into v.
func (m *message) decode(v any) error {
	if err := json.Unmarshal(m.body, v); err != nil {
		return fmt.Errorf("message %d of the stage: %w", m.kind, err)
	}
	return nil
}

// A conn is one end of the socketpair: a stream of messages, each a header of one byte for the kind and four for the body's
// length, then the body in JSON. Descriptors go with the header. One goroutine may send while another receives.
type conn struct {
	fd int
}

const (
	headerLen = 5
	// maxBody bounds what a peer can make us allocate; a command's arguments and environment are below 6 MiB
	// (execve(2)), a configuration of 10,000 routes is about 1 MiB.
	maxBody = 32 << 20
	// maxFDs is SCM_MAX_FD (include/net/scm.h), the most that one message can carry.
	maxFDs = 253
)

// connPair makes the socketpair; both ends are close-on-exec.
func connPair() (a, b conn, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return conn{-1}, conn{-1}, os.NewSyscallError("socketpair", err)
	}
	return conn{fds[0]}, conn{fds[1]}, nil
}

func (c conn) close() { unix.Close(c.fd) }

// send writes one message; v nil means an empty body. The descriptors remain the caller's.
func (c conn) send(kind messageKind, v any, fds ...int) error {
	var body []byte
	if v != nil {
		var err error
		if body, err = json.Marshal(v); err != nil {
			return err
		}
	}
	packet := make([]byte, headerLen, headerLen+len(body))
	packet[0] = byte(kind)
	binary.LittleEndian.PutUint32(packet[1:], uint32(len(body)))
	packet = append(packet, body...)

	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	for len(packet) > 0 {
		n, err := unix.SendmsgN(c.fd, packet, rights, nil, unix.MSG_NOSIGNAL)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return os.NewSyscallError("sendmsg", err)
		}
		packet, rights = packet[n:], nil
	}
	return nil
}

// receive reads one message; io.EOF means that the peer is gone.
func (c conn) receive() (message, error) {
	var header [headerLen]byte
	var m message
	oob := make([]byte, unix.CmsgSpace(4*maxFDs))
	for read := 0; read < headerLen; {
		n, oobn, flags, _, err := unix.Recvmsg(c.fd, header[read:], oob, unix.MSG_CMSG_CLOEXEC)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err == nil && n == 0 || errors.Is(err, unix.ECONNRESET) {
			err = io.EOF
		}
		if err == nil && oobn > 0 {
			m.fds, err = parseRights(oob[:oobn], m.fds)
		}
		if err == nil && flags&unix.MSG_CTRUNC != 0 {
			err = errors.New("descriptors were lost: RLIMIT_NOFILE is too low")
		}
		if err != nil {
			closeAll(m.fds)
			return message{}, err
		}
		read += n
	}
	m.kind = messageKind(header[0])
	size := binary.LittleEndian.Uint32(header[1:])
	if size > maxBody {
		closeAll(m.fds)
		return message{}, fmt.Errorf("a message of %d bytes is too long", size)
	}
	m.body = make([]byte, size)
	for rest := m.body; len(rest) > 0; {
		n, err := unix.Read(c.fd, rest)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err == nil && n == 0 {
			err = io.EOF
		}
		if err != nil {
			closeAll(m.fds)
			return message{}, err
		}
		rest = rest[n:]
	}
	return m, nil
}

// parseRights appends the descriptors of the control messages to fds.
func parseRights(oob []byte, fds []int) ([]int, error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return fds, fmt.Errorf("control message: %w", err)
	}
	for i := range messages {
		got, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			return fds, fmt.Errorf("control message: %w", err)
		}
		fds = append(fds, got...)
	}
	return fds, nil
}
