package options

import (
	"math/bits"
	"strings"
)

// Command is what the first word of the operands asks for.
type Command uint8

// The commands. Run has no name: it is what everything that is not a command's name means.
const (
	Run Command = iota
	Attach
	Doctor
	Bench
	Pktgen
	Demo
	Version
	Help
	Man
	Completion
	commandCount
)

// commandWords are the names by which the command line asks for a command.
var commandWords = [commandCount]string{Attach: "attach", Doctor: "doctor", Bench: "bench", Pktgen: "pktgen", Demo: "demo", Version: "version", Help: "help", Man: "man", Completion: "completion"}

// Benchmarks are the words that may follow bench.
var Benchmarks = []string{"all", "net", "overload", "vhost", "virtio"}

// String gives the command as a user writes it.
func (c Command) String() string {
	if c == Run {
		return "vasta -- CMD"
	}
	return "vasta " + commandWords[c]
}

// commandNamed finds the command that a first operand names; ok is false when it is the name of a program to run.
func commandNamed(word string) (c Command, ok bool) {
	for i, name := range commandWords {
		if name != "" && name == word {
			return Command(i), true
		}
	}
	return Run, false
}

// commandSet is a set of commands, one bit each.
type commandSet uint16

// on makes a set.
func on(commands ...Command) commandSet {
	var s commandSet
	for _, c := range commands {
		s |= 1 << c
	}
	return s
}

func (s commandSet) has(c Command) bool { return s&(1<<c) != 0 }

// String lists the commands of the set as a user writes them.
func (s commandSet) String() string {
	names := make([]string, 0, bits.OnesCount16(uint16(s)))
	for c := range commandCount {
		if s.has(c) {
			names = append(names, c.String())
		}
	}
	return strings.Join(names, ", ")
}
