package dhcp

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/vasta-net/vasta/stats"
)

var (
	clientMAC = MAC{0x52, 0x54, 0, 0x12, 0x34, 0x56}
	addr4     = netip.MustParsePrefix("10.0.2.15/24")
	router4   = netip.MustParseAddr("10.0.2.2")
	names4    = Names{
		DNS: []netip.Addr{netip.MustParseAddr("10.0.2.3")}, Search: []string{"example.org", "corp.example.net."},
		Host: "box", FQDN: "box.example.org",
	}
	config4 = Config4{Server: router4, Addr: addr4, Router: router4, MTU: 65520, Names: names4}
)

func mustNew4(t testing.TB, c Config4) *Server4 {
	t.Helper()
	s, err := New4(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// request makes a message by the library's encoder, with changes.
func request(t testing.TB, kind dhcpv4.MessageType, change ...func(*dhcpv4.DHCPv4)) []byte {
	t.Helper()
	m, err := dhcpv4.New(dhcpv4.WithHwAddr(clientMAC[:]))
	if err != nil {
		t.Fatal(err)
	}
	if kind != dhcpv4.MessageTypeNone {
		m.UpdateOption(dhcpv4.OptMessageType(kind))
	}
	for _, f := range change {
		f(m)
	}
	return m.ToBytes()
}

func option(o dhcpv4.Option) func(*dhcpv4.DHCPv4) {
	return func(m *dhcpv4.DHCPv4) { m.UpdateOption(o) }
}

// decode4 reads an answer with another decoder than the one that made it.
func decode4(t *testing.T, b []byte) (*layers.DHCPv4, map[layers.DHCPOpt]string) {
	t.Helper()
	var m layers.DHCPv4
	if err := m.DecodeFromBytes(b, gopacket.NilDecodeFeedback); err != nil {
		t.Fatalf("the answer %x does not decode: %v", b, err)
	}
	options := map[layers.DHCPOpt]string{}
	for _, o := range m.Options {
		if o.Type != layers.DHCPOptEnd && o.Type != layers.DHCPOptPad {
			options[o.Type] += hex.EncodeToString(o.Data)
		}
	}
	return &m, options
}

// TestAnswer4 checks what is answered, and to whom.
func TestAnswer4(t *testing.T) {
	us, them := router4.AsSlice(), net.IP{10, 0, 2, 99}
	own := addr4.Addr().AsSlice()
	asked := option(dhcpv4.OptRequestedIPAddress(own))
	renewing := func(m *dhcpv4.DHCPv4) { m.ClientIPAddr = own }
	for _, tc := range []struct {
		name   string
		kind   dhcpv4.MessageType
		change []func(*dhcpv4.DHCPv4)
		want   string // type, yiaddr, destination
	}{
		{"discover", dhcpv4.MessageTypeDiscover, nil, "02 10.0.2.15 10.0.2.15"},
		{"discover, broadcast", dhcpv4.MessageTypeDiscover, []func(*dhcpv4.DHCPv4){(*dhcpv4.DHCPv4).SetBroadcast}, "02 10.0.2.15 255.255.255.255"},
		{"discover with another address", dhcpv4.MessageTypeDiscover, []func(*dhcpv4.DHCPv4){option(dhcpv4.OptRequestedIPAddress(them))}, "02 10.0.2.15 10.0.2.15"},
		{"rapid commit", dhcpv4.MessageTypeDiscover, []func(*dhcpv4.DHCPv4){option(dhcpv4.OptGeneric(dhcpv4.OptionRapidCommit, nil))}, "05 10.0.2.15 10.0.2.15"},
		{"selecting", dhcpv4.MessageTypeRequest, []func(*dhcpv4.DHCPv4){asked, option(dhcpv4.OptServerIdentifier(us))}, "05 10.0.2.15 10.0.2.15"},
		{"selecting another server", dhcpv4.MessageTypeRequest, []func(*dhcpv4.DHCPv4){asked, option(dhcpv4.OptServerIdentifier(them))}, ""},
		{"rebooting", dhcpv4.MessageTypeRequest, []func(*dhcpv4.DHCPv4){asked}, "05 10.0.2.15 10.0.2.15"},
		{"rebooting elsewhere", dhcpv4.MessageTypeRequest, []func(*dhcpv4.DHCPv4){option(dhcpv4.OptRequestedIPAddress(them))}, "06 0.0.0.0 255.255.255.255"},
		{"renewing", dhcpv4.MessageTypeRequest, []func(*dhcpv4.DHCPv4){renewing}, "05 10.0.2.15 10.0.2.15"},
		{"renewing, broadcast", dhcpv4.MessageTypeRequest, []func(*dhcpv4.DHCPv4){renewing, (*dhcpv4.DHCPv4).SetBroadcast}, "05 10.0.2.15 10.0.2.15"},
		{"renewing another address", dhcpv4.MessageTypeRequest, []func(*dhcpv4.DHCPv4){func(m *dhcpv4.DHCPv4) { m.ClientIPAddr = them }}, "06 0.0.0.0 255.255.255.255"},
		{"inform", dhcpv4.MessageTypeInform, []func(*dhcpv4.DHCPv4){func(m *dhcpv4.DHCPv4) { m.ClientIPAddr = them }}, "05 0.0.0.0 10.0.2.99"},
		{"decline", dhcpv4.MessageTypeDecline, []func(*dhcpv4.DHCPv4){asked}, ""},
		{"release", dhcpv4.MessageTypeRelease, []func(*dhcpv4.DHCPv4){renewing}, ""},
		{"an offer", dhcpv4.MessageTypeOffer, nil, ""},
		{"BOOTP", dhcpv4.MessageTypeNone, nil, " 10.0.2.15 10.0.2.15"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := mustNew4(t, config4)
			msg := request(t, tc.kind, tc.change...)
			a, r := s.Answer(clientMAC, msg)
			if r != stats.None {
				t.Fatal(r)
			}
			got := ""
			if a != nil {
				m, options := decode4(t, a.Payload)
				got = fmt.Sprint(options[layers.DHCPOptMessageType], " ", m.YourClientIP, " ", a.Dst)
				if m.Operation != layers.DHCPOpReply || m.Xid != be32(msg[4:]) || !bytes.Equal(m.ClientHWAddr, clientMAC[:]) || len(a.Payload) < 300 {
					t.Errorf("%d bytes: %+v", len(a.Payload), m)
				}
				if options[layers.DHCPOptServerID] != "0a000202" {
					t.Errorf("server %s", options[layers.DHCPOptServerID])
				}
				if (a.MAC == clientMAC) == (a.Dst == netip.AddrFrom4([4]byte{255, 255, 255, 255})) {
					t.Errorf("%v is at %x", a.Dst, a.MAC)
				}
				if nak, mask := strings.HasPrefix(got, "06"), options[layers.DHCPOptSubnetMask]; nak != (mask == "") {
					t.Errorf("mask %q", mask)
				}
			}
			if got != tc.want {
				t.Errorf("answer %q, want %q", got, tc.want)
			}
		})
	}
}

func be32(b []byte) uint32 {
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

// TestOptions4 checks what a client is told, byte for byte.
func TestOptions4(t *testing.T) {
	lease := func(n string) map[layers.DHCPOpt]string {
		return map[layers.DHCPOpt]string{layers.DHCPOptLeaseTime: n}
	}
	const (
		optSearch = layers.DHCPOptDomainSearch
		optFQDN   = layers.DHCPOpt(81)
		optRapid  = layers.DHCPOpt(80)
	)
	for _, tc := range []struct {
		name   string
		config func(*Config4)
		change []func(*dhcpv4.DHCPv4)
		want   map[layers.DHCPOpt]string // "-": not there
	}{
		{"plain", nil, nil, map[layers.DHCPOpt]string{
			layers.DHCPOptSubnetMask: "ffffff00", layers.DHCPOptRouter: "0a000202", layers.DHCPOptDNS: "0a000203",
			layers.DHCPOptHostname: hex.EncodeToString([]byte("box")), layers.DHCPOptInterfaceMTU: "fff0",
			layers.DHCPOptLeaseTime: "00000e10", layers.DHCPOptT1: "00000708", layers.DHCPOptT2: "00000c4e",
			optSearch:                          hex.EncodeToString([]byte("\x07example\x03org\x00\x04corp\x07example\x03net\x00")),
			layers.DHCPOptClasslessStaticRoute: "-", optRapid: "-",
		}},
		{"nothing to tell", func(c *Config4) { c.Names, c.MTU = Names{}, 0 }, nil, map[layers.DHCPOpt]string{
			layers.DHCPOptDNS: "-", layers.DHCPOptHostname: "-", layers.DHCPOptInterfaceMTU: "-", optSearch: "-",
		}},
		{"a router outside the subnet", func(c *Config4) { c.Addr = netip.MustParsePrefix("192.0.2.9/32") }, nil, map[layers.DHCPOpt]string{
			layers.DHCPOptSubnetMask: "ffffffff", layers.DHCPOptRouter: "0a000202",
			layers.DHCPOptClasslessStaticRoute: "200a00020200000000" + "000a000202",
		}},
		{"more routes", func(c *Config4) {
			c.Routes = []Route{
				{netip.MustParsePrefix("10.9.0.0/17"), netip.MustParseAddr("10.0.2.7")}, {netip.MustParsePrefix("172.16.3.1/12"), netip.Addr{}},
			}
		}, nil, map[layers.DHCPOpt]string{layers.DHCPOptClasslessStaticRoute: "110a09000a000207" + "0cac1000000000" + "000a000202"}},
		{"FQDN not asked for", nil, []func(*dhcpv4.DHCPv4){option(dhcpv4.OptParameterRequestList(dhcpv4.OptionRouter))}, map[layers.DHCPOpt]string{optFQDN: "-"}},
		{"FQDN", nil, []func(*dhcpv4.DHCPv4){option(dhcpv4.OptGeneric(dhcpv4.OptionFQDN, []byte{1, 0, 0, 'x'}))}, map[layers.DHCPOpt]string{
			optFQDN: "0cffff" + hex.EncodeToString([]byte("\x03box\x07example\x03org\x00")),
		}},
		{"FQDN asked for", nil, []func(*dhcpv4.DHCPv4){option(dhcpv4.OptParameterRequestList(dhcpv4.OptionFQDN))}, map[layers.DHCPOpt]string{
			optFQDN: "0cffff" + hex.EncodeToString([]byte("\x03box\x07example\x03org\x00")),
		}},
		{"rapid commit", nil, []func(*dhcpv4.DHCPv4){option(dhcpv4.OptGeneric(dhcpv4.OptionRapidCommit, nil))}, map[layers.DHCPOpt]string{optRapid: ""}},
		{"a short lease", nil, []func(*dhcpv4.DHCPv4){option(dhcpv4.OptIPAddressLeaseTime(time.Second))}, lease("0000003c")},
		{"a lease of ten minutes", nil, []func(*dhcpv4.DHCPv4){option(dhcpv4.OptIPAddressLeaseTime(10 * time.Minute))}, lease("00000258")},
		{"a lease for ever", nil, []func(*dhcpv4.DHCPv4){option(dhcpv4.OptIPAddressLeaseTime(0xffffffff * time.Second))}, lease("00015180")},
		{"an identifier of the client", nil, []func(*dhcpv4.DHCPv4){option(dhcpv4.OptClientIdentifier([]byte{1, 2, 3}))}, map[layers.DHCPOpt]string{
			layers.DHCPOptClientID: "010203", // RFC 6842
		}},
		{"inform", nil, []func(*dhcpv4.DHCPv4){option(dhcpv4.OptMessageType(dhcpv4.MessageTypeInform)), func(m *dhcpv4.DHCPv4) { m.ClientIPAddr = addr4.Addr().AsSlice() }},
			map[layers.DHCPOpt]string{layers.DHCPOptLeaseTime: "-", layers.DHCPOptT1: "-", layers.DHCPOptDNS: "0a000203"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := config4
			if tc.config != nil {
				tc.config(&c)
			}
			a, r := mustNew4(t, c).Answer(clientMAC, request(t, dhcpv4.MessageTypeDiscover, tc.change...))
			if a == nil {
				t.Fatal(r)
			}
			_, options := decode4(t, a.Payload)
			got := map[layers.DHCPOpt]string{}
			for code := range tc.want {
				v, ok := options[code]
				if !ok {
					v = "-"
				}
				got[code] = v
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestFits4 checks that an answer is no longer than the client takes, and says the most important.
func TestFits4(t *testing.T) {
	c := config4
	for i := range 30 {
		c.Names.Search = append(c.Names.Search, fmt.Sprintf("%s%d.example", strings.Repeat("x", 40), i))
		c.Routes = append(c.Routes, Route{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 1, byte(i), 0}), 24), router4})
	}
	for size, search := range map[int]bool{0: false, 400: false, 1000: false, 1500: false, 65535: false} {
		var change []func(*dhcpv4.DHCPv4)
		if size > 0 {
			change = append(change, option(dhcpv4.OptMaxMessageSize(uint16(size))))
		}
		a, r := mustNew4(t, c).Answer(clientMAC, request(t, dhcpv4.MessageTypeDiscover, change...))
		if a == nil {
			t.Fatal(r)
		}
		_, options := decode4(t, a.Payload)
		_, found := options[layers.DHCPOptDomainSearch]
		limit := min(max(size, 576), 1500) - 28
		if len(a.Payload) > limit || found != search || options[layers.DHCPOptRouter] == "" {
			t.Errorf("with %d bytes at most there are %d, search list %v: %v", limit, len(a.Payload), found, options)
		}
	}
	c.Names.Search = c.Names.Search[:8] // more than 255 bytes: RFC 3396
	a, _ := mustNew4(t, c).Answer(clientMAC, request(t, dhcpv4.MessageTypeDiscover, option(dhcpv4.OptMaxMessageSize(1500))))
	m, err := dhcpv4.FromBytes(a.Payload)
	if err != nil || len(m.DomainSearch().Labels) != 8 {
		t.Errorf("a long search list: %v, %v", m.DomainSearch(), err)
	}
}

// TestBad4 checks that what is no client's message is refused.
func TestBad4(t *testing.T) {
	s := mustNew4(t, config4)
	good := request(t, dhcpv4.MessageTypeDiscover)
	for name, change := range map[string]func([]byte) []byte{
		"empty":              func([]byte) []byte { return nil },
		"short":              func(b []byte) []byte { return b[:239] },
		"a reply":            func(b []byte) []byte { b[0] = 2; return b },
		"hardware":           func(b []byte) []byte { b[1] = 6; return b },
		"length of address":  func(b []byte) []byte { b[2] = 16; return b },
		"another's address":  func(b []byte) []byte { b[28] ^= 2; return b },
		"relayed":            func(b []byte) []byte { b[24] = 10; return b },
		"cookie":             func(b []byte) []byte { b[236] ^= 1; return b },
		"option beyond end":  func(b []byte) []byte { return append(b[:240], 53, 200, 1) },
		"no end":             func(b []byte) []byte { return append(b[:240], 53, 1, 1) },
		"too long":           func(b []byte) []byte { return append(b, make([]byte, 1500)...) },
		"answer to a group":  func(b []byte) []byte { b[12] = 224; return b },
		"answer to loopback": func(b []byte) []byte { b[12] = 127; return b },
	} {
		if a, r := s.Answer(clientMAC, change(slices.Clone(good))); a != nil || r != stats.BadDHCP {
			t.Errorf("%s: %v, %v", name, a, r)
		}
	}
}

func TestNew4Refuses(t *testing.T) {
	six := netip.MustParseAddr("2001:db8::1")
	for name, change := range map[string]func(*Config4){
		"server":   func(c *Config4) { c.Server = six },
		"router":   func(c *Config4) { c.Router = netip.Addr{} },
		"address":  func(c *Config4) { c.Addr = netip.PrefixFrom(six, 64) },
		"resolver": func(c *Config4) { c.Names.DNS = []netip.Addr{six} },
		"route":    func(c *Config4) { c.Routes = []Route{{Dst: netip.PrefixFrom(six, 64)}} },
		"search":   func(c *Config4) { c.Names.Search = []string{"a..b"} },
		"host":     func(c *Config4) { c.Names.Host = "a.b" },
		"FQDN":     func(c *Config4) { c.Names.FQDN = strings.Repeat("a", 64) + ".b" },
	} {
		c := config4
		change(&c)
		if _, err := New4(c); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want one line", name, err)
		}
	}
}

// FuzzAnswer4: whatever a guest sends, the answer is one that a client can read, and offers nothing but the guest's address.
func FuzzAnswer4(f *testing.F) {
	for _, kind := range []dhcpv4.MessageType{dhcpv4.MessageTypeDiscover, dhcpv4.MessageTypeRequest, dhcpv4.MessageTypeInform} {
		f.Add(request(f, kind))
		f.Add(request(f, kind, option(dhcpv4.OptParameterRequestList(dhcpv4.OptionFQDN, dhcpv4.OptionDNSDomainSearchList))))
	}
	f.Fuzz(func(t *testing.T, msg []byte) {
		a, r := mustNew4(t, config4).Answer(clientMAC, msg)
		if a == nil {
			return
		}
		if r != stats.None || len(a.Payload) > MaxMessage || !a.Dst.Is4() {
			t.Fatalf("%v, %d bytes to %v", r, len(a.Payload), a.Dst)
		}
		m, err := dhcpv4.FromBytes(a.Payload)
		if err != nil {
			t.Fatal(err)
		}
		if y := m.YourIPAddr; !y.Equal(net.IPv4zero) && !y.Equal(addr4.Addr().AsSlice()) {
			t.Fatalf("offers %v", y)
		}
	})
}
