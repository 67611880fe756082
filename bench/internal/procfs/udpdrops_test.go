package procfs

import "testing"

func TestParseDeviceDrops(t *testing.T) {
	const head = "Inter-|   Receive                                                |  Transmit\n" +
		" face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n"
	got, err := parseDeviceDrops([]byte(head + "    lo: 1 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0\n  eth0:1 2 3 100 0 0 0 0 5 6 7 1000 0 0 0 0\n"))
	if err != nil || got != 4+8+100+1000 {
		t.Errorf("%d, %v", got, err)
	}
	for _, bad := range []string{"lo: 1 2 3\n", "lo: 1 2 3 x 0 0 0 0 5 6 7 8 0 0 0 0\n"} {
		if got, err := parseDeviceDrops([]byte(head + bad)); err == nil {
			t.Errorf("%q: %d", bad, got)
		}
	}
}

func TestUDPDropsOfThisKernel(t *testing.T) {
	before, err := ReadUDPDrops()
	if err != nil {
		t.Fatal(err)
	}
	after, err := ReadUDPDrops()
	if d := after.Sub(before); err != nil || d.Link < 0 || d.Socket < 0 {
		t.Errorf("%+v, %v", d, err)
	}
	if sum := after.Add(after); sum.Sub(after) != after {
		t.Errorf("%+v", sum)
	}
}
