package command

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// Machine is what results were measured on.
type Machine struct {
	Kernel     string `json:"kernel"`
	Processors int    `json:"processors"`
	Go         string `json:"go"`
	Arch       string `json:"arch"`
}

// ThisMachine is the one that runs.
func ThisMachine() Machine {
	m := Machine{Processors: runtime.NumCPU(), Go: runtime.Version(), Arch: runtime.GOARCH}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	return m
}
