package pktgen

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vasta-net/vasta/bench/internal/command"
)

const usageText = `Usage: vasta pktgen {-i IFACE | --tap NAME} [--sink IFACE | --sink-tap NAME] [options]
       vasta pktgen {--sink IFACE | --sink-tap NAME} [options]

Sends numbered, hashed UDP frames out of an interface, or receives them and says
what was lost, reordered, duplicated and damaged, and how long they were on
their way; or both at once. Generator and sink may be two processes on one
machine, in different network namespaces. Interrupt ends a run, with its report.

  -i IFACE             send out of this interface (packet socket; CAP_NET_RAW)
  --tap NAME           send from behind this TAP device: the frames come in by it
  --sink IFACE         receive what comes in by this interface
  --sink-tap NAME      receive from behind this TAP device: what leaves by it

  -s BYTES             length of a frame without its check sequence (default 60)
  -n COUNT             frames in all; 0 for no end (default 0)
  -b COUNT             frames in a burst (default 32)
  -t COUNT             threads that send (default 1)
  -m MAC               destination MAC (default ff:ff:ff:ff:ff:ff)
  -d ADDRESS           destination address, IPv4 (default 198.18.0.42)
  -p PORT              destination port (default 9)
  --src ADDRESS        source address, IPv4 (default 198.18.0.1)
  --flows COUNT        flows, told apart by their source port (default: threads)
  --rate PPS           frames a second, all threads together; k, M allowed
                       (default: as many as go)
  --overload WHAT      what a full interface does: drop (the frame is lost, and
                       counted) or backpressure (it waits; the default)
  --bypass             go around the interface's queueing discipline
  --seconds S          end after so long
  --quiet-end S        the sink ends when nothing has come for so long after the
                       generator's end (default 0.2)

  --json FILE          write the result to FILE as JSON; - for standard output
  -q                   no live line on standard error
  --help               show this text

Exit status: 0 when the run came to its end, 2 when it could not.
`

// settings are the choices of one run.
type settings struct {
	Traffic

	iface, tap, sink, sinkTap string
	threads                   int
	bypass                    bool
	limit                     time.Duration
	quietEnd                  time.Duration
	json                      string
	quiet                     bool
}

// Main is the command "vasta pktgen"; args is what follows that word. It returns the exit status, which no bar decides.
func Main(args []string, stdout, stderr io.Writer) int {
	return command.Command[settings]{
		Name: commandName, Usage: func() string { return usageText }, Parse: parse,
		Run: func(ctx context.Context, s settings, stdout, stderr io.Writer) (int, error) {
			r, err := run(ctx, s, stderr)
			if err != nil {
				return 0, err
			}
			return 0, write(r, s, stdout)
		},
	}.Main(args, stdout, stderr)
}

const commandName = "vasta pktgen"

// parse reads a command line; flag.ErrHelp asks for the usage text.
func parse(args []string) (s settings, err error) {
	var seconds, quietEnd float64
	overload, mac, src, dst, rate := "", "", "", "", ""
	port := 0
	fs := command.NewFlags(commandName)
	fs.StringVar(&s.iface, "i", "", "")
	fs.StringVar(&s.tap, "tap", "", "")
	fs.StringVar(&s.sink, "sink", "", "")
	fs.StringVar(&s.sinkTap, "sink-tap", "", "")
	fs.IntVar(&s.Size, "s", MinSize, "")
	fs.Uint64Var(&s.Count, "n", 0, "")
	fs.IntVar(&s.Burst, "b", 32, "")
	fs.IntVar(&s.threads, "t", 1, "")
	fs.StringVar(&mac, "m", "ff:ff:ff:ff:ff:ff", "")
	fs.StringVar(&dst, "d", "198.18.0.42", "")
	fs.StringVar(&src, "src", "198.18.0.1", "")
	fs.IntVar(&port, "p", 9, "")
	fs.IntVar(&s.Flows, "flows", 0, "")
	fs.StringVar(&rate, "rate", "0", "")
	fs.StringVar(&overload, "overload", "backpressure", "")
	fs.BoolVar(&s.bypass, "bypass", false, "")
	fs.Float64Var(&seconds, "seconds", 0, "")
	fs.Float64Var(&quietEnd, "quiet-end", 0.2, "")
	fs.StringVar(&s.json, "json", "", "")
	fs.BoolVar(&s.quiet, "q", false, "")
	if err := fs.Parse(args); err != nil {
		return s, err
	}
	hw, macErr := net.ParseMAC(mac)
	if s.Flows == 0 {
		s.Flows = s.threads
	}
	var dstErr, srcErr, rateErr error
	s.Dst, dstErr = netip.ParseAddr(dst)
	s.Src, srcErr = netip.ParseAddr(src)
	s.Rate, rateErr = parseRate(rate)
	switch {
	case s.iface == "" && s.tap == "" && s.sink == "" && s.sinkTap == "":
		return s, errors.New("no interface is named; say -i, --tap, --sink or --sink-tap (see vasta pktgen --help)")
	case s.iface != "" && s.tap != "":
		return s, errors.New("options -i and --tap: one of them at most")
	case s.sink != "" && s.sinkTap != "":
		return s, errors.New("options --sink and --sink-tap: one of them at most")
	case s.Size < MinSize || s.Size > MaxSize:
		return s, fmt.Errorf("option -s: %d; %d to %d", s.Size, MinSize, MaxSize)
	case s.Burst < 1 || s.Burst > 1<<24:
		return s, fmt.Errorf("option -b: %d; 1 to %d", s.Burst, 1<<24)
	case s.threads < 1 || s.threads > 256:
		return s, fmt.Errorf("option -t: %d; 1 to 256", s.threads)
	case s.Flows < s.threads || s.Flows > MaxFlows:
		return s, fmt.Errorf("option --flows: %d; at least one for each of the %d threads, at most %d", s.Flows, s.threads, MaxFlows)
	case macErr != nil || len(hw) != len(s.DstMAC):
		return s, fmt.Errorf("option -m: %q is not a MAC address", mac)
	case dstErr != nil || !s.Dst.Is4():
		return s, fmt.Errorf("option -d: %q is not an IPv4 address", dst)
	case srcErr != nil || !s.Src.Is4():
		return s, fmt.Errorf("option --src: %q is not an IPv4 address", src)
	case port < 1 || port > 65535:
		return s, fmt.Errorf("option -p: %d; 1 to 65535", port)
	case rateErr != nil:
		return s, fmt.Errorf("option --rate: %q; a number of frames a second, such as 200000 or 200k", rate)
	case overload != "drop" && overload != "backpressure":
		return s, fmt.Errorf("option --overload: %q; drop or backpressure", overload)
	case seconds < 0 || quietEnd < 0:
		return s, errors.New("options --seconds and --quiet-end: not below 0")
	}
	copy(s.DstMAC[:], hw)
	s.Port = uint16(port)
	s.Drop = overload == "drop"
	s.limit, s.quietEnd = time.Duration(seconds*float64(time.Second)), time.Duration(quietEnd*float64(time.Second))
	return s, nil
}

// parseRate reads a number with k, M or G behind it.
func parseRate(text string) (rate float64, err error) {
	factor := 1.0
	for suffix, f := range map[string]float64{"k": 1e3, "M": 1e6, "G": 1e9} {
		if t, ok := strings.CutSuffix(text, suffix); ok {
			text, factor = t, f
		}
	}
	rest := ""
	if n, _ := fmt.Sscanf(text+" ", "%g%s", &rate, &rest); n != 1 || rate < 0 {
		return 0, errors.New("not a rate")
	}
	return rate * factor, nil
}

// open opens the ports of a run.
func open(s *settings) (out []Port, in Port, err error) {
	defer func() {
		if err == nil {
			return
		}
		for _, p := range out {
			err = errors.Join(err, p.Close())
		}
	}()
	if s.iface != "" {
		link, err := net.InterfaceByName(s.iface)
		if err != nil {
			return nil, nil, fmt.Errorf("interface %s: %w", s.iface, err)
		}
		copy(s.SrcMAC[:], link.HardwareAddr)
	} else {
		s.SrcMAC = [6]byte{2, 'v', 'a', 's', 't', 'a'}
	}
	for range s.threads {
		var p Port
		switch {
		case s.iface != "":
			p, err = OpenInterface(s.iface, s.bypass)
		case s.tap != "":
			flags := uint16(0)
			if s.threads > 1 {
				flags = unix.IFF_MULTI_QUEUE
			}
			p, err = OpenTAP(s.tap, flags)
		default:
			continue
		}
		if err != nil {
			return out, nil, err
		}
		out = append(out, p)
	}
	switch {
	case s.sink != "":
		in, err = OpenInterface(s.sink, false)
	case s.sinkTap != "":
		in, err = OpenTAP(s.sinkTap, 0)
	}
	return out, in, err
}

// run does what the settings ask for.
func run(ctx context.Context, s settings, stderr io.Writer) (r *Result, err error) {
	out, in, err := open(&s)
	if err != nil {
		return nil, err
	}
	defer func() {
		for _, p := range out {
			err = errors.Join(err, p.Close())
		}
		if in != nil {
			err = errors.Join(err, in.Close())
		}
	}()
	if s.iface != "" {
		if err := AwaitCarrier(ctx, s.iface); err != nil {
			return nil, err
		}
	}
	if s.limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.limit)
		defer cancel()
	}
	var p Progress
	if !s.quiet {
		stop := live(stderr, &p)
		defer stop()
	}
	r = &Result{}
	sinkCtx, end := context.WithCancel(ctx)
	defer end()
	sunk := make(chan error, 1)
	l := NewLedger()
	if in != nil {
		go func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			used, err := Sink{Quiet: s.quietEnd}.Run(sinkCtx, in, l, &p)
			r.Sink = &used
			if err != nil {
				end()
			}
			sunk <- err
		}()
	}
	var sendErr error
	if len(out) > 0 {
		r.Traffic = describe(s)
		var sent Sent
		sent, sendErr = Generate(sinkCtx, out, s.Traffic, &p)
		r.Sent = &sent
		end()
	}
	if in != nil {
		sendErr = errors.Join(sendErr, <-sunk)
		r.receive(l)
		if i, ok := in.(*Interface); ok {
			r.Received.Unread = i.Dropped()
		}
	}
	return r, sendErr
}

// live writes a line each second, over the one before, until stop is called.
func live(w io.Writer, p *Progress) (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		sent, received := uint64(0), uint64(0)
		for {
			select {
			case <-done:
				fmt.Fprint(w, "\r\x1b[K")
				return
			case <-tick.C:
			}
			s, r := p.Sent.Load(), p.Received.Load()
			fmt.Fprintf(w, "\r\x1b[Ksent %d (%d/s), refused %d, received %d (%d/s), missing %d", s, s-sent, p.Refused.Load(), r, r-received, p.Missing.Load())
			sent, received = s, r
		}
	}()
	return func() {
		close(done)
		<-ended
	}
}

// write reports a result.
func write(r *Result, s settings, stdout io.Writer) error {
	if s.json != "-" {
		r.report(stdout)
		return command.WriteJSON(s.json, r)
	}
	e := json.NewEncoder(stdout)
	e.SetIndent("", "  ")
	if err := e.Encode(r); err != nil {
		return fmt.Errorf("option --json: %w", err)
	}
	return nil
}
