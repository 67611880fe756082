package gateway

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/mdlayher/ndp"
	"github.com/vasta-net/vasta/gateway/dhcp"
	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/stats"
)

// withDHCP switches both protocols on.
func withDHCP(c *Config) {
	c.DHCP4 = &dhcp.Config4{
		Server: gateway4, Router: gateway4, Addr: netip.PrefixFrom(guest4, 24), MTU: 1400,
		Names: dhcp.Names{DNS: []netip.Addr{mapped4}, Search: []string{"example.org"}, Host: "box", FQDN: "box.example.org"},
	}
	c.DHCP6 = &dhcp.Config6{
		MAC: ourMAC, Addr: guest6,
		Names: dhcp.Names{DNS: []netip.Addr{mapped6}, Search: []string{"example.org"}, FQDN: "box.example.org"},
	}
}

// discover and solicit are what clients begin with.
func discover(t testing.TB, dst netip.Addr) []byte {
	m, err := dhcpv4.NewDiscovery(hw(guestMAC))
	if err != nil {
		t.Fatal(err)
	}
	ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: netip.IPv4Unspecified().AsSlice(), DstIP: dst.AsSlice()}
	udp := &layers.UDP{SrcPort: dhcp.ClientPort4, DstPort: dhcp.ServerPort4}
	_ = udp.SetNetworkLayerForChecksum(ip)
	return build(t, &layers.Ethernet{SrcMAC: hw(guestMAC), DstMAC: hw(broadcast), EthernetType: layers.EthernetTypeIPv4}, ip, udp, gopacket.Payload(m.ToBytes()))
}

func solicit(t testing.TB, src, dst netip.Addr) []byte {
	m, err := dhcpv6.NewSolicit(hw(guestMAC))
	if err != nil {
		t.Fatal(err)
	}
	ip := &layers.IPv6{Version: 6, HopLimit: 1, NextHeader: layers.IPProtocolUDP, SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
	udp := &layers.UDP{SrcPort: dhcp.ClientPort6, DstPort: dhcp.ServerPort6}
	_ = udp.SetNetworkLayerForChecksum(ip)
	eth := &layers.Ethernet{SrcMAC: hw(guestMAC), DstMAC: hw(MAC{0x33, 0x33, 0, 1, 0, 2}), EthernetType: layers.EthernetTypeIPv6}
	return build(t, eth, ip, udp, gopacket.Payload(m.ToBytes()))
}

// TestDHCPFrames checks the frames around the messages with an independent decoder.
func TestDHCPFrames(t *testing.T) {
	for _, tc := range []struct {
		name     string
		frame    []byte
		from, to string
	}{
		{"DHCP", discover(t, limitedBroadcast), "10.0.2.2:67", "10.0.2.15:68"},
		{"DHCP to the server", discover(t, gateway4), "10.0.2.2:67", "10.0.2.15:68"},
		{"DHCPv6", solicit(t, guestLL, dhcp.Servers6), "[fe80::1]:547", "[fe80::15]:546"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var s stats.Worker
			c := testConfig(&s)
			withDHCP(&c)
			out, handled, _ := input(mustNew(t, c), tc.frame)
			if !handled || len(out) != 1 || dropped(t, &s) != stats.None {
				t.Fatalf("handled %v, %d answers, %v", handled, len(out), s.Drops)
			}
			var p packet.Packet // checks the checksums too
			if r := p.Parse(&packet.Frame{Bufs: [][]byte{out[0]}, Len: len(out[0])}); r != stats.None {
				t.Fatal(r)
			}
			from, to := netip.AddrPortFrom(p.Src, p.SrcPort).String(), netip.AddrPortFrom(p.Dst, p.DstPort).String()
			if from != tc.from || to != tc.to || p.DstMAC != guestMAC || p.SrcMAC != ourMAC {
				t.Errorf("%s to %s (%x)", from, to, p.DstMAC)
			}
		})
	}
}

// TestDHCPNotOurs checks that messages to other servers are left to the flows, as all are when the servers are off.
func TestDHCPNotOurs(t *testing.T) {
	on := testConfig(nil)
	withDHCP(&on)
	for name, tc := range map[string]struct {
		c     Config
		frame []byte
	}{
		"off":            {testConfig(nil), discover(t, limitedBroadcast)},
		"off, IPv6":      {testConfig(nil), solicit(t, guestLL, dhcp.Servers6)},
		"elsewhere":      {on, discover(t, other4)},
		"elsewhere, IP6": {on, solicit(t, guestLL, other6)},
	} {
		if out, handled, r := input(mustNew(t, tc.c), tc.frame); handled || len(out) > 0 || r != stats.None {
			t.Errorf("%s: handled %v, %d answers, %v", name, handled, len(out), r)
		}
	}
}

// TestDHCPBad checks that bad messages are counted, each alone.
func TestDHCPBad(t *testing.T) {
	for name, tc := range map[string]struct {
		frame []byte
		want  stats.Reason
	}{
		"DHCP of 1472 zeros": {discoverWith(t, make([]byte, 1472)), stats.BadDHCP},
		"DHCP of 9000 zeros": {discoverWith(t, make([]byte, 9000)), stats.BadDHCP},
		"DHCPv6 from nobody": {solicit(t, netip.IPv6Unspecified(), dhcp.Servers6), stats.BadSource},
	} {
		var s stats.Worker
		c := testConfig(&s)
		withDHCP(&c)
		g := mustNew(t, c)
		if out, handled, _ := input(g, tc.frame); !handled || len(out) > 0 || dropped(t, &s) != tc.want {
			t.Errorf("%s: handled %v, %d answers, %v", name, handled, len(out), s.Drops)
		}
		if out, _, _ := input(g, discover(t, limitedBroadcast)); len(out) != 1 {
			t.Errorf("%s: the next message has %d answers", name, len(out))
		}
	}
}

func discoverWith(t testing.TB, payload []byte) []byte {
	ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: netip.IPv4Unspecified().AsSlice(), DstIP: limitedBroadcast.AsSlice()}
	udp := &layers.UDP{SrcPort: dhcp.ClientPort4, DstPort: dhcp.ServerPort4}
	_ = udp.SetNetworkLayerForChecksum(ip)
	return build(t, &layers.Ethernet{SrcMAC: hw(guestMAC), DstMAC: hw(broadcast), EthernetType: layers.EthernetTypeIPv4}, ip, udp, gopacket.Payload(payload))
}

// TestRouterFlags checks that advertisements say of DHCPv6 what there is (RFC 4861, 4.2).
func TestRouterFlags(t *testing.T) {
	for _, tc := range []struct {
		name  string
		dhcp6 *dhcp.Config6
		flags byte
	}{
		{"none", nil, 0},
		{"stateless", &dhcp.Config6{MAC: ourMAC}, 0x40},
		{"addresses", &dhcp.Config6{MAC: ourMAC, Addr: guest6}, 0xc0},
	} {
		c := testConfig(nil)
		c.DHCP6 = tc.dhcp6
		mustNew(t, c).Advertise(func(frame []byte) {
			if flags := frame[packet.EtherLen+packet.IPv6Len+5]; flags != tc.flags {
				t.Errorf("%s: flags %#x, want %#x", tc.name, flags, tc.flags)
			}
		})
	}
}

// TestFormerPrefix checks that a prefix that the guest is to leave is advertised so (RFC 4862, 5.5.3).
func TestFormerPrefix(t *testing.T) {
	c := testConfig(nil)
	c.Former = []netip.Addr{netip.MustParseAddr("2001:db8:9::15"), guest6, guest4}
	var got []string
	mustNew(t, c).Advertise(func(frame []byte) {
		m, err := ndp.ParseMessage(frame[packet.EtherLen+packet.IPv6Len:])
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range m.(*ndp.RouterAdvertisement).Options {
			if p, ok := o.(*ndp.PrefixInformation); ok {
				got = append(got, fmt.Sprintf("%v %v", p.Prefix, p.PreferredLifetime != 0))
			}
		}
	})
	if want := []string{"2001:db8:1:: true", "2001:db8:9:: false"}; !slices.Equal(got, want) {
		t.Errorf("prefixes %v, want %v", got, want)
	}
}

// TestUpdate checks that a new configuration holds from the next message on, and that a bad one changes nothing.
func TestUpdate(t *testing.T) {
	c := testConfig(nil)
	withDHCP(&c)
	g := mustNew(t, c)
	g.Seen(guestMAC)
	next := c
	next.DHCP4 = &dhcp.Config4{Server: gateway4, Router: gateway4, Addr: netip.PrefixFrom(other4, 24)}
	bad := next
	bad.MAC = MAC{}
	for _, step := range []struct {
		c    Config
		fail bool
		want netip.Addr
	}{{bad, true, guest4}, {next, false, other4}, {bad, true, other4}} {
		if err := g.Update(step.c); (err != nil) != step.fail {
			t.Fatal(err)
		}
		out, _, _ := input(g, discover(t, limitedBroadcast))
		if len(out) != 1 || !bytes.Contains(out[0], step.want.AsSlice()) || g.GuestMAC() != guestMAC {
			t.Errorf("%v is not offered in %x", step.want, out)
		}
	}
}

// TestDHCPClients has the clients of Debian configure themselves.
func TestDHCPClients(t *testing.T) {
	k := newKernelGuest(t, withDHCP)
	k.do(t, "set the link up", k.up())
	for _, tc := range []struct {
		name string
		argv []string
		want []string
	}{
		{"udhcpc", []string{"busybox", "udhcpc", "-f", "-n", "-q", "-i", "guest0", "-O", "search", "-O", "mtu", "-s", "SCRIPT"},
			[]string{"ip=10.0.2.15", "subnet=255.255.255.0", "router=10.0.2.2", "dns=10.0.2.3", "search=example.org", "mtu=1400", "hostname=box", "lease=3600"}},
		{"dhclient", []string{"dhclient", "-1", "-d", "-4", "-cf", "CONFIG", "-lf", "LEASES", "-pf", "PID", "-sf", "SCRIPT", "guest0"},
			[]string{"new_ip_address=10.0.2.15", "new_routers=10.0.2.2", "new_domain_name_servers=10.0.2.3", "new_domain_search=example.org.", "new_interface_mtu=1400"}},
		{"dhclient -6", []string{"dhclient", "-1", "-d", "-6", "-cf", "CONFIG", "-lf", "LEASES", "-pf", "PID", "-sf", "SCRIPT", "guest0"},
			[]string{"new_ip6_address=2001:db8:1::15", "new_dhcp6_name_servers=2001:db8:1::2", "new_dhcp6_domain_search=example.org."}},
		{"dhclient -6 -S", []string{"dhclient", "-1", "-d", "-6", "-S", "-cf", "CONFIG", "-lf", "LEASES", "-pf", "PID", "-sf", "SCRIPT", "guest0"},
			[]string{"new_dhcp6_name_servers=2001:db8:1::2"}},
	} {
		t.Log(tc.name) // no t.Run: another goroutine would be in another namespace
		k.client(t, tc.argv, tc.want)
	}
}

// client runs a DHCP client in the guest until it has called its script with everything that is wanted.
func (k *kernelGuest) client(t *testing.T, argv, want []string) {
	dir := t.TempDir()
	if strings.HasPrefix(argv[0], "dhclient") {
		eventually(t, "a link-local address that may be used", func() (bool, error) {
			flags, found, err := k.linkLocalFlags()
			return found && flags&tentative == 0, err
		})
	}
	env := filepath.Join(dir, "env")
	for name, content := range map[string]string{
		"SCRIPT": "#!/bin/sh\nenv >>" + env + "\n", "CONFIG": "timeout 10;\nrequest subnet-mask, routers, domain-name-servers, domain-search, interface-mtu, dhcp6.name-servers, dhcp6.domain-search;\n",
		"LEASES": "", "PID": "",
	} {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
		for i := range argv {
			if argv[i] == name {
				argv[i] = file
			}
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil { // in the network namespace of this thread
		t.Fatalf("%v; the tests need busybox and isc-dhcp-client", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	defer func() { cancel(); <-ended }()
	var got []byte
	for deadline := time.Now().Add(15 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		got, _ = os.ReadFile(env) // it is there when the script has run
		missing := ""
		for _, w := range want {
			if !strings.Contains(string(got), w+"\n") {
				missing = w
			}
		}
		if missing == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("no %q in what the client was told:\n%s\n%s", missing, got, &out)
		}
	}
}
