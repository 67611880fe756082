package dhcp

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
	"github.com/vasta-net/vasta/stats"
)

var (
	addr6   = netip.MustParseAddr("2001:db8:1::15")
	config6 = Config6{MAC: MAC{0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55}, Addr: addr6, Names: Names{
		DNS: []netip.Addr{netip.MustParseAddr("2001:db8:1::3")}, Search: []string{"example.org", "example.net"}, FQDN: "box.example.org",
	}}
	clientID = dhcpv6.OptClientID(&dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: clientMAC[:]})
	ourID    = dhcpv6.OptServerID(&dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: config6.MAC[:]})
	theirID  = dhcpv6.OptServerID(&dhcpv6.DUIDOpaque{Type: 9, Data: []byte{1}})
)

func mustNew6(t testing.TB, c Config6) *Server6 {
	t.Helper()
	s, err := New6(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// association is one with addresses.
func association(id byte, addrs ...string) dhcpv6.Option {
	ia := &dhcpv6.OptIANA{IaId: [4]byte{id}}
	for _, a := range addrs {
		ia.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: netip.MustParseAddr(a).AsSlice()})
	}
	return ia
}

func message6(kind dhcpv6.MessageType, options ...dhcpv6.Option) []byte {
	m := &dhcpv6.Message{MessageType: kind, TransactionID: dhcpv6.TransactionID{1, 2, 3}}
	for _, o := range options {
		m.AddOption(o)
	}
	return m.ToBytes()
}

// summary says what an answer holds.
func summary(t *testing.T, b []byte) string {
	t.Helper()
	if b == nil {
		return ""
	}
	m, err := dhcpv6.MessageFromBytes(b)
	if err != nil {
		t.Fatalf("the answer %x does not decode: %v", b, err)
	}
	if m.TransactionID != (dhcpv6.TransactionID{1, 2, 3}) || !m.Options.ServerID().Equal(mustNew6(t, config6).id) {
		t.Errorf("not an answer of this server to this client: %v", m.Summary())
	}
	out := []string{m.MessageType.String()}
	for _, o := range m.Options.Options {
		switch o := o.(type) {
		case *dhcpv6.OptIANA:
			s := fmt.Sprintf("IA%d", o.IaId[0])
			for _, a := range o.Options.Addresses() {
				s += fmt.Sprintf(" %v/%v", a.IPv6Addr, a.ValidLifetime)
			}
			if st := o.Options.Status(); st != nil {
				s += " " + st.StatusCode.String()
			}
			out = append(out, s)
		case *dhcpv6.OptIATA:
			out = append(out, "TA "+o.Options.Status().StatusCode.String())
		case *dhcpv6.OptIAPD:
			out = append(out, "PD "+o.Options.Status().StatusCode.String())
		case *dhcpv6.OptStatusCode:
			out = append(out, o.StatusCode.String())
		case *dhcpv6.OptFQDN:
			out = append(out, fmt.Sprint("FQDN ", o.DomainName))
		}
	}
	if d := m.Options.DNS(); d != nil {
		out = append(out, fmt.Sprint("DNS ", d, " ", m.Options.DomainSearchList()))
	}
	if m.GetOneOption(dhcpv6.OptionRapidCommit) != nil {
		out = append(out, "rapid")
	}
	if n := m.Options.InformationRefreshTime(0); n != 0 {
		out = append(out, "again "+n.String())
	}
	return strings.Join(out, ", ")
}

// TestAnswer6 checks what is answered to each kind of message (RFC 8415, 18.3).
func TestAnswer6(t *testing.T) {
	const told = "DNS [2001:db8:1::3] [example.org example.net]"
	const assigned = "IA1 2001:db8:1::15/1h0m0s, FQDN [box.example.org], " + told
	rapid := &dhcpv6.OptionGeneric{OptionCode: dhcpv6.OptionRapidCommit}
	fqdn := &dhcpv6.OptFQDN{DomainName: labels("x")}
	one := association(1)
	none := func(c *Config6) { c.Addr = netip.Addr{} }
	for _, tc := range []struct {
		name   string
		config func(*Config6)
		direct bool
		msg    []byte
		want   string
	}{
		{"solicit", nil, false, message6(dhcpv6.MessageTypeSolicit, clientID, one, fqdn), "ADVERTISE, " + assigned},
		{"rapid commit", nil, false, message6(dhcpv6.MessageTypeSolicit, clientID, one, fqdn, rapid), "REPLY, " + assigned + ", rapid"},
		{"no name asked for", nil, false, message6(dhcpv6.MessageTypeSolicit, clientID, one), "ADVERTISE, IA1 2001:db8:1::15/1h0m0s, " + told},
		{"request", nil, false, message6(dhcpv6.MessageTypeRequest, clientID, ourID, one, fqdn), "REPLY, " + assigned},
		{"request to another", nil, false, message6(dhcpv6.MessageTypeRequest, clientID, theirID, one), ""},
		{"two associations, temporary, and a prefix", nil, false,
			message6(dhcpv6.MessageTypeSolicit, clientID, one, association(2), &dhcpv6.OptIATA{}, &dhcpv6.OptIAPD{}),
			"ADVERTISE, IA1 2001:db8:1::15/1h0m0s, IA2 NoAddrsAvail, TA NoAddrsAvail, PD NoPrefixAvail, " + told},
		{"without addresses", none, false, message6(dhcpv6.MessageTypeSolicit, clientID, one), "ADVERTISE, IA1 NoAddrsAvail, " + told},
		{"renew", nil, false, message6(dhcpv6.MessageTypeRenew, clientID, ourID, association(1, addr6.String()), fqdn), "REPLY, " + assigned},
		{"renew after the host has moved", nil, false, message6(dhcpv6.MessageTypeRenew, clientID, ourID, association(1, "2001:db8:9::9")),
			"REPLY, IA1 2001:db8:1::15/1h0m0s 2001:db8:9::9/0s, " + told},
		{"rebind", nil, false, message6(dhcpv6.MessageTypeRebind, clientID, association(1, addr6.String()), fqdn), "REPLY, " + assigned},
		{"confirm", nil, false, message6(dhcpv6.MessageTypeConfirm, clientID, association(1, addr6.String())), "REPLY, Success"},
		{"confirm elsewhere", nil, false, message6(dhcpv6.MessageTypeConfirm, clientID, association(1, "2001:db8:9::9")), "REPLY, NotOnLink"},
		{"confirm nothing", nil, false, message6(dhcpv6.MessageTypeConfirm, clientID, one), ""},
		{"release", nil, false, message6(dhcpv6.MessageTypeRelease, clientID, ourID, association(1, addr6.String())), "REPLY, Success"},
		{"decline", nil, false, message6(dhcpv6.MessageTypeDecline, clientID, ourID, association(1, addr6.String())), "REPLY, Success"},
		{"information", nil, false, message6(dhcpv6.MessageTypeInformationRequest, clientID), "REPLY, " + told + ", again 1h0m0s"},
		{"information for nobody", nil, false, message6(dhcpv6.MessageTypeInformationRequest), "REPLY, " + told + ", again 1h0m0s"},
		{"renew in private", nil, true, message6(dhcpv6.MessageTypeRenew, clientID, ourID, one), "REPLY, UseMulticast"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := config6
			if tc.config != nil {
				tc.config(&c)
			}
			b, r := mustNew6(t, c).Answer(!tc.direct, tc.msg)
			if r != stats.None {
				t.Fatal(r)
			}
			if diff := cmp.Diff(tc.want, summary(t, b)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestBad6 checks that what RFC 8415, 16, has servers discard is discarded.
func TestBad6(t *testing.T) {
	one := association(1)
	for name, msg := range map[string][]byte{
		"empty":                     nil,
		"short":                     {1, 2, 3},
		"solicit without a client":  message6(dhcpv6.MessageTypeSolicit, one),
		"solicit to a server":       message6(dhcpv6.MessageTypeSolicit, clientID, ourID, one),
		"request without a client":  message6(dhcpv6.MessageTypeRequest, ourID, one),
		"request without a server":  message6(dhcpv6.MessageTypeRequest, clientID, one),
		"rebind to a server":        message6(dhcpv6.MessageTypeRebind, clientID, ourID, one),
		"confirm to a server":       message6(dhcpv6.MessageTypeConfirm, clientID, ourID, one),
		"information and addresses": message6(dhcpv6.MessageTypeInformationRequest, clientID, one),
		"advertise":                 message6(dhcpv6.MessageTypeAdvertise, clientID, ourID, one),
		"relayed":                   message6(dhcpv6.MessageTypeRelayForward, clientID),
		"option beyond the end":     append(message6(dhcpv6.MessageTypeSolicit, clientID, one), 0, 8, 0, 9, 1),
		"association cut short":     append(message6(dhcpv6.MessageTypeSolicit, clientID), 0, 3, 0, 4, 1, 2, 3, 4),
		"too long":                  append(message6(dhcpv6.MessageTypeSolicit, clientID), make([]byte, MaxMessage)...),
	} {
		if b, r := mustNew6(t, config6).Answer(true, msg); b != nil || r != stats.BadDHCP {
			t.Errorf("%s: %x, %v", name, b, r)
		}
	}
	if b, r := mustNew6(t, config6).Answer(false, message6(dhcpv6.MessageTypeSolicit, clientID, one)); b != nil || r != stats.BadDHCP {
		t.Errorf("solicit in private: %x, %v", b, r)
	}
}

func TestNew6Refuses(t *testing.T) {
	for name, change := range map[string]func(*Config6){
		"address":  func(c *Config6) { c.Addr = addr4.Addr() },
		"mapped":   func(c *Config6) { c.Addr = netip.AddrFrom16(addr4.Addr().As16()) },
		"resolver": func(c *Config6) { c.Names.DNS = []netip.Addr{router4} },
		"search":   func(c *Config6) { c.Names.Search = []string{"é.fr"} },
	} {
		c := config6
		change(&c)
		if _, err := New6(c); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want one line", name, err)
		}
	}
}

// FuzzAnswer6: whatever a guest sends, the answer is one that a client can read, and leases nothing but the guest's address.
func FuzzAnswer6(f *testing.F) {
	for _, kind := range []dhcpv6.MessageType{dhcpv6.MessageTypeSolicit, dhcpv6.MessageTypeConfirm, dhcpv6.MessageTypeRebind} {
		f.Add(true, message6(kind, clientID, association(1, addr6.String()), &dhcpv6.OptIAPD{}))
	}
	f.Add(false, message6(dhcpv6.MessageTypeRenew, clientID, ourID, association(1, "2001:db8:9::9")))
	f.Add(true, message6(dhcpv6.MessageTypeInformationRequest))
	f.Fuzz(func(t *testing.T, group bool, msg []byte) {
		msg = slices.Clone(msg)
		b, r := mustNew6(t, config6).Answer(group, msg)
		if b == nil {
			return
		}
		m, err := dhcpv6.MessageFromBytes(b)
		if err != nil || r != stats.None {
			t.Fatal(err, r)
		}
		for _, ia := range m.Options.IANA() {
			for _, a := range ia.Options.Addresses() {
				if a.ValidLifetime != 0 && !a.IPv6Addr.Equal(addr6.AsSlice()) {
					t.Fatalf("leases %v", a.IPv6Addr)
				}
			}
		}
	})
}
