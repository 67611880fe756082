package main

import (
	"fmt"
	"io"
	"runtime"
)

// version is what --version prints; the Makefile sets it from the state of the source tree.
var version = "devel"

// writeVersion writes what --version prints: the version alone behind the program's name in the first line, for programs
// that read it, and what the program was built with in the second.
func writeVersion(w io.Writer) error {
	_, err := fmt.Fprintf(w, "vasta %s\n%s %s/%s\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}
