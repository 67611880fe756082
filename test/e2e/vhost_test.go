//go:build lab

package e2e_test

import (
	"os"
	"os/exec"
	"testing"

	"github.com/vasta-net/vasta/vhost/kernel"
)

// TestVHost moves content both ways and at once over vhost-net, in both families and with short frames too, and sees from the counters that it went by rings. It needs vhost-net, and
// runs in the guest machine.
func TestVHost(t *testing.T) {
	if out, err := exec.Command("modprobe", "vhost_net").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := os.Chmod(kernel.Path, 0o666); err != nil { // vasta runs as an ordinary user
		t.Fatal(err)
	}
	for name, args := range map[string][]string{
		"usual": nil, "MTU 1500": {"-m", "1500"}, "several queues": {"--queues", "3"},
		"tiny rings": {"--vhost-tuning", "receive=64,transmit=4,buffer=2048"},
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, append([]string{"--vhost", "on"}, args...)...)
			bothFamilies(t, func(t *testing.T, f family) {
				const size = 4 << 20
				down, up := serve(t, r.Inet, f.far, source(size)), serve(t, r.Inet, f.far, sink(size))
				parallel(t, 4, func(i int) error {
					if i%2 == 0 {
						return download(r.Guest, f.far, down, size)
					}
					return upload(r.Guest, f.far, up, size)
				})
			})
			c := r.now()
			calls, frames := c.Calls.LinkRead+c.Calls.LinkWrite, c.RxFrames+c.TxFrames
			t.Logf("%d system calls for %d frames, %d descriptors, %d segments sent again", calls, frames, c.Rings.Descriptors, c.TCP.Retransmits)
			if inRings := c.TxFrames - c.Rings.Past; inRings == 0 || c.Rings.Descriptors < inRings || c.Rings.Descriptors > 2*inRings {
				t.Errorf("%d descriptors for %d frames in rings: not by rings, or not one or two for each", c.Rings.Descriptors, inRings)
			}
			if c.Rings.Rebuilds != 0 {
				t.Errorf("%d rebuilds", c.Rings.Rebuilds)
			}
		})
	}
}
