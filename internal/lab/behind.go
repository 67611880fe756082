package lab

import (
	"fmt"
	"net/netip"
)

// Addresses of the namespace that is behind Host, and of Host on the link between them.
var (
	BehindAddr4 = netip.MustParsePrefix("203.0.113.130/25")
	BehindAddr6 = netip.MustParsePrefix("2001:db8:b::2/64")

	behindGateway4 = netip.MustParsePrefix("203.0.113.129/25")
	behindGateway6 = netip.MustParsePrefix("2001:db8:b::1/64")
)

// behindName is Host's end of the link to the namespace behind it. The other end is LinkName.
const behindName = "behind0"

// AddBehind adds the namespace Behind, on a veth of its own behind Host, whose kernel routes between it and Inet as it does for the
// containers of a privileged user. It is called once in a lab.
func (l *Lab) AddBehind() (*Namespace, error) {
	ns, err := newNamespace(l, "behind")
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	l.opened, l.behind = append(l.opened, ns), ns
	l.mu.Unlock()
	err = lay(end{l.Host, behindName, []netip.Prefix{behindGateway4, behindGateway6}}, end{ns, LinkName, []netip.Prefix{BehindAddr4, BehindAddr6}})
	if err == nil {
		err = ns.addRoutes(LinkName, everywhere, behindGateway4.Addr(), behindGateway6.Addr())
	}
	if err == nil {
		err = l.Inet.addRoutes(LinkName, []netip.Prefix{BehindAddr4.Masked(), BehindAddr6.Masked()}, HostAddr4.Addr(), HostAddr6.Addr())
	}
	if err == nil {
		err = l.Host.forward()
	}
	if err != nil {
		return nil, fmt.Errorf("lab: namespace behind host: %w", err)
	}
	return ns, nil
}
