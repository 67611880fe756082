package procfs

import "testing"

func TestParseNetTable(t *testing.T) {
	got, err := parseNetTable([]byte("Tcp: RtoMin MaxConn RetransSegs\nTcp: 200 -1 17\nUdp: InDatagrams\nUdp: 3\n"))
	if err != nil || len(got) != 4 || got["Tcp.MaxConn"] != -1 || got["Tcp.RetransSegs"] != 17 || got["Udp.InDatagrams"] != 3 {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"Tcp: A B\nTcp: 1\n", "Tcp: A\nUdp: 1\n", "Tcp: A\nTcp: x\n"} {
		if got, err := parseNetTable([]byte(bad)); err == nil {
			t.Errorf("%q: %v", bad, got)
		}
	}
}

func TestTCPCountersOfThisKernel(t *testing.T) {
	before, err := ReadTCPCounters()
	if err != nil {
		t.Fatal(err)
	}
	after, err := ReadTCPCounters()
	if d := after.Sub(before); err != nil || d.OutOfOrder < 0 || d.Retransmits < 0 {
		t.Errorf("%+v, %v", d, err)
	}
}
