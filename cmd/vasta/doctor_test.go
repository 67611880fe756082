package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestDiagnosisTable(t *testing.T) {
	d := diagnosis{Version: "v1", Kernel: "6.1.0", Machine: "x86_64", UID: 1000, Checks: []finding{
		{Name: "tun", OK: true, Detail: "can be opened", Buys: "the interface"},
		{Name: "vhost-net", Detail: "no such file", Buys: "speed", Cure: "modprobe vhost_net"},
	}}
	const want = `vasta v1 on Linux 6.1.0 x86_64, as uid 1000

yes  tun        can be opened
                buys: the interface
no   vhost-net  no such file
                buys: speed
                cure: modprobe vhost_net

1 of 2 are missing.
`
	if diff := cmp.Diff(want, d.String()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	d.Checks = d.Checks[:1]
	const whole = `vasta v1 on Linux 6.1.0 x86_64, as uid 1000

yes  tun  can be opened
          buys: the interface

This machine offers everything that vasta can use.
`
	if diff := cmp.Diff(whole, d.String()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}
