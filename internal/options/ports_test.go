package options

import (
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestParsePorts(t *testing.T) {
	for _, test := range []struct{ list, want string }{
		{"22", "22-22:22-22"},
		{"22:23", "22-22:23-23"},
		{"22,25", "22-22:22-22 25-25:25-25"},
		{"22-80:32-90", "22-80:32-90"},
		{"80-80:80-80", "80-80:80-80"},
		{"192.0.2.1/22", "192.0.2.1/22-22:22-22"},
		{"192.0.2.1%eth0/22", "192.0.2.1%eth0/22-22:22-22"},
		{"%eth0/22", "%eth0/22-22:22-22"},
		{"2000-5000,~3000-3010", "2000-2999:2000-2999 3011-5000:3011-5000"},
		{"~3000-3010,2000-5000:3000-6000", "2000-2999:3000-3999 3011-5000:4011-6000"},
		{"[::1]/80", "::1/80-80:80-80"},
		{"::1/80", "::1/80-80:80-80"},
		{"[fe80::1%eth0]/80", "fe80::1%eth0/80-80:80-80"},
		{"[fe80::1]%eth0/80", "fe80::1%eth0/80-80:80-80"},
		{"0.0.0.0/80", "0.0.0.0/80-80:80-80"},
		{"1-65535", "1-65535:1-65535"},
		{"1-65535,~1,~65535", "2-65534:2-65534"},
		{"80,70-90", "80-80:80-80 70-79:70-79 81-90:81-90"},
		{"all", "1-65535:1-65535?"},
		{"192.0.2.1/all", "192.0.2.1/1-65535:1-65535?"},
		{"%eth0/all", "%eth0/1-65535:1-65535?"},
		{"~25", "1-24:1-24? 26-65535:26-65535?"},
		{"[::1]/~1-1023,~30000-65535", "::1/1024-29999:1024-29999?"},
	} {
		rules, err := ParsePorts(test.list)
		if err != nil {
			t.Errorf("%s: %v", test.list, err)
			continue
		}
		if got := written(rules); got != test.want {
			t.Errorf("%s\n got %s\nwant %s", test.list, got, test.want)
		}
		checkRules(t, rules)
	}
}

// written gives rules as a user may write them, with a question mark behind those of free ports.
func written(rules []PortRule) string {
	var words []string
	for _, r := range rules {
		word := r.String()
		if r.Free {
			word += "?"
		}
		words = append(words, word)
	}
	return strings.Join(words, " ")
}

// Rules of several options: where they listen on the same, that is said once, or why it cannot be.
func TestAddRules(t *testing.T) {
	for _, test := range []struct{ lists, want, err string }{
		{"80:8080 192.0.2.1/81:8081", "80-80:8080-8080 192.0.2.1/81-81:8081-8081", ""},
		{"192.0.2.1/80:1 192.0.2.2/80:2 [2001:db8::1]/80:3", "192.0.2.1/80-80:1-1 192.0.2.2/80-80:2-2 2001:db8::1/80-80:3-3", ""},
		{"0.0.0.0/80:1 ::/80:2", "0.0.0.0/80-80:1-1 ::/80-80:2-2", ""},
		{"%eth0/80:1 %eth1/80:2", "%eth0/80-80:1-1 %eth1/80-80:2-2", ""},
		{"80 127.0.0.1/80", "80-80:80-80", ""},
		{"127.0.0.1/70-90 80", "127.0.0.1/70-79:70-79 127.0.0.1/81-90:81-90 80-80:80-80", ""},
		{"0.0.0.0/80 127.0.0.1/80 %lo/81 127.0.0.1%lo/81", "0.0.0.0/80-80:80-80 %lo/81-81:81-81", ""},
		{"22 all", "22-22:22-22 1-21:1-21? 23-65535:23-65535?", ""},
		{"80:1 127.0.0.1/80:2", "", "port 80 of every address leads to port 1 already and cannot lead to port 2 of 127.0.0.1 as well"},
		{"80:1 80:2", "", "port 80 leads to port 1 already and cannot lead to port 2 as well"},
		{"127.0.0.1/80 %lo/80", "", "port 80 is listened on at 127.0.0.1 already, which includes some of interface lo; name addresses that have nothing in common"},
	} {
		var rules []PortRule
		var err error
		for list := range strings.FieldsSeq(test.lists) {
			added, e := ParsePorts(list)
			if e != nil {
				t.Fatalf("%s: %v", list, e)
			}
			for _, rule := range added {
				if err == nil {
					rules, err = addRule(rules, rule)
				}
			}
		}
		if test.err != "" {
			if err == nil || err.Error() != test.err {
				t.Errorf("%s\n got %v\nwant %s", test.lists, err, test.err)
			}
			continue
		}
		if got := written(rules); err != nil || got != test.want {
			t.Errorf("%s: %v\n got %s\nwant %s", test.lists, err, got, test.want)
		}
		checkRules(t, rules)
	}
}

// anyPlace draws where a rule listens, from few places, some of which contain others.
func anyPlace(t *rapid.T) PortRule {
	addrs := []netip.Addr{{}, netip.IPv4Unspecified(), netip.IPv6Unspecified(), netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("::1")}
	return PortRule{Addr: rapid.SampledFrom(addrs).Draw(t, "address"), Interface: rapid.SampledFrom([]string{"", "lo", "eth0"}).Draw(t, "interface")}
}

// However rules are added, a socket address (family, address, interface, port) leads where the first rule that names it says, and a rule is refused
// only when one of its ports is taken by another: the model is the set of all of them.
func TestAddRulesAgainstSockets(t *testing.T) {
	type socket struct{ addr, device, port int }
	rapid.Check(t, func(t *rapid.T) {
		model := map[socket]uint16{}
		// The sockets of a rule: two addresses of each family, one of which may be named, and three interfaces, two of which may be.
		each := func(r PortRule, f func(s socket, to uint16)) {
			for port := r.First; port <= r.Last; port++ {
				for addr, name := range []string{"192.0.2.1", "192.0.2.9", "::1", "2001:db8::9"} {
					if a := netip.MustParseAddr(name); r.Addr.IsValid() && r.Addr != a && (!r.Addr.IsUnspecified() || r.Addr.Is4() != a.Is4()) {
						continue
					}
					for device, name := range []string{"lo", "eth0", "other"} {
						if r.Interface == "" || r.Interface == name {
							f(socket{addr, device, int(port)}, r.target(port))
						}
					}
				}
			}
		}
		var rules []PortRule
		for range rapid.IntRange(1, 6).Draw(t, "rules") {
			r := anyPlace(t)
			r.First = rapid.Uint16Range(1, 6).Draw(t, "first")
			r.Last = rapid.Uint16Range(r.First, 6).Draw(t, "last")
			r.Target = r.First + rapid.Uint16Range(0, 1).Draw(t, "shift")
			next, err := addRule(rules, r)
			shared, all, differs := 0, 0, false
			each(r, func(s socket, to uint16) {
				all++
				if had, ok := model[s]; ok {
					shared++
					differs = differs || had != to
				}
			})
			if err != nil {
				if shared == 0 {
					t.Fatalf("%v beside %v: %v, though they have nothing in common", r, rules, err)
				}
				continue
			}
			if differs {
				t.Fatalf("%v is added to %v, though a port leads elsewhere", r, rules)
			}
			each(r, func(s socket, to uint16) { model[s] = to })
			rules = next
			checkRules(t, rules)
		}
		got := map[socket]uint16{}
		for _, r := range rules {
			each(r, func(s socket, to uint16) { got[s] = to })
		}
		if !maps.Equal(got, model) {
			t.Fatalf("%v listen on %v, want %v", rules, got, model)
		}
	})
}

func TestParsePortsErrors(t *testing.T) {
	for _, test := range []struct{ list, want string }{
		{"", `"" is not a port: not a number from 1 to 65535`},
		{"0", `"0" is not a port: not a number from 1 to 65535`},
		{"65536", `"65536" is not a port: not a number from 1 to 65535`},
		{"22,", `"" is not a port: not a number from 1 to 65535`},
		{"+22", `"+22" is not a port: not a number from 1 to 65535`},
		{"22-", `"" is not a port: not a number from 1 to 65535`},
		{"22:", `"" is not a port: not a number from 1 to 65535`},
		{"~", `"" is not a port: not a number from 1 to 65535`},
		{"80-22", "80-22: the first port of a range is the lower one"},
		{"22-23:24", "22-23:24: 2 ports cannot lead to 1 ports; both sides of the colon must have as many"},
		{"22:22:22", `"22:22" is not a port: not a number from 1 to 65535`},
		{"all,22", `"all" is not a port: not a number from 1 to 65535`},
		{"~1-65535", "every port named is left out again"},
		{"25,~20-30", "every port named is left out again"},
		{"20-30,~22,~21-23", "port 22 is left out twice"},
		{"20-30,25:26", "port 25 leads to port 25 already and cannot lead to port 26 as well"},
		{"x/22", `"x" is not an address to listen on`},
		{"/22", `"" is not an address to listen on`},
		{"224.0.0.1/22", `"224.0.0.1" is not an address to listen on`},
		{"[::1/22", `"[::1" is not an address to listen on`},
		{"1.2.3.4%/22", `"": the name of an interface has 1 to 15 characters`},
		{"a/b/22", `"a" is not an address to listen on`},
	} {
		_, err := ParsePorts(test.list)
		if err == nil || err.Error() != test.want {
			t.Errorf("%s\n got %v\nwant %s", test.list, err, test.want)
		}
	}
}

// checkRules checks what is promised of the rules of one protocol.
func checkRules(t interface{ Fatalf(string, ...any) }, rules []PortRule) {
	for i, r := range rules {
		if r.First < 1 || r.First > r.Last || r.Target < 1 || int(r.Target)+int(r.Last-r.First) > 65535 {
			t.Fatalf("rule %+v has ports that do not exist", r)
		}
		for _, other := range rules[:i] {
			if r.overlaps(other) {
				t.Fatalf("%v and %v overlap", other, r)
			}
		}
	}
}

// Lists of ranges and exclusions give the ports that a set of single ports gives.
func TestParsePortsAgainstSet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const span = 40
		want := map[int]int{}
		holes := map[int]bool{}
		var items []string
		valid := true
		for range rapid.IntRange(1, 5).Draw(t, "items") {
			first := rapid.IntRange(1, span).Draw(t, "first")
			last := rapid.IntRange(first, min(first+8, span)).Draw(t, "last")
			if rapid.IntRange(0, 3).Draw(t, "hole") == 0 {
				items = append(items, fmt.Sprintf("~%d-%d", first, last))
				for port := first; port <= last; port++ {
					valid = valid && !holes[port]
					holes[port] = true
				}
				continue
			}
			shift := rapid.IntRange(0, 1).Draw(t, "shift")
			items = append(items, fmt.Sprintf("%d-%d:%d-%d", first, last, first+shift, last+shift))
			for port := first; port <= last; port++ {
				if to, ok := want[port]; ok && to != port+shift {
					valid = false
				}
				want[port] = port + shift
			}
		}
		for port := range holes {
			delete(want, port)
		}
		rules, err := ParsePorts(strings.Join(items, ","))
		only := len(holes) > 0 && !strings.Contains(strings.Join(items, ","), ":")
		if valid && only { // nothing but exclusions: all other ports
			for port := 1; port <= maxPort; port++ {
				if !holes[port] {
					want[port] = port
				}
			}
		}
		if !valid || len(want) == 0 {
			if err == nil {
				t.Fatalf("%v is accepted as %v", items, rules)
			}
			return
		}
		if err != nil {
			t.Fatalf("%v: %v", items, err)
		}
		checkRules(t, rules)
		got := map[int]int{}
		for _, r := range rules {
			for port := int(r.First); port <= int(r.Last); port++ {
				got[port] = int(r.target(uint16(port)))
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("%v gives %v, want %v", items, got, want)
		}
	})
}

func FuzzParsePorts(f *testing.F) {
	for _, seed := range []string{"22", "22:23", "22-80:32-90", "192.0.2.1%eth0/22", "[::1]/80", "[fe80::1%lo]/1", "%lo/2000-5000,~3000-3010", "~25", "all", "1-65535,~2"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, list string) {
		rules, err := ParsePorts(list)
		if err != nil {
			if !isOneLine(err.Error()) {
				t.Fatalf("the error is not one line: %q", err)
			}
			return
		}
		if len(rules) == 0 {
			t.Fatal("neither rules nor an error")
		}
		checkRules(t, rules)
		// What a rule prints is a list that gives the same rule; that it takes free ports only is not part of it.
		for _, rule := range rules {
			rule.Free = false
			again, err := ParsePorts(rule.String())
			if err != nil || len(again) != 1 || again[0] != rule {
				t.Fatalf("%v reads again as %v, %v", rule, again, err)
			}
		}
	})
}
