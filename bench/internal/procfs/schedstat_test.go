package procfs

import (
	"os"
	"runtime"
	"testing"
	"time"
)

func TestParseSchedstat(t *testing.T) {
	got, err := parseSchedstat("1234567 89 10\n")
	if want := (Scheduling{Ran: 1234567, Waited: 89}); err != nil || got != want {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	for _, bad := range []string{"", "1 2", "a 2 3", "1 b 3", "1 2 3 4"} {
		if got, err := parseSchedstat(bad); err == nil {
			t.Errorf("%q: %+v, no error", bad, got)
		}
	}
}

// What a thread computes for 50 ms it has run, or waited for a processor.
func TestReadScheduling(t *testing.T) {
	before, err := ReadScheduling(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	runtime.LockOSThread()
	alone, err := ReadThreadScheduling()
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(50 * time.Millisecond); time.Now().Before(end); {
	}
	one, err := ReadThreadScheduling()
	if err != nil {
		t.Fatal(err)
	}
	if share := one.Since(alone).Share(); one.Ran <= alone.Ran || share <= 0 || share > 1 {
		t.Errorf("the thread: before %+v, after 50 ms of work %+v, a share of %v", alone, one, share)
	}
	after, err := ReadScheduling(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if after.Ran+after.Waited-before.Ran-before.Waited < 40*time.Millisecond || after.Waited < before.Waited {
		t.Errorf("before %+v, after 50 ms of work %+v", before, after)
	}
}
