package options

import (
	"fmt"
	"io"
	"strings"
)

// Parts of the manual page that do not come from the table, in man(7)'s language. Text of the table goes through escaped.
const (
	manHead = `.TH VASTA 1 2026-11-21 "vasta %s" "User Commands"
.SH NAME
vasta \- a network for a command in a Linux namespace, without privileges
.SH SYNOPSIS
.nf
\fBvasta\fR [\fIOPTIONS\fR] [\fB\-\-\fR] [\fICMD\fR [\fIARG\fR...]]
\fBvasta attach\fR \fIPID\fR [\fIOPTIONS\fR]
\fBvasta attach \-\-netns\fR \fIPATH\fR [\fB\-\-userns\fR \fIPATH\fR] [\fIOPTIONS\fR]
\fBvasta demo\fR [\fIOPTIONS\fR]
\fBvasta doctor\fR [\fB\-\-json\fR]
\fBvasta bench net\fR|\fBall\fR|\fBoverload\fR|\fBvhost\fR|\fBvirtio\fR [\fIBENCH OPTIONS\fR]
\fBvasta pktgen\fR [\fIPKTGEN OPTIONS\fR]
\fBvasta version\fR | \fBhelp\fR | \fBman\fR
\fBvasta completion bash\fR|\fBzsh\fR|\fBfish\fR
.fi
.SH DESCRIPTION
.B vasta
runs a command, or your shell, in new user, network and mount namespaces with a working IPv4 and IPv6 network. It needs no privileges:
the connections of the namespace are opened on the host as those of the user who started it.
.PP
The namespace has the addresses and routes of the host's interface with the default route. The address of its gateway leads to the
loopback of this machine, with every service that listens there;
.B \-\-no\-map\-gw
closes that way. No port of this machine leads into the namespace unless
.B \-\-tcp\-ports
or
.B \-\-udp\-ports
says so.
.PP
.B vasta attach
gives the namespace of a running process a network, and ends when that namespace goes away.
.B vasta doctor
says what this machine offers, what it lacks, and the cure.
.B vasta bench all
measures every row that vasta implements beside its source's figures, and writes one report; each benchmark has its own
.BR \-\-help .
A command that is named like one of vasta's own is run by
.BR "vasta \-\-" .
.PP
Options have the names and meanings of
.BR pasta (1)
wherever pasta has the option. Long names may be shortened as long as they are unique, and options end at the first operand.
.SH OPTIONS
`
	manTail = `.SH EXIT STATUS
That of the command; 128 plus the number of the signal that killed it; 127 when it was not found and 126 when it could not be
executed; 1 for a mistake in the command line, or when the network could not be made. Every error is one line on standard error.
.SH SIGNALS
.TP
.BR SIGTERM ", " SIGINT ", " SIGHUP
are passed on to the command.
.TP
.B SIGUSR1
writes the counters, with
.BR \-\-counters .
.SH EXAMPLES
.TP
.B vasta \-\- curl https://example.org
One command; its exit status becomes vasta's.
.TP
.B vasta \-t 8080:80 \-\- ./server
Port 8080 of this machine leads to port 80 inside.
.TP
.B vasta \-\-no\-map\-gw \-\- ./untrusted
The loopback of this machine stays closed.
.TP
.B vasta attach 4711
A network for the namespace of process 4711.
.SH SEE ALSO
.BR pasta (1),
.BR slirp4netns (1),
.BR user_namespaces (7),
.BR network_namespaces (7)
`
)

// WriteMan writes the manual page of the given version, in man(7)'s language.
func WriteMan(w io.Writer, version string) error {
	var b strings.Builder
	fmt.Fprintf(&b, manHead, escaped(version))
	for _, section := range sections {
		title := ".SS " + escaped(string(section)) + "\n"
		for i := range Table {
			o := &Table[i]
			if o.Section != section || o.State == NotYet {
				continue
			}
			b.WriteString(title)
			title = ""
			o.writeMan(&b)
		}
	}
	b.WriteString(manTail)
	_, err := io.WriteString(w, b.String())
	return err
}

// writeMan writes the paragraph of one option.
func (o *Option) writeMan(b *strings.Builder) {
	b.WriteString(".TP\n")
	if o.Short != 0 {
		fmt.Fprintf(b, "\\fB\\-%c\\fR, ", o.Short)
	}
	fmt.Fprintf(b, "\\fB\\-\\-%s\\fR%s\n%s.", escaped(o.Name), escaped(o.argument()), escaped(o.text()))
	if o.State == AlreadySo {
		b.WriteString(" Vasta does so anyway.")
	}
	b.WriteString("\n")
}

// escaped is text as man(7) shows it unchanged: with its backslashes, with hyphens that can be copied, and not taken for a
// request where a line of it begins with a dot or a quote.
var escaped = strings.NewReplacer(`\`, `\e`, "-", `\-`, "\n.", "\n\\&.", "\n'", "\n\\&'").Replace
