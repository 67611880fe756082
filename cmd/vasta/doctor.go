package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/vasta-net/vasta/netns"
	"golang.org/x/sys/unix"
)

// diagnosis is what vasta doctor says; its JSON form is an interface to other programs.
type diagnosis struct {
	Version string    `json:"version"`
	Kernel  string    `json:"kernel"`
	Machine string    `json:"machine"`
	UID     int       `json:"uid"`
	Checks  []finding `json:"checks"`
}

// finding is one thing that the machine may offer.
type finding struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
	Buys   string `json:"buys"`
	Cure   string `json:"cure,omitempty"`
}

// diagnose tries out what the machine offers.
func diagnose() (diagnosis, error) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return diagnosis{}, fmt.Errorf("doctor: the kernel does not tell its name: %w", err)
	}
	d := diagnosis{
		Version: version,
		Kernel:  unix.ByteSliceToString(name.Release[:]),
		Machine: unix.ByteSliceToString(name.Machine[:]),
		UID:     unix.Getuid(),
	}
	for _, c := range netns.Probe() {
		d.Checks = append(d.Checks, finding(c))
	}
	return d, nil
}

// writeDiagnosis is vasta doctor: it tries out what the machine offers and writes what it found.
func writeDiagnosis(w io.Writer, asJSON bool) error {
	d, err := diagnose()
	if err != nil {
		return err
	}
	if asJSON {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		e.SetEscapeHTML(false)
		return e.Encode(d)
	}
	_, err = io.WriteString(w, d.String())
	return err
}

// String gives the diagnosis as a table: a line for each finding, below it what it buys, and the cure where it is missing.
func (d diagnosis) String() string {
	width, missing := 0, 0
	for _, f := range d.Checks {
		width = max(width, len(f.Name))
		if !f.OK {
			missing++
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "vasta %s on Linux %s %s, as uid %d\n\n", d.Version, d.Kernel, d.Machine, d.UID)
	for _, f := range d.Checks {
		state := "yes"
		if !f.OK {
			state = "no"
		}
		indent := strings.Repeat(" ", len("yes")+width+4)
		fmt.Fprintf(&b, "%-3s  %-*s  %s\n%sbuys: %s\n", state, width, f.Name, f.Detail, indent, f.Buys)
		if f.Cure != "" {
			fmt.Fprintf(&b, "%scure: %s\n", indent, f.Cure)
		}
	}
	if missing == 0 {
		b.WriteString("\nThis machine offers everything that vasta can use.\n")
	} else {
		fmt.Fprintf(&b, "\n%d of %d are missing.\n", missing, len(d.Checks))
	}
	return b.String()
}
