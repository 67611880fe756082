// Package linux6_1_test runs tests on Debian 12's kernel, which is older than UDP segmentation on TAP devices (6.2).
package linux6_1_test

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
	guest.Run(t, "6.1", []guest.Suite{
		{Package: "link/tap", Run: "."},
		{Package: "vhost/kernel", Run: "."},
		{Package: "link/vhostnet", Run: "^TestKernelGivesUp$"},
		{Package: "test/e2e", Run: "^TestVHost$/^(usual|MTU_1500)$"},
		{Package: "hostsock", Run: "."},
		{Package: "netns", Run: "^(TestCreateConfiguresNetwork|TestResolvConf|TestCommandSeesOnlyItsOwn|TestAttachPaths|TestStageKilled)$"},
		{Package: "test/e2e", Run: "^(TestCurl|TestReset|TestUDP|TestUDPSegmentation|TestPing)$"},
		{Package: "test/e2e", Run: "^TestNetem$/^host_leg$/^1%_duplicate$"},
	})
}
