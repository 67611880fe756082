package netns

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestProbe(t *testing.T) {
	fds := openFDs(t)
	checks := map[string]Check{}
	for _, c := range Probe() {
		if c.Name == "" || c.Detail == "" || c.Buys == "" || (c.Cure == "") != c.OK {
			t.Errorf("incomplete: %+v", c)
		}
		checks[c.Name] = c
	}
	for _, name := range []string{"namespaces", tunPath, "TCP segmentation offload", "fresh /proc"} {
		if !checks[name].OK {
			t.Errorf("%s: %+v, but all other tests need it", name, checks[name])
		}
	}
	if len(checks) != 7 {
		t.Errorf("%d checks, want 7", len(checks))
	}
	if diff := cmp.Diff(fds, openFDs(t)); diff != "" {
		t.Errorf("descriptors are left (-before +after):\n%s", diff)
	}
}

func TestProbeRefusals(t *testing.T) {
	blocked := &blockedError{unix.ENOSPC, blocker{"a limit", "raise it"}}
	if c := probeNamespaces(blocked); c.OK || c.Cure != "raise it" {
		t.Errorf("%+v", c)
	}
	if c := probeNamespaces(errors.New("the TAP failed")); !c.OK {
		t.Errorf("%+v", c)
	}
	for _, c := range append(probeOffloads(nil, blocked), probeProc(nil)) {
		if c.OK || c.Cure == "" {
			t.Errorf("%+v", c)
		}
	}
	old := &TAP{Offloads: tunFBase}
	if c := probeOffloads(old, nil); !c[0].OK || c[1].OK {
		t.Errorf("before Linux 6.2: %+v", c)
	}
	if c := probeProc(&Namespace{warnings: []string{"other", procWarning + ": no"}}); c.OK || c.Detail != procWarning+": no" {
		t.Errorf("%+v", c)
	}
}

func TestProbePing(t *testing.T) {
	for _, test := range []struct {
		sysctl string
		groups []int
		ok     bool
	}{
		{"1\t0", []int{0}, false},
		{"0\t2147483647", []int{1000}, true},
		{"100\t200", []int{50, 150}, true},
		{"100\t200", []int{50, 250}, false},
		{"", []int{0}, false},
	} {
		if c := probePing(test.sysctl, test.groups); c.OK != test.ok || (c.Cure == "") != c.OK {
			t.Errorf("%q, %v: %+v", test.sysctl, test.groups, c)
		}
	}
}
