package options

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// parser is the state of one Parse. The set functions of the table write to it.
type parser struct {
	Options
	seen []found
	// These are set by a port list of "none", which excludes every other of its option.
	noTCP, noUDP, noInsideTCP, noInsideUDP bool
	// len4 is true when the IPv4 address was given with its prefix length.
	len4 bool
}

// Parse reads a command line without argv[0]. Options take effect in their order, so --help and --version end it where they stand,
// whatever follows. Every error is one line, which a program's name and a colon may go in front of.
func Parse(args []string) (Options, error) {
	p := parser{Options: Options{
		Guest:   Guest{IPv4: true, IPv6: true, MTU: DefaultMTU, GatewayMAC: DefaultMAC},
		Mapping: Mapping{Gateway: true},
		Limits:  Limits{IdleTimeout: DefaultIdleTimeout, EvictIdle: DefaultEvictIdle, Queues: DefaultQueues(), Budget: DefaultBudget},
		Log:     Log{Level: Normal},
		ReadyFD: -1,
	}}
	s := scanner{table: Table, args: args}
	if done, err := p.options(&s); done || err != nil {
		return p.Options, err
	}
	// After "--" the word of a command is the name of a program.
	if len(s.args) > 0 && !s.ended {
		if command, ok := commandNamed(s.args[0]); ok {
			p.Command = command
			s.args = s.args[1:]
		}
	}
	if p.Command == Run || p.Command == Bench || p.Command == Pktgen {
		p.Args = s.args
		return p.Options, p.finish(nil)
	}
	// The other commands start no program, so options may follow their operands too.
	var operands []string
	for len(s.args) > 0 {
		if done, err := p.options(&s); done || err != nil {
			return p.Options, err
		}
		if len(s.args) > 0 {
			operands = append(operands, s.args[0])
			s.args = s.args[1:]
		}
	}
	return p.Options, p.finish(operands)
}

// options reads options up to the next operand. done is true after one that ends the whole command line.
func (p *parser) options(s *scanner) (done bool, err error) {
	for {
		f, ok, err := s.next()
		if err != nil {
			return false, fmt.Errorf("%s; vasta --help lists the options", oneLine(err.Error()))
		}
		if !ok {
			return false, nil
		}
		p.seen = append(p.seen, f)
		if f.option.State == NotYet {
			return false, fmt.Errorf("%s: vasta does not have this option of pasta yet; %s", f.spelled, f.option.Instead)
		}
		if f.option.set == nil {
			continue
		}
		if err := f.option.set(p, f); err != nil {
			return false, fmt.Errorf("%s: %w", f, err)
		}
		if f.option.ends {
			return true, nil
		}
	}
}

// oneLine puts a question mark for each character that a terminal would not show as a part of the line.
func oneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == utf8.RuneError {
			return '?'
		}
		return r
	}, text)
}

// String gives the option as it was written, for messages.
func (f found) String() string {
	if f.hasArg {
		return f.spelled + " " + strconv.Quote(f.arg)
	}
	return f.spelled
}

// finish checks what concerns more than one option, and the operands of commands that run no program.
func (p *parser) finish(operands []string) error {
	for _, f := range p.seen {
		if !f.option.Commands.has(p.Command) {
			return fmt.Errorf("%s: %s does not take this option; it is for %s", f.spelled, p.Command, f.option.Commands)
		}
	}
	switch p.Command {
	case Attach:
		if err := p.attachTarget(operands); err != nil {
			return err
		}
	case Completion:
		if err := p.shell(operands); err != nil {
			return err
		}
	case Run, Bench, Pktgen:
	default:
		if len(operands) > 0 {
			return fmt.Errorf("%s takes no operand, and was given %q; to run a program of that name write vasta -- %[1]s", commandWords[p.Command], operands[0])
		}
	}
	return p.network()
}

// attachTarget reads the operands of attach.
func (p *parser) attachTarget(operands []string) error {
	switch {
	case len(operands) > 1:
		return fmt.Errorf("attach takes one process, and was given %q as well; it runs no command", operands[1])
	case len(operands) == 1 && p.Target != Target{}:
		return errors.New("attach takes a process or --netns, not both; --netns PATH and --userns PATH say it all")
	case len(operands) == 1:
		pid, err := strconv.ParseInt(operands[0], 10, 32)
		if err != nil || pid < 1 {
			return fmt.Errorf("attach %q: not the number of a process; name a namespace by its path with --netns", operands[0])
		}
		p.Target.PID = int(pid)
	case p.Target.NetNS == "":
		return errors.New("attach: no namespace named; give the number of a process in it, or --netns PATH")
	}
	return nil
}

// shell reads the operand of completion.
func (p *parser) shell(operands []string) error {
	if len(operands) == 1 && slices.Contains(shells, Shell(operands[0])) {
		p.Shell = Shell(operands[0])
		return nil
	}
	return fmt.Errorf("completion takes the name of a shell, one of %s", joined(shells, ", "))
}

// network checks the settings of the namespace against each other and fills in what follows from them.
func (p *parser) network() error {
	g := &p.Guest
	if g.Address4.IsValid() && g.PrefixLen4 != 0 {
		addr := g.Address4.Addr()
		if given := g.Address4.Bits(); p.len4 && given != g.PrefixLen4 {
			return fmt.Errorf("--netmask says /%d and --address %s says /%d; give one of them", g.PrefixLen4, addr, given)
		}
		g.Address4 = netip.PrefixFrom(addr, g.PrefixLen4)
	}
	if g.IPv6 && g.MTU != HostMTU && g.MTU < minMTU6 {
		return fmt.Errorf("--mtu %d: IPv6 needs %d bytes at least; add --ipv4-only or take a larger MTU", g.MTU, minMTU6)
	}
	if need := int64(p.Limits.Queues) * queueBudget; p.Limits.Budget < need {
		return fmt.Errorf("--budget is too little for --queues %d, which share it; give %dK at least, or fewer queues", p.Limits.Queues, need>>10)
	}
	return nil
}
