//go:build lab

package lab_test

import (
	"net"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/vasta-net/vasta/internal/lab"
)

// acrossLink opens a UDP socket in inet, and one in host that is connected to it. They are closed with the test.
func acrossLink(t *testing.T, l *lab.Lab) (server net.PacketConn, client net.Conn) {
	t.Helper()
	server, err := l.Inet.ListenPacket("udp", net.JoinHostPort(lab.InetAddr4.Addr().String(), "0"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	client, err = l.Host.Dial("udp", server.LocalAddr().String(), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return server, client
}

// TestImpairments looks at each thing that an impairment does to datagrams, in either direction. It runs in the guest machine.
func TestImpairments(t *testing.T) {
	l := newLab(t)
	server, client := acrossLink(t, l)

	directions := []struct {
		name   string
		on     *lab.Namespace
		impair func(*lab.Namespace, string, lab.Impairment) error
	}{
		{"sent", l.Host, (*lab.Namespace).ImpairSent},
		{"received", l.Inet, (*lab.Namespace).ImpairReceived},
	}
	const (
		patience = 20 * time.Second       // for what has to come
		moment   = 500 * time.Millisecond // for what must not
	)
	for _, d := range directions {
		// send sends a datagram through an impairment, if one is given, waits for so many copies and a moment for more, counts them, and tells when the first arrived.
		send := func(i *lab.Impairment, word string, want int) (copies int, first time.Duration) {
			t.Helper()
			if i != nil {
				if err := d.impair(d.on, lab.LinkName, *i); err != nil {
					t.Fatal(err)
				}
			}
			began := time.Now()
			if _, err := client.Write([]byte(word)); err != nil {
				t.Fatal(err)
			}
			b := make([]byte, 100)
			for {
				limit := patience
				if copies >= want {
					limit = moment
				}
				if err := server.SetReadDeadline(time.Now().Add(limit)); err != nil {
					t.Fatal(err)
				}
				n, _, err := server.ReadFrom(b)
				if err != nil {
					return copies, first
				}
				if string(b[:n]) == word {
					if copies++; copies == 1 {
						first = time.Since(began)
					}
				}
			}
		}
		t.Run(d.name, func(t *testing.T) {
			if n, _ := send(nil, "plain", 1); n != 1 {
				t.Errorf("%d copies without an impairment", n)
			}
			if n, _ := send(&lab.Impairment{Loss: 100}, "lost", 0); n != 0 {
				t.Errorf("%d copies of what is lost", n)
			}
			if n, _ := send(&lab.Impairment{Duplicate: 100}, "twice", 2); n != 2 {
				t.Errorf("%d copies of what is duplicated", n)
			}
			if n, first := send(&lab.Impairment{Delay: 700 * time.Millisecond}, "late", 1); n != 1 || first < 700*time.Millisecond {
				t.Errorf("%d copies of what is delayed, after %v", n, first)
			}
			// All overtake: the delay is nobody's.
			if n, _ := send(&lab.Impairment{Reorder: 100, Delay: 2 * patience}, "early", 1); n != 1 {
				t.Errorf("%d copies of what overtakes", n)
			}
			if err := d.on.Mend(lab.LinkName); err != nil {
				t.Fatal(err)
			}
			if n, _ := send(nil, "mended", 1); n != 1 {
				t.Errorf("%d copies of what is mended", n)
			}
			if err := d.on.Mend(lab.LinkName); err != nil {
				t.Errorf("where there is nothing to mend: %v", err)
			}
		})
	}
}

// TestBottleneck sends more than the queue holds, at once.
func TestBottleneck(t *testing.T) {
	l := newLab(t)
	if err := l.SetMTU(1500); err != nil {
		t.Fatal(err)
	}
	const queue = 10
	if err := l.Host.ImpairSent(lab.LinkName, lab.Impairment{Bottleneck: lab.Bottleneck{Rate: 1_000_000, Packets: queue}}); err != nil {
		t.Fatal(err)
	}
	server, client := acrossLink(t, l)
	began := time.Now()
	const sent = 100
	for range sent {
		if _, err := client.Write(make([]byte, 1472)); err != nil {
			t.Fatal(err)
		}
	}
	// At 12 ms a packet, the queue is empty after 0.12 s.
	drained := 2 * time.Second
	if err := server.SetReadDeadline(began.Add(drained)); err != nil {
		t.Fatal(err)
	}
	arrived := 0
	for b := make([]byte, 2000); ; arrived++ {
		if _, _, err := server.ReadFrom(b); err != nil {
			break
		}
	}
	// Some leave while others come: as many as fit into the time that sending took, with the bucket of two.
	if most := queue + 3 + int(drained/(12*time.Millisecond)); arrived < queue || arrived > min(most, sent-1) {
		t.Errorf("%d of %d packets came through a queue of %d", arrived, sent, queue)
	}
}

// references is how many hold a qdisc, in the words of tc.
var references = regexp.MustCompile(`refcnt \d+ `)

// TestQdiscs reads from tc(8) which qdiscs an impairment is, one after the other on the same device.
func TestQdiscs(t *testing.T) {
	l := newLab(t)
	slow := lab.Bottleneck{Rate: 50_000_000, Burst: 128 << 10, Bytes: 1 << 20}
	for _, test := range []struct {
		name string
		i    lab.Impairment
		want []string
	}{
		{"loss", lab.Impairment{Loss: 1}, []string{"qdisc netem 1: root limit 20000 loss 1%"}},
		{
			"loss and a bottleneck", lab.Impairment{Loss: 1, Bottleneck: slow},
			[]string{"qdisc netem 1: root limit 20000 loss 1%", "qdisc tbf 2: parent 1:1 rate 50Mbit burst 128Kb"},
		},
		{"reordering", lab.Impairment{Reorder: 5, Delay: time.Millisecond}, []string{"qdisc netem 1: root limit 20000 delay 1ms reorder 5% gap 1"}},
		{"a bottleneck", lab.Impairment{Bottleneck: slow}, []string{"qdisc tbf 2: root rate 50Mbit burst 128Kb"}},
		{
			"a bottleneck of packets", lab.Impairment{Bottleneck: lab.Bottleneck{Rate: 100_000_000, Burst: 16 << 10, Packets: 100}},
			[]string{"qdisc tbf 2: root rate 100Mbit burst 16362b", "qdisc netem 3: parent 2:1 limit 100"},
		},
		{"delay", lab.Impairment{Delay: 20 * time.Millisecond}, []string{"qdisc netem 1: root limit 20000 delay 20ms"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if err := l.Host.Impair(lab.LinkName, test.i); err != nil {
				t.Fatal(err)
			}
			for device, other := range map[string]string{lab.LinkName: "qdisc ingress ffff: parent ffff:fff1", "ieth0": ""} {
				out, err := l.Host.Command(lab.Root, "tc", "qdisc", "show", "dev", device).Output()
				if err != nil {
					t.Fatal(err)
				}
				want := test.want
				if other != "" {
					want = append(want[:len(want):len(want)], other)
				}
				got := strings.Split(strings.TrimSpace(string(out)), "\n")
				if len(got) != len(want) {
					t.Fatalf("%s has %q, want %q", device, got, want)
				}
				for k, line := range got {
					line = references.ReplaceAllString(line, "")
					if !strings.HasPrefix(line, want[k]) {
						t.Errorf("%s has %q, want %q", device, line, want[k])
					}
				}
			}
		})
	}
	if err := l.Host.Mend(lab.LinkName); err != nil {
		t.Fatal(err)
	}
	if err := l.Host.Mend("gone0"); err != nil {
		t.Errorf("mending a device that is not there: %v", err)
	}
	out, err := l.Host.Command(lab.Root, "tc", "qdisc", "show", "dev", lab.LinkName).Output()
	if err != nil {
		t.Fatal(err)
	}
	if text := strings.TrimSpace(string(out)); !strings.HasPrefix(text, "qdisc noqueue 0: root") {
		t.Errorf("mended, the device has %q", text)
	}
}
