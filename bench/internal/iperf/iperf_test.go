package iperf

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseRealReports(t *testing.T) {
	for name, want := range map[string]Report{
		"upload-two-streams.json": {
			BitsPerSecond: 1.4411731386785488e+10, Bytes: 1803550720, Seconds: 1.001157,
			Retransmits: 2, SenderCongestion: "cubic", ReceiverCongestion: "cubic", Version: "iperf 3.12",
		},
		"download-fixed-bytes.json": {
			BitsPerSecond: 10033634062.753325, Bytes: 1 << 30, Seconds: 0.856114,
			Retransmits: 2, SenderCongestion: "cubic", ReceiverCongestion: "cubic", Version: "iperf 3.12",
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Parse(read(t, name))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("want -, got +:\n%s", diff)
			}
		})
	}
}

func TestParseErrors(t *testing.T) {
	for _, c := range []struct {
		name, in, want string
	}{
		{"refused", string(read(t, "refused.json")), "unable to connect to server: Connection refused"},
		{"not JSON", "iperf3: error", "iperf3 report"},
		{"no sums", `{"end":{}}`, "no sum"},
		{"UDP", `{"end":{"sum_sent":{"bytes":1},"sum_received":{"bytes":1}}}`, "retransmits"},
		{"silence", `{"end":{"sum_sent":{"retransmits":0},"sum_received":{"bytes":0}}}`, "nothing was received"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := Parse([]byte(c.in)); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
}

func TestClientArgs(t *testing.T) {
	server := netip.MustParseAddrPort("192.0.2.1:5201")
	timed := Test{Server: server, Streams: 8, Duration: 2 * time.Second, Congestion: "cubic"}
	sized := Test{Server: server, Streams: 1, Reverse: true, Bytes: 1 << 20, Duration: time.Second, Congestion: "cubic"}
	const common = "iperf3 --json --client 192.0.2.1 --port 5201 --parallel "
	for _, c := range []struct {
		test Test
		want string
	}{
		{timed, common + "8 --congestion cubic --connect-timeout 3000 --time 2"},
		{sized, common + "1 --congestion cubic --connect-timeout 3000 --bytes 1048576 --reverse"},
	} {
		if got := strings.Join(c.test.ClientArgs(), " "); got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, name := range []string{"upload-two-streams.json", "download-fixed-bytes.json", "refused.json"} {
		f.Add(read(f, name))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if r, err := Parse(data); err == nil && r.Bytes == 0 {
			t.Errorf("a report without bytes: %+v", r)
		}
	})
}

func read(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}
