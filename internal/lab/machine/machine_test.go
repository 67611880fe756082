package machine_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vasta-net/vasta/internal/lab/machine"
)

// echoEnv makes the test binary a program of the guest that tells its arguments.
const echoEnv = "VASTA_MACHINE_TEST_ECHO"

func TestMain(m *testing.M) {
	if machine.GuestMain() {
		return
	}
	if os.Getenv(echoEnv) != "" {
		fmt.Println(os.Args[1:], os.Getenv(echoEnv), os.Getuid())
		os.Exit(3)
	}
	os.Exit(m.Run())
}

// boot boots a machine that ends with the test.
func boot(t *testing.T, cfg machine.Config) *machine.Machine {
	t.Helper()
	cfg.Log = t.Output()
	m, err := machine.Boot(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

func TestCommands(t *testing.T) {
	source := t.TempDir()
	if err := os.WriteFile(filepath.Join(source, "word"), []byte("from the host"), 0o644); err != nil {
		t.Fatal(err)
	}
	m := boot(t, machine.Config{Source: source})

	t.Run("output", func(t *testing.T) {
		var stdout, stderr bytes.Buffer
		c := m.Command("sh", "-c", "echo out; echo err >&2; id -u; pwd")
		c.User, c.Stdout, c.Stderr = machine.Ordinary, &stdout, &stderr
		if err := c.Run(t.Context()); err != nil {
			t.Error(err)
		}
		if stdout.String() != "out\n1000\n/home/user\n" || stderr.String() != "err\n" {
			t.Errorf("standard output %q, standard error %q", &stdout, &stderr)
		}
	})
	t.Run("self", func(t *testing.T) {
		c := m.Command(machine.Self, "a", "b c")
		c.Env = []string{echoEnv + "=value"}
		out, err := c.Output(t.Context())
		var exit *machine.ExitError
		if !errors.As(err, &exit) || exit.Status != 3 {
			t.Errorf("error %v, want exit status 3", err)
		}
		if string(out) != "[a b c] value 0\n" {
			t.Errorf("output %q", out)
		}
	})
	t.Run("signal", func(t *testing.T) {
		err := m.Command("sh", "-c", "kill -TERM $$").Run(t.Context())
		var exit *machine.ExitError
		if !errors.As(err, &exit) || exit.Signal != unix.SIGTERM {
			t.Errorf("error %v, want SIGTERM", err)
		}
	})
	t.Run("no such command", func(t *testing.T) {
		if err := m.Command("nonsense").Run(t.Context()); err == nil || !strings.Contains(err.Error(), "not found") {
			t.Errorf("error %v", err)
		}
	})
	t.Run("files", func(t *testing.T) {
		name := filepath.Join(m.Dir(), "copy")
		c := m.Command("cp", filepath.Join(source, "word"), name)
		c.User = machine.Ordinary
		if err := c.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		if content, err := os.ReadFile(name); err != nil || string(content) != "from the host" {
			t.Errorf("%q, %v", content, err)
		}
		if err := m.Command("touch", filepath.Join(source, "new")).Run(t.Context()); err == nil {
			t.Error("the source can be written")
		}
	})
	t.Run("time limit", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		if err := m.Command("sh", "-c", "sleep 1000 & sleep 1000").Run(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
		if err := m.Command("pidof", "sleep").Run(t.Context()); err == nil {
			t.Error("the command's children outlive it")
		}
	})
	// Last, for it ends the machine.
	t.Run("panic", func(t *testing.T) {
		err := m.Command("sh", "-c", "echo c > /proc/sysrq-trigger; sleep 1000").Run(t.Context())
		if err == nil || !strings.Contains(err.Error(), "Kernel panic") || !strings.Contains(err.Error(), "console.log") {
			t.Fatalf("error %v", err)
		}
		_, rest, _ := strings.Cut(err.Error(), "last lines, from ")
		log, _, _ := strings.Cut(rest, ":")
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		if content, err := os.ReadFile(log); err != nil || !bytes.Contains(content, []byte("Linux version 6.12")) {
			t.Errorf("console's log: %v", err)
		}
		if err := os.RemoveAll(filepath.Dir(log)); err != nil {
			t.Error(err)
		}
	})
}
