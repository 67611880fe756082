// Package linux6_12_test runs tests on the kernel of bookworm-security, and what needs netem.
package linux6_12_test

import (
	"os"
	"testing"

	"github.com/vasta-net/vasta/internal/lab/machine"
	"github.com/vasta-net/vasta/test/guest"
)

func TestMain(m *testing.M) {
	if machine.GuestMain() {
		return
	}
	os.Exit(m.Run())
}

func TestKernel(t *testing.T) {
	guest.Run(t, "6.12", []guest.Suite{
		{Package: "link/tap", Run: "."},
		{Package: "vhost/kernel", Run: "."},
		{Package: "link/vhostnet", Run: "^(TestKernelGivesUp|TestReconfigured)$"},
		{Package: "test/e2e", Run: "^TestVHost$/^(several_queues|tiny_rings)$"},
		{Package: "netns", Run: "^(TestCreateConfiguresNetwork|TestResolvConf|TestCommandSeesOnlyItsOwn|TestAttachPaths|TestStageKilled)$"},
		{Package: "internal/lab", Run: "^(TestImpairments|TestBottleneck|TestQdiscs)$"},
		{Package: "test/e2e", Run: "^TestNetem$"},
	})
}
