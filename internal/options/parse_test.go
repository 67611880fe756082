package options

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vasta-net/vasta/flow/policy"
)

// plain makes cmp look at addresses by their text.
var plain = cmp.Options{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
}

func TestParse(t *testing.T) {
	addr := netip.MustParseAddr
	for _, test := range []struct {
		line string
		want func(o *Options)
	}{
		{"", func(o *Options) {}},
		{"-- ls -l", func(o *Options) { o.Args = []string{"ls", "-l"} }},
		{"ls -q -- x", func(o *Options) { o.Args = []string{"ls", "-q", "--", "x"} }},
		{"-q ls", func(o *Options) { o.Log.Level = Quiet; o.Args = []string{"ls"} }},
		{"-q -d --trace", func(o *Options) { o.Log.Level = Trace }},
		{"--trace -q", func(o *Options) { o.Log.Level = Quiet }},
		{"-- attach 1", func(o *Options) { o.Args = []string{"attach", "1"} }},
		{"-m -- attach", nil},
		{"-p -- attach 7", func(o *Options) { o.Pcap = "--"; o.Command = Attach; o.Target.PID = 7 }},
		{"attach 12 -q --ready-fd 5", func(o *Options) {
			o.Command, o.Target.PID, o.Log.Level, o.ReadyFD = Attach, 12, Quiet, 5
		}},
		{"-q attach -- 12", func(o *Options) { o.Command, o.Target.PID, o.Log.Level = Attach, 12, Quiet }},
		{"attach --netns /run/x --userns /run/y", func(o *Options) {
			o.Command, o.Target = Attach, Target{NetNS: "/run/x", UserNS: "/run/y"}
		}},
		{"attach --netns blue", func(o *Options) { o.Command, o.Target = Attach, Target{NetNS: "/run/netns/blue"} }},
		{"doctor --json", func(o *Options) { o.Command, o.JSON = Doctor, true }},
		{"bench net --quick -- x", func(o *Options) { o.Command, o.Args = Bench, []string{"net", "--quick", "--", "x"} }},
		{"pktgen -i eth0 -t 4", func(o *Options) { o.Command, o.Args = Pktgen, []string{"-i", "eth0", "-t", "4"} }},
		{"demo -m 1500", func(o *Options) { o.Command, o.Guest.MTU = Demo, 1500 }},
		{"version", func(o *Options) { o.Command = Version }},
		{"help", func(o *Options) { o.Command = Help }},
		{"-q --version --nonsense", func(o *Options) { o.Command, o.Log.Level = Version, Quiet }},
		{"attach 1 -h 2 3", func(o *Options) { o.Command = Help }},
		{"-m 0 -4", func(o *Options) { o.Guest.MTU, o.Guest.IPv6 = 1500, false }},
		{"-m host", func(o *Options) { o.Guest.MTU = HostMTU }},
		{"-m 576 -4", func(o *Options) { o.Guest.MTU, o.Guest.IPv6 = 576, false }},
		{"-6 -6", func(o *Options) { o.Guest.IPv4 = false }},
		{"-a 10.0.2.100 -n 24 -g 10.0.2.2", func(o *Options) {
			o.Guest.Address4, o.Guest.PrefixLen4 = netip.MustParsePrefix("10.0.2.100/24"), 24
			o.Guest.Gateway.V4 = addr("10.0.2.2")
		}},
		{"-a 10.0.2.100/16 -a fd00::1 -a fd00::2/48 -g fe80::1", func(o *Options) {
			o.Guest.Address4, o.Guest.Address6 = netip.MustParsePrefix("10.0.2.100/16"), netip.MustParsePrefix("fd00::2/48")
			o.Guest.Gateway.V6 = addr("fe80::1")
		}},
		{"-a 10.9.9.9", func(o *Options) { o.Guest.Address4 = netip.MustParsePrefix("10.9.9.9/8") }},
		{"-a 172.16.0.9", func(o *Options) { o.Guest.Address4 = netip.MustParsePrefix("172.16.0.9/16") }},
		{"-a 192.0.2.9", func(o *Options) { o.Guest.Address4 = netip.MustParsePrefix("192.0.2.9/24") }},
		{"-a fd00::1", func(o *Options) { o.Guest.Address6 = netip.MustParsePrefix("fd00::1/64") }},
		{"-n 255.255.240.0", func(o *Options) { o.Guest.PrefixLen4 = 20 }},
		{"-M 02:00:00:00:00:01 --ns-mac-addr 02-00-00-00-00-02 -I eth7 -i wlan0", func(o *Options) {
			o.Guest.GatewayMAC, o.Guest.MAC = MAC{2, 0, 0, 0, 0, 1}, MAC{2, 0, 0, 0, 0, 2}
			o.Guest.IfName, o.Host.Template = "eth7", "wlan0"
		}},
		{"-o 192.0.2.1 -o 2001:db8::1 --outbound-if4 a --outbound-if6 b", func(o *Options) {
			o.Host = Host{Outbound: AddrPair{addr("192.0.2.1"), addr("2001:db8::1")}, Interface4: "a", Interface6: "b"}
		}},
		{"-D 1.1.1.1 -D ::1 -S a.example -S b.example", func(o *Options) {
			o.DNS.Servers, o.DNS.Search = []netip.Addr{addr("1.1.1.1"), addr("::1")}, []string{"a.example", "b.example"}
		}},
		{"-D none -S none", func(o *Options) { o.DNS.NoServers, o.DNS.NoSearch = true, true }},
		{"--dns-forward 169.254.1.1 --dns-host 127.0.0.53", func(o *Options) {
			o.DNS.Forward.V4, o.DNS.Host.V4 = addr("169.254.1.1"), addr("127.0.0.53")
		}},
		{"--no-map-gw", func(o *Options) { o.Mapping.Gateway = false }},
		{"--map-host-loopback none", func(o *Options) { o.Mapping.Gateway = false }},
		{"--map-host-loopback 192.0.2.8", func(o *Options) { o.Mapping.HostLoopback.V4 = addr("192.0.2.8") }},
		{"--map-host-loopback fd00::8 --map-host-loopback none", func(o *Options) { o.Mapping.Gateway = false }},
		{"--map-guest-addr 169.254.1.2", func(o *Options) { o.Mapping.GuestAddr.V4 = addr("169.254.1.2") }},
		{"--map-guest-addr 169.254.1.2 --map-guest-addr none", func(o *Options) {}},
		{"-t 80:8080 -t 80:8080 -t 90 -u 53", func(o *Options) {
			o.Ports.TCP = []PortRule{{First: 80, Last: 80, Target: 8080}, {First: 90, Last: 90, Target: 90}}
			o.Ports.UDP = []PortRule{{First: 53, Last: 53, Target: 53}}
		}},
		{"-t none -u none -T none -U none", func(o *Options) {}},
		{"-T 80:8080,90 --udp-ns=[::1]/53 -U 127.0.0.1/53:54", func(o *Options) {
			o.Ports.InsideTCP = []PortRule{{First: 80, Last: 80, Target: 8080}, {First: 90, Last: 90, Target: 90}}
			o.Ports.InsideUDP = []PortRule{
				{Addr: addr("::1"), First: 53, Last: 53, Target: 53}, {Addr: addr("127.0.0.1"), First: 53, Last: 53, Target: 54},
			}
		}},
		{"-T auto --udp-ns auto", func(o *Options) { o.Ports.AutoInsideTCP, o.Ports.AutoInsideUDP = true, true }},
		{"--no-tcp --no-udp --no-icmp --no-ndp --no-ra --no-dhcp --no-dhcpv6", func(o *Options) {
			o.Filter = Filter{true, true, true, true, true, true, true}
		}},
		{"--dhcp-dns --dhcp-search -H box --fqdn box.example.org.", func(o *Options) {
			o.DNS = DNS{ByDHCP: true, SearchByDHCP: true, Hostname: "box", FQDN: "box.example.org."}
		}},
		{"--dhcp-dns --dhcp-search --no-dhcp-dns --no-dhcp-search", func(o *Options) {}},
		{"--idle-timeout 0 --queues 1 --budget 64M", func(o *Options) {
			o.Limits.Queues, o.Limits.Budget = 1, 64<<20
		}},
		{"--idle-timeout 30", func(o *Options) { o.Limits.IdleTimeout = 30 * time.Second }},
		{"--allow tcp --policy rules --deny all", func(o *Options) {
			everything := policy.Rule{Deny: true, Inbound: true, Outbound: true, TCP: true, UDP: true, ICMP: true}
			o.Rules = []RuleSource{{Rule: policy.Rule{Inbound: true, Outbound: true, TCP: true}}, {File: "rules"}, {Rule: everything}}
		}},
		{"--flow-log flows.json", func(o *Options) { o.FlowLog = "flows.json" }},
		{"--vhost auto", func(o *Options) { o.VHost.Mode = VHostAuto }},
		{"--vhost on --vhost-tuning receive=64,transmit=4096,buffer=2048 --vhost-tuning poll=50,workers", func(o *Options) {
			o.VHost = VHost{Mode: VHostOn, Receive: 64, Transmit: 4096, Buffer: 2048, Poll: 50 * time.Microsecond, Workers: true}
		}},
		{"--vhost on --vhost off", func(*Options) {}},
		{"--overload drop", func(o *Options) { o.Limits.DropOnOverload = true }},
		{"--overload drop --overload=backpressure", func(*Options) {}},
		{"--source-flows 500", func(o *Options) { o.Limits.SourceFlows = 500 }},
		{"--multicast 5353,1900", func(o *Options) { o.UDP.Multicast = []uint16{5353, 1900} }},
		{"--endpoint-independent", func(o *Options) { o.UDP.EndpointIndependent = true }},
		{"--evict-idle 0", func(o *Options) { o.Limits.EvictIdle = 0 }},
		{"--evict-idle 90", func(o *Options) { o.Limits.EvictIdle = 90 * time.Second }},
		{"--budget 1g", func(o *Options) { o.Limits.Budget = 1 << 30 }},
		{"--budget 2000k", func(o *Options) { o.Limits.Budget = 2000 << 10 }},
		{"--budget 1048577", func(o *Options) { o.Limits.Budget = 1048577 }},
		{"-l f --log-format json -p x.pcapng", func(o *Options) { o.Log.File, o.Log.Format, o.Pcap = "f", JSON, "x.pcapng" }},
		{"--log-format json --log-format text", func(o *Options) {}},
		{"--counters", func(o *Options) { o.Counters.Enabled = true }},
		{"--counters=f", func(o *Options) { o.Counters = Counters{true, "f"} }},
		{"--counters f", func(o *Options) { o.Counters.Enabled = true; o.Args = []string{"f"} }},
		{"--keep-id -f -e --config-net --no-splice --no-dhcp-dns --no-dhcp-search", func(o *Options) { o.KeepID = true }},
	} {
		t.Run(test.line, func(t *testing.T) {
			got, err := Parse(strings.Fields(test.line))
			if test.want == nil {
				if err == nil {
					t.Fatalf("got %+v; want an error", got)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			want, err := Parse(nil)
			if err != nil {
				t.Fatal(err)
			}
			test.want(&want)
			if len(got.Args) == 0 {
				got.Args = nil // an empty command is the same with and without "--"
			}
			if diff := cmp.Diff(want, got, plain); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestParseDefaults(t *testing.T) {
	want := Options{
		Guest:   Guest{IPv4: true, IPv6: true, MTU: 65520, GatewayMAC: MAC{0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55}},
		Mapping: Mapping{Gateway: true},
		Limits:  Limits{EvictIdle: 7440 * time.Second, Queues: DefaultQueues(), Budget: 256 << 20},
		Log:     Log{Level: Normal},
		ReadyFD: -1,
	}
	got, err := Parse(nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, plain); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestParseErrors(t *testing.T) {
	for _, test := range []struct{ line, want string }{
		{"--x", "unrecognized option '--x'; vasta --help lists the options"},
		{"--tcp 1", "option '--tcp' is ambiguous; possibilities: '--tcp-ports' '--tcp-ns'; vasta --help lists the options"},
		{"-m", "option requires an argument -- 'm'; vasta --help lists the options"},
		{"--mtu", "option '--mtu' requires an argument; vasta --help lists the options"},
		{"--quiet=1", "option '--quiet' doesn't allow an argument; vasta --help lists the options"},
		{"-z", "invalid option -- 'z'; vasta --help lists the options"},
		{"-m 1 --version", `-m "1": not an MTU; it is 68 to 65520 bytes, 0 for the kernel's own, or host for the host's`},
		{"-m 65521", `-m "65521": not an MTU; it is 68 to 65520 bytes, 0 for the kernel's own, or host for the host's`},
		{"--mtu=1279", "--mtu 1279: IPv6 needs 1280 bytes at least; add --ipv4-only or take a larger MTU"},
		{"--mtu=1x", `--mtu "1x": not an MTU; it is 68 to 65520 bytes, 0 for the kernel's own, or host for the host's`},
		{"--vhost-user", "--vhost-user: vasta does not have this option of pasta yet; virtual machines come later: use passt for them until then"},
		{"--runas 0", "--runas: vasta does not have this option of pasta yet; start vasta as the user it is to run as, with setpriv(1) for example"},
		{"-4 -6", "-6: the other option has switched this family off; --ipv4-only and --ipv6-only exclude each other"},
		{"-a 10.0.0", `-a "10.0.0": not an IPv4 or IPv6 address`},
		{"-a 10.0.0.1/33", `-a "10.0.0.1/33": prefix length: not a number from 1 to 32`},
		{"-a fd00::1/0", `-a "fd00::1/0": prefix length: not a number from 1 to 128`},
		{"-a fe80::1%eth0", `-a "fe80::1%eth0": an address without an interface is needed here; leave out what follows the %`},
		{"-a ::ffff:192.0.2.1", `-a "::ffff:192.0.2.1": an IPv4 address in IPv6 clothes; write 192.0.2.1`},
		{"-a 127.0.0.1", `-a "127.0.0.1": a loopback address cannot be used on a link`},
		{"-g 224.0.0.1", `-g "224.0.0.1": not the address of one host`},
		{"-g ff02::1", `-g "ff02::1": not the address of one host`},
		{"-g 255.255.255.255", `-g "255.255.255.255": not the address of one host`},
		{"-D 0.0.0.0", `-D "0.0.0.0": not the address of one host`},
		{"-n 255.0.255.0", `-n "255.0.255.0": not a mask: its ones must be together at the front`},
		{"-n 0.0.0.0", `-n "0.0.0.0": not a mask: its ones must be together at the front`},
		{"-n 1.2", `-n "1.2": not an IPv4 mask; write it as 255.255.255.0 or as 24`},
		{"-n 33", `-n "33": not a number from 1 to 32`},
		{"-a 10.0.0.1/24 -n 16", "--netmask says /16 and --address 10.0.0.1 says /24; give one of them"},
		{"-M 1", `-M "1": not an Ethernet address; write it as 9a:55:9a:55:9a:55`},
		{"-M 01:00:00:00:00:00", `-M "01:00:00:00:00:00": a group address; the lowest bit of the first byte must be 0`},
		{"-M 00:00:00:00:00:00", `-M "00:00:00:00:00:00": the zero address belongs to no interface`},
		{"-I 0123456789abcdef", `-I "0123456789abcdef": the name of an interface has 1 to 15 characters`},
		{"-I a/b", `-I "a/b": not the name of an interface`},
		{"-S none -S x", `-S "x": none and a value exclude each other`},
		{"-D 1.1.1.1 -D none", `-D "none": none and a value exclude each other`},
		{"-D x", `-D "x": not an IPv4 or IPv6 address`},
		{"-t none -t 80", `-t "80": none and a value exclude each other`},
		{"-u 80 -u none", `-u "none": none and a value exclude each other`},
		{"-t 80 -t 79-81:80", `-t "79-81:80": 79-81:80: 3 ports cannot lead to 1 ports; both sides of the colon must have as many`},
		{"-t 80 -t 79-81:80-82", `-t "79-81:80-82": port 80 leads to port 80 already and cannot lead to port 81 as well`},
		{"-t 80 -t auto", `-t "auto": auto and a list of ports exclude each other`},
		{"-u auto -u 80", `-u "80": auto and a list of ports exclude each other`},
		{"-t auto -t none", `-t "none": none and auto exclude each other`},
		{"-T 192.0.2.1/80", `-T "192.0.2.1/80": 192.0.2.1 is not of the namespace's loopback; leave the address out, or write 127.0.0.1 or [::1]`},
		{"-U %lo/80", `-U "%lo/80": interface lo is not of the namespace's loopback; leave the address out, or write 127.0.0.1 or [::1]`},
		{"-t 127.0.0.1:8080:80", `-t "127.0.0.1:8080:80": an address stands before a slash; write 127.0.0.1/8080:80`},
		{"-u [::1]:53", `-u "[::1]:53": an address stands before a slash; write [::1]/53`},
		{"-t 80/tcp", `-t "80/tcp": the option says which protocol it is; leave /tcp out`},
		{"-p 8080:80", `-p "8080:80": this is a file that frames are written to; to forward ports, say -t 8080:80 (for a file of that name, ./8080:80)`},
		{"-T none -T 80", `-T "80": none and a value exclude each other`},
		{"--tcp-ns auto -T 80", `-T "80": auto and a list of ports exclude each other`},
		{"--deny tpc", `--deny "tpc": "tpc" is neither a direction (in, out), nor a protocol (tcp, udp, icmp), an address, a name with a dot, or ports`},
		{"-H a.b", `-H "a.b": not a host name; it has 1 to 63 letters, digits and inner dashes`},
		{"--hostname -a", `--hostname "-a": not a host name; it has 1 to 63 letters, digits and inner dashes`},
		{"--fqdn a..b", `--fqdn "a..b": not a domain name; its parts have 1 to 63 letters, digits and inner dashes, and it has 253 at most`},
		{"--fqdn a_b", `--fqdn "a_b": not a domain name; its parts have 1 to 63 letters, digits and inner dashes, and it has 253 at most`},
		{"--map-host-loopback 127.0.0.2", `--map-host-loopback "127.0.0.2": a loopback address cannot be used on a link`},
		{"--map-guest-addr x", `--map-guest-addr "x": not an IPv4 or IPv6 address`},
		{"--queues 65", `--queues "65": not a number from 1 to 64`},
		{"--queues 16 --budget 3M", `--budget is too little for --queues 16, which share it; give 4096K at least, or fewer queues`},
		{"--vhost yes", `--vhost "yes": auto, on or off`},
		{"--vhost-tuning receive=65", `--vhost-tuning "receive=65": receive: not a power of two`},
		{"--vhost-tuning transmit=65536", `--vhost-tuning "transmit=65536": transmit: not a number from 2 to 32768`},
		{"--vhost-tuning buffer", `--vhost-tuning "buffer": buffer: not a number from 1536 to 65536`},
		{"--vhost-tuning workers=1", `--vhost-tuning "workers=1": workers has no value`},
		{"--vhost-tuning x=1", `--vhost-tuning "x=1": "x": the keys are receive, transmit, buffer, poll and workers`},
		{"--ready-fd 2", `--ready-fd "2": not a number from 3 to 1048576`},
		{"--idle-timeout -1", `--idle-timeout "-1": not a number from 0 to 2147483647`},
		{"--budget 1023K", `--budget "1023K": not a size from 1048576 to 1099511627776 bytes; K, M or G may follow the number`},
		{"--budget 1025G", `--budget "1025G": not a size from 1048576 to 1099511627776 bytes; K, M or G may follow the number`},
		{"--budget M", `--budget "M": not a size from 1048576 to 1099511627776 bytes; K, M or G may follow the number`},
		{"--log-format xml", `--log-format "xml": the formats are text and json`},
		{"--counters=", `--counters "": not the name of a file`},
		{"--netns /x -- ls", "--netns: vasta -- CMD does not take this option; it is for vasta attach"},
		{"attach 1 --keep-id", "--keep-id: vasta attach does not take this option; it is for vasta -- CMD, vasta demo"},
		{"--json", "--json: vasta -- CMD does not take this option; it is for vasta doctor"},
		{"-q doctor", "-q: vasta doctor does not take this option; it is for vasta -- CMD, vasta attach, vasta demo"},
		{"-q bench net", "-q: vasta bench does not take this option; it is for vasta -- CMD, vasta attach, vasta demo"},
		{"attach", "attach: no namespace named; give the number of a process in it, or --netns PATH"},
		{"attach --userns /x", "attach: no namespace named; give the number of a process in it, or --netns PATH"},
		{"attach 0", `attach "0": not the number of a process; name a namespace by its path with --netns`},
		{"attach x", `attach "x": not the number of a process; name a namespace by its path with --netns`},
		{"attach 99999999999", `attach "99999999999": not the number of a process; name a namespace by its path with --netns`},
		{"attach 1 2", `attach takes one process, and was given "2" as well; it runs no command`},
		{"attach 1 --netns /x", "attach takes a process or --netns, not both; --netns PATH and --userns PATH say it all"},
		{"attach --netns ..", `--netns "..": not the name of a namespace`},
		{"doctor x", `doctor takes no operand, and was given "x"; to run a program of that name write vasta -- doctor`},
		{"version -- x", `version takes no operand, and was given "x"; to run a program of that name write vasta -- version`},
	} {
		t.Run(test.line, func(t *testing.T) {
			_, err := Parse(strings.Fields(test.line))
			if err == nil {
				t.Fatalf("no error; want %s", test.want)
			}
			if err.Error() != test.want {
				t.Errorf("\n got %s\nwant %s", err, test.want)
			}
		})
	}
}

// Each value that a field of text accepts is tried with characters that must not reach a file of the system.
func TestParseRefusesEmptyValues(t *testing.T) {
	for i := range Table {
		o := &Table[i]
		if o.State != Built || o.Arg == NoArg {
			continue
		}
		if _, err := Parse([]string{"--" + o.Name + "="}); err == nil {
			t.Errorf("--%s= is accepted", o.Name)
		}
	}
	for _, args := range [][]string{{"-S", "a b"}, {"-S", "a\nnameserver 192.0.2.1"}, {"-I", "a\nb"}, {"-p", "a\x00b"}} {
		if _, err := Parse(args); err == nil {
			t.Errorf("%q is accepted", args)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, line := range []string{"-qm 1500 -- ls", "attach 1 --netns x", "-t 1-5:2-6,~3 -u [::1]%lo/7 -D none", "--counters=x --no-map-gw bench net",
		"--budget 1G -a 10.0.0.1/8 -n 255.0.0.0", "doctor --json", "-4 -6", "--tcp", "-M 2:3"} {
		f.Add(strings.Join(strings.Fields(line), "\x00"))
	}
	f.Fuzz(func(t *testing.T, line string) {
		args := strings.Split(line, "\x00")
		before := slices.Clone(args)
		o, err := Parse(args)
		if !slices.Equal(args, before) {
			t.Fatalf("Parse changed its arguments to %q", args)
		}
		if err != nil {
			if !isOneLine(err.Error()) {
				t.Fatalf("the error is not one line: %q", err)
			}
			return
		}
		if o.Command == Help || o.Command == Version {
			return
		}
		if !o.Guest.IPv4 && !o.Guest.IPv6 {
			t.Fatal("no family left")
		}
		if o.Command == Attach && (o.Target.PID == 0) == (o.Target.NetNS == "") {
			t.Fatalf("attach to %+v", o.Target)
		}
		if o.Limits.Budget < minBudget || o.Limits.Queues < 1 || o.Guest.MTU != HostMTU && (o.Guest.MTU < minMTU4 || o.Guest.MTU > DefaultMTU) {
			t.Fatalf("limits of %+v", o)
		}
		for _, rules := range [][]PortRule{o.Ports.TCP, o.Ports.UDP} {
			checkRules(t, rules)
		}
	})
}

// isOneLine says whether text is one line.
func isOneLine(text string) bool { return text != "" && !strings.ContainsAny(text, "\n\r\x1b\x00") }
