package netns

import "testing"

func TestMappedRange(t *testing.T) {
	for _, test := range []struct {
		in        string
		low, high uint64
		bad       bool
	}{
		{in: "         0          0 4294967295\n", low: 0, high: maxPingGroup},
		{in: "1000 1000 1\n", low: 1000, high: 1000},
		{in: "0 1000 1\n1 100000 65535\n", low: 0, high: 65535},
		{in: "5 5 1\n2 100000 2\n", low: 2, high: 5},
		{in: "4294967290 0 5\n", low: maxPingGroup, high: maxPingGroup},
		{in: "", bad: true},
		{in: "0 0\n", bad: true},
		{in: "0 0 x\n", bad: true},
	} {
		low, high, err := mappedRange(test.in)
		if (err != nil) != test.bad || low != test.low || high != test.high {
			t.Errorf("%q: %d, %d, %v, want %d, %d", test.in, low, high, err, test.low, test.high)
		}
	}
}
