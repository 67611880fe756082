//go:build lab

package e2e_test

import (
	"errors"
	"testing"

	"github.com/vasta-net/vasta/internal/lab"
)

// TestNetem moves content both ways through bad networks, on either leg: between the guest's TCP and vasta's, and between the host's TCP
// and that of a far server. It needs netem, and runs in the guest machine.
func TestNetem(t *testing.T) {
	// With a short MTU, and with 64 KiB in a frame all the same: GSO.
	r := start(t, "-m", "1500")
	legs := []struct {
		name   string
		impair func(lab.Impairment) error
		mend   func() error
	}{
		{"guest leg",
			func(i lab.Impairment) error { return r.Guest.Impair(lab.LinkName, i) },
			func() error { return r.Guest.Mend(lab.LinkName) }},
		{"host leg",
			func(i lab.Impairment) error {
				return errors.Join(r.Host.ImpairSent(lab.LinkName, i), r.Inet.ImpairSent(lab.LinkName, i))
			},
			func() error { return errors.Join(r.Host.Mend(lab.LinkName), r.Inet.Mend(lab.LinkName)) }},
	}
	for _, leg := range legs {
		for _, i := range lab.Impairments {
			t.Run(leg.name+"/"+i.Name, func(t *testing.T) {
				if err := leg.impair(i); err != nil {
					t.Fatal(err)
				}
				bothFamilies(t, func(t *testing.T, f family) {
					const size = 4 << 20
					down, up := serve(t, r.Inet, f.far, source(size)), serve(t, r.Inet, f.far, sink(size))
					parallel(t, 2, func(i int) error {
						if i == 0 {
							return download(r.Guest, f.far, down, size)
						}
						return upload(r.Guest, f.far, up, size)
					})
				})
				t.Logf("segments sent again so far: vasta %d, guest %d, far host %d", r.now().TCP.Retransmits, snmp(t, r.Guest, "RetransSegs"), snmp(t, r.Inet, "RetransSegs"))
				if err := leg.mend(); err != nil {
					t.Fatal(err)
				}
			})
		}
	}
}
