package options

import (
	"fmt"
	"io"
	"strings"
)

// usage is the head of --help.
const usage = `Usage:
  vasta [OPTIONS] [--] [CMD [ARG...]]     run CMD, or your shell, in a namespace with a network
  vasta attach PID [OPTIONS]              give the namespace of a process a network
  vasta attach --netns PATH [--userns PATH] [OPTIONS]
  vasta demo [OPTIONS]                    show the network at work, then open a shell in it
  vasta doctor [--json]                   say what this machine offers, and what it lacks
  vasta bench net [BENCH OPTIONS]         measure against other tools; see vasta bench net --help
  vasta bench all [BENCH OPTIONS]         every benchmark, in one report; see vasta bench --help
  vasta pktgen [PKTGEN OPTIONS]           send and receive numbered frames; see vasta pktgen --help
  vasta version | vasta help | vasta man  the version; this text; the manual page, for man -l -
  vasta completion bash|zsh|fish          what the shell reads to complete options

A CMD that is named like one of these commands is run by vasta -- CMD.
The gateway's address inside leads to the loopback of this machine; --no-map-gw closes that way.
No port of this machine leads into the namespace unless --tcp-ports or --udp-ports says so.
`

// Columns of --help.
const (
	helpIndent = 30
	helpWidth  = 100
)

// WriteHelp writes what --help shows.
func WriteHelp(w io.Writer) error {
	var b strings.Builder
	b.WriteString(usage)
	var already, notYet []string
	for _, section := range sections {
		title := "\n" + string(section) + ":\n"
		for i := range Table {
			o := &Table[i]
			if o.Section != section {
				continue
			}
			switch o.State {
			case AlreadySo:
				already = append(already, "--"+o.Name)
			case NotYet:
				notYet = append(notYet, "--"+o.Name)
			case Built:
				b.WriteString(title)
				title = ""
				o.writeHelp(&b)
			}
		}
	}
	b.WriteString("\nOptions of pasta that ask for what vasta does anyway:\n")
	b.WriteString(wrapped(2, strings.Join(already, ", ")))
	b.WriteString("\nOptions of pasta that vasta does not have yet:\n")
	b.WriteString(wrapped(2, strings.Join(notYet, ", ")))
	_, err := io.WriteString(w, b.String())
	return err
}

// writeHelp writes the lines of one option.
func (o *Option) writeHelp(b *strings.Builder) {
	head := "      --" + o.Name
	if o.Short != 0 {
		head = fmt.Sprintf("  -%c, --%s", o.Short, o.Name)
	}
	head += o.argument()
	if len(head) > helpIndent-2 {
		head += "\n" + strings.Repeat(" ", helpIndent)
	}
	// The first line stands beside the option, or alone below one that is too long.
	fmt.Fprintf(b, "%-*s%s", helpIndent, head, strings.TrimLeft(wrapped(helpIndent, o.text()), " "))
}

// argument is the argument as --help writes it behind the option's name.
func (o *Option) argument() string {
	switch o.Arg {
	case RequiredArg:
		return " " + o.ArgName
	case OptionalArg:
		return "[=" + o.ArgName + "]"
	}
	return ""
}

// text is what the option does, with its default.
func (o *Option) text() string {
	if o.Default == "" {
		return o.Help
	}
	return o.Help + " (default: " + o.Default + ")"
}

// wrapped breaks text into lines of helpWidth where words allow it, each behind indent spaces.
func wrapped(indent int, text string) string {
	var b strings.Builder
	column := 0
	for word := range strings.FieldsSeq(text) {
		switch {
		case column == 0:
			b.WriteString(strings.Repeat(" ", indent))
			column = indent
		case column+1+len(word) > helpWidth:
			b.WriteString("\n" + strings.Repeat(" ", indent))
			column = indent
		default:
			b.WriteString(" ")
			column++
		}
		b.WriteString(word)
		column += len(word)
	}
	b.WriteString("\n")
	return b.String()
}
