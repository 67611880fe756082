package options

import (
	"fmt"
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
	} {
		rules, err := ParsePorts(test.list)
		if err != nil {
			t.Errorf("%s: %v", test.list, err)
			continue
		}
		if got := strings.Trim(fmt.Sprint(rules), "[]"); got != test.want {
			t.Errorf("%s\n got %s\nwant %s", test.list, got, test.want)
		}
		checkRules(t, rules)
	}
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
		{"all", `vasta does not forward "all" yet; name the ports`},
		{"%eth0/all", `vasta does not forward "all" yet; name the ports`},
		{"~25", "vasta does not forward every port but some yet; name the ports"},
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
		// What a rule prints is a list that gives the same rule.
		for _, rule := range rules {
			again, err := ParsePorts(rule.String())
			if err != nil || len(again) != 1 || again[0] != rule {
				t.Fatalf("%v reads again as %v, %v", rule, again, err)
			}
		}
	})
}
