// Package guest runs tests of other packages in guest machines, on kernels that this machine does not run and with what its kernel
// lacks. Each of them is reported as a subtest: "go test ./test/guest/linux6_1 -v -run TestKernel/link/tap".
//
// What runs there is a choice that ends within a minute on an idle machine; emulation makes everything 5 to 20 times as slow. "make lab-test" runs
// any other. There is a package for each kernel, so that each has the time that a package has.
package guest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vasta-net/vasta/internal/lab/image"
	"github.com/vasta-net/vasta/internal/lab/machine"
)

// Suite is a choice of a package's tests.
type Suite struct {
	Package string // relative to the module
	Run     string // pattern, as of -run
}

const (
	// suiteLimit bounds one suite.
	suiteLimit = 90 * time.Second
	// closing is the time left for the end of a machine before the test's deadline.
	closing = 10 * time.Second
)

// Run boots a kernel, one of image.Kernels, loads all modules, and runs the suites, with the build tag lab.
func Run(t *testing.T, kernel string, suites []Suite) {
	root, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	if deadline, ok := t.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline.Add(-closing))
		defer cancel()
	}
	binaries := t.TempDir()
	program := filepath.Join(binaries, "vasta")
	goCommand(t, root, "build", "-buildvcs=false", "-o", program, "./cmd/vasta")
	for _, s := range suites {
		goCommand(t, root, "test", "-c", "-tags", "lab", "-o", testBinary(binaries, s.Package), "./"+s.Package)
	}
	m, err := machine.Boot(ctx, machine.Config{Kernel: kernel, Source: root, Log: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}()
	t.Run("modules", func(t *testing.T) { loadModules(ctx, t, m, kernel) })
	for _, s := range suites {
		t.Run(s.Package, func(t *testing.T) {
			c := m.Command(install(t, m, testBinary(binaries, s.Package)), "-test.v=test2json", "-test.run", s.Run, "-test.timeout", suiteLimit.String())
			c.Dir = filepath.Join(root, s.Package)
			c.Env = []string{"VASTA_E2E_PROGRAM=" + install(t, m, program)}
			runSuite(ctx, t, c)
		})
	}
}

// testBinary is where the test binary of a package is.
func testBinary(dir, pkg string) string {
	return filepath.Join(dir, strings.ReplaceAll(pkg, "/", "-")+".test")
}

func goCommand(t *testing.T, dir string, args ...string) {
	t.Helper()
	c := exec.CommandContext(t.Context(), "go", args...)
	c.Dir = dir
	c.Env = append(os.Environ(), "CGO_ENABLED=0") // the machine may have another C library
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// install puts a program into the machine, unless it is there.
func install(t *testing.T, m *machine.Machine, program string) string {
	t.Helper()
	to := filepath.Join(m.Dir(), filepath.Base(program))
	if _, err := os.Stat(to); err == nil {
		return to
	}
	content, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	if to, err = m.Install(filepath.Base(program), bytes.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	return to
}

// loadModules loads every module that the image of a kernel is to have, and looks for the programs.
func loadModules(ctx context.Context, t *testing.T, m *machine.Machine, kernel string) {
	modules := image.Modules(kernel)
	script := "for m in " + strings.Join(modules, " ") + "; do modprobe $m || echo no $m; done; " +
		"for p in busybox ip tc iperf3 ethtool tcpdump strace curl pasta dig socat nc ping unshare nsenter setpriv ps nft; do command -v $p >/dev/null || echo no $p; done"
	out, err := m.Command("sh", "-c", script).CombinedOutput(ctx)
	if err != nil || len(out) != 0 {
		t.Errorf("%v: %s", err, out)
	}
	release, err := m.Command("uname", "-r").Output(ctx)
	if err != nil || !strings.HasPrefix(string(release), kernel+".") {
		t.Errorf("kernel %q, %v", release, err)
	}
	t.Log(fmt.Sprint(len(modules), " modules on ", strings.TrimSpace(string(release))))
}
