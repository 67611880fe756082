package prefetch

import "testing"

// TestHints: hints take any slice, and change nothing.
func TestHints(t *testing.T) {
	b := make([]byte, 4096)
	for i := range b {
		b[i] = byte(i)
	}
	for _, n := range []int{0, 1, Line - 1, Line, Line + 1, len(b)} {
		for _, at := range []int{0, 1, Line - 1, len(b) - n} {
			at = min(at, len(b)-n)
			Read(b[at : at+n])
			Write(b[at : at+n])
		}
	}
	Read(nil)
	Write(nil)
	for i := range b {
		if b[i] != byte(i) {
			t.Fatalf("byte %d is %d", i, b[i])
		}
	}
}
