package options

import (
	"bytes"
	"strings"
	"testing"
)

// pastaOptions is every option of pasta, passt 2026_07_16: its long names, each with a letter and an argument where it has them.
const pastaOptions = `
debug,d quiet,q foreground,f stderr,e log-file,l= log-size= help,h version socket,s= socket-path,s= fd,F= ns-ifname,I=
pcap,p= pid,P= mtu,m= address,a= netmask,n= mac-addr,M= gateway,g= interface,i= outbound,o= outbound-if4= outbound-if6=
dns,D= search,S= hostname,H= fqdn= no-tcp no-udp no-icmp no-dhcp no-dhcpv6 no-ndp no-ra no-splice splice-only freebind
no-map-gw ipv4-only,4 ipv6-only,6 one-off,1 tcp-ports,t= udp-ports,u= tcp-ns,T= udp-ns,U= userns= netns= netns-only
no-netns-quit ns-mac-addr= dhcp-dns no-dhcp-dns dhcp-search no-dhcp-search dns-forward= dns-host= trace runas= config-net
no-copy-routes no-copy-addrs map-host-loopback= map-guest-addr= host-lo-to-ns-lo vhost-user print-capabilities repair-path=
migrate-exit migrate-no-linger stats= conf-path,c= chroot-fallback`

// Every option of pasta is read as pasta reads it, and carried out, accepted, or refused by its name.
func TestEveryOptionOfPasta(t *testing.T) {
	for _, entry := range strings.Fields(pastaOptions) {
		entry, takesArg := strings.CutSuffix(entry, "=")
		name, letter, _ := strings.Cut(entry, ",")
		var option *Option
		for i := range Table {
			for _, n := range Table[i].names() {
				if n == name {
					option = &Table[i]
				}
			}
		}
		if option == nil {
			t.Errorf("--%s is not in the table", name)
			continue
		}
		if (option.Arg == RequiredArg) != takesArg || option.Arg == OptionalArg {
			t.Errorf("--%s: takes an argument is %v, want %v", name, option.Arg, takesArg)
		}
		if want := letter; want != "" && option.Short != want[0] || want == "" && option.Short != 0 {
			t.Errorf("--%s: letter %q, want %q", name, option.Short, want)
		}
		args := []string{"--" + name}
		if takesArg {
			args = append(args, "a value that suits no option\x00")
		}
		_, err := Parse(args)
		switch {
		case option.State == NotYet:
			want := "--" + name + ": vasta does not have this option of pasta yet; "
			if err == nil || !strings.HasPrefix(err.Error(), want) {
				t.Errorf("--%s is refused with %v, want %s...", name, err, want)
			}
		case takesArg:
			if err == nil {
				t.Errorf("--%s takes nonsense", name)
			}
		case option.Commands.has(Run):
			if err != nil {
				t.Errorf("--%s: %v", name, err)
			}
		}
	}
}

// The table is sound: unique names and letters, a command for everything that is accepted, help for everything shown.
func TestTable(t *testing.T) {
	names, letters := map[string]bool{}, map[byte]bool{}
	for i := range Table {
		o := &Table[i]
		for _, name := range o.names() {
			if names[name] {
				t.Errorf("--%s is there twice", name)
			}
			names[name] = true
		}
		if o.Short != 0 && letters[o.Short] {
			t.Errorf("-%c is there twice", o.Short)
		}
		letters[o.Short] = true
		switch {
		case o.State == NotYet && (o.Instead == "" || o.set != nil || o.Commands != 0):
			t.Errorf("--%s is refused: it needs a word of advice, and nothing else", o.Name)
		case o.State == AlreadySo && (o.set != nil || o.Commands == 0):
			t.Errorf("--%s is accepted without effect: it needs commands and no effect", o.Name)
		case o.State == Built && (o.Help == "" || o.set == nil || o.Commands == 0):
			t.Errorf("--%s needs help, an effect and commands", o.Name)
		case o.State == Built && (o.Arg == NoArg) != (o.ArgName == ""):
			t.Errorf("--%s: argument and its name do not fit", o.Name)
		}
		if strings.HasSuffix(o.Help, ".") || strings.HasSuffix(o.Instead, ".") {
			t.Errorf("--%s: its texts become parts of sentences and end without a full stop", o.Name)
		}
	}
}

func TestHelpShowsEveryOption(t *testing.T) {
	var b bytes.Buffer
	if err := WriteHelp(&b); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	for i := range Table {
		if !strings.Contains(text, "--"+Table[i].Name) {
			t.Errorf("--%s is not in the help", Table[i].Name)
		}
	}
	for line := range strings.Lines(text) {
		if line = strings.TrimRight(line, "\n"); len(line) > helpWidth || strings.TrimRight(line, " ") != line {
			t.Errorf("line too long, or ends in a space: %q", line)
		}
	}
}
