package app

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/vasta-net/vasta"
	"github.com/vasta-net/vasta/internal/options"
)

// Demo runs vasta's main job on itself: a server in this process, on the host's loopback, and this program again in a
// namespace, where it fetches a file from the server and sends one back (see DemoInside). It returns what Run does.
func Demo(o *options.Options) (status int, err error) {
	self, err := os.Executable()
	if err != nil {
		return exitFailure, fmt.Errorf("demo: cannot find this program's file: %w (call vasta by its full path)", err)
	}
	demo := *o
	if demo.Log.Level == options.Normal {
		demo.Log.Level = options.Quiet // what the log says first, the demo says in its own words
	}
	var server *demoServer
	status, err = run(&demo, func(inside vasta.Inside) (argv, env []string, err error) {
		gateway, loopback := inside.HostLoopback.V4, netip.AddrFrom4([4]byte{127, 0, 0, 1})
		if !gateway.IsValid() {
			gateway, loopback = inside.HostLoopback.V6, netip.IPv6Loopback()
		}
		if !gateway.IsValid() {
			return nil, nil, errors.New("demo: its server is on the host's loopback, which the options close: leave out --no-map-gw or --map-host-loopback none")
		}
		if gateway.IsLinkLocalUnicast() && gateway.Is6() {
			gateway = gateway.WithZone(inside.IfName)
		}
		if server, err = serveDemo(loopback); err != nil {
			return nil, nil, err
		}
		return []string{self}, append(os.Environ(), demoEnv+"="+netip.AddrPortFrom(gateway, server.port()).String()), nil
	})
	if server != nil {
		err = errors.Join(err, server.close())
	}
	return status, err
}
