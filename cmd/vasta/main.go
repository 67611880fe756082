// Command vasta gives a command in a Linux namespace a network without privileges.
package main

import (
	"fmt"
	"os"
)

// version is what --version prints; the Makefile sets it from the state of the source tree.
var version = "devel"

func main() {
	fmt.Fprintf(os.Stderr, "vasta: version %s runs no command yet; see docs/progress.md for what is built\n", version)
	os.Exit(1)
}
