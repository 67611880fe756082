package app

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/vasta-net/vasta/flow/forward"
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
	p, err := planFromHost(&demo)
	if err != nil {
		return exitFailure, err
	}
	family := forward.V4
	if !p.mapping.Loopback[family].IsValid() {
		family = forward.V6
	}
	gateway := p.mapping.Loopback[family]
	if !gateway.IsValid() {
		return exitFailure, errors.New("demo: its server is on the host's loopback, which the options close: leave out --no-map-gw or --map-host-loopback none")
	}
	if gateway.IsLinkLocalUnicast() && gateway.Is6() {
		gateway = gateway.WithZone(p.inside.IfName)
	}
	server, err := serveDemo(loopbacks[family])
	if err != nil {
		return exitFailure, err
	}
	defer func() { err = errors.Join(err, server.close()) }()
	return run(&demo, p, []string{self}, append(os.Environ(), demoEnv+"="+netip.AddrPortFrom(gateway, server.port()).String()))
}
