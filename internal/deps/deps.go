// Package deps pins, until the first packages import them, the libraries named in docs/dependencies.md.
package deps

import (
	_ "github.com/google/go-cmp/cmp"
	_ "github.com/gopacket/gopacket/pcapgo"
	_ "github.com/mdlayher/ndp"
	_ "github.com/moby/sys/capability"
	_ "github.com/rogpeppe/go-internal/testscript"
	_ "github.com/vishvananda/netlink"
	_ "golang.org/x/net/bpf"
	_ "golang.org/x/net/dns/dnsmessage"
	_ "golang.org/x/sys/unix"
	_ "gvisor.dev/gvisor/pkg/tcpip/checksum"
	_ "gvisor.dev/gvisor/pkg/tcpip/header"
	_ "pgregory.net/rapid"
)
