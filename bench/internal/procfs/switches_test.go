package procfs

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
)

func TestParseSwitches(t *testing.T) {
	if n, err := parseSwitches([]byte("Name:\tx\nvoluntary_ctxt_switches:\t40\nnonvoluntary_ctxt_switches:\t2\n")); n != 42 || err != nil {
		t.Errorf("%d, %v; want 42", n, err)
	}
	for _, bad := range []string{"", "voluntary_ctxt_switches:\t40\n", "voluntary_ctxt_switches:\tx\nnonvoluntary_ctxt_switches:\t2\n"} {
		if n, err := parseSwitches([]byte(bad)); err == nil {
			t.Errorf("%q: %d, no error", bad, n)
		}
	}
}

// A process of one thread that answers lines gives its processor up before each.
func TestSwitches(t *testing.T) {
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := errors.Join(in.Close(), cmd.Wait()); err != nil {
			t.Error(err)
		}
	}()
	answers := bufio.NewReader(out)
	ask := func() {
		t.Helper()
		if _, err := io.WriteString(in, "?\n"); err != nil {
			t.Fatal(err)
		}
		if _, err := answers.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	ask()
	before, err := Switches(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	const questions = 10
	for range questions {
		ask()
		// It has answered, and has to wait for more before the next question finds it waiting.
		for state := ""; state != "S"; {
			stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", cmd.Process.Pid))
			if err != nil {
				t.Fatal(err)
			}
			state = strings.Fields(string(stat))[2]
		}
	}
	after, err := Switches(cmd.Process.Pid)
	if err != nil || after < before+questions {
		t.Errorf("%d context switches before %d questions, %d after: %v", before, questions, after, err)
	}
}
