// Package e2e_test runs the built program on the real kernel: vasta as an ordinary user in the lab's host, servers in its
// inet and on the host's loopback, and clients and servers inside the namespace that vasta made.
package e2e_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// vastaPath is the program under test, built once.
var vastaPath string

// programEnv is the path of a program under test that is already built. The guest machine of internal/lab/machine has no compiler.
const programEnv = "VASTA_E2E_PROGRAM"

// guestEnv makes the test binary a program that runs inside vasta's namespace, named by its first argument.
const guestEnv = "VASTA_E2E_GUEST"

func TestMain(m *testing.M) {
	if os.Getenv(guestEnv) != "" {
		os.Exit(guestMain(os.Args[1:]))
	}
	os.Exit(buildAndRun(m))
}

func buildAndRun(m *testing.M) int {
	// Every user may pass through it, unlike the folder that the go command makes for the test binary.
	dir, err := os.MkdirTemp("", "vasta-e2e-*")
	if err == nil {
		defer os.RemoveAll(dir)
		err = os.Chmod(dir, 0o755)
	}
	if err == nil {
		err = build(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e: building vasta:", err)
		return 1
	}
	return m.Run()
}

func build(dir string) error {
	if err := copyProgram("/proc/self/exe", &guestPath, filepath.Join(dir, "guest")); err != nil {
		return err
	}
	if built := os.Getenv(programEnv); built != "" {
		return copyProgram(built, &vastaPath, filepath.Join(dir, "vasta"))
	}
	vastaPath = filepath.Join(dir, "vasta")
	c := exec.Command("go", "build", "-buildvcs=false", "-o", vastaPath, "github.com/vasta-net/vasta/cmd/vasta")
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	c.Stdout, c.Stderr = os.Stderr, os.Stderr
	return c.Run()
}

// copyProgram puts a copy of a program where every user may execute it, and its path into path.
func copyProgram(from string, path *string, to string) error {
	*path = to
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, content, 0o755)
}
