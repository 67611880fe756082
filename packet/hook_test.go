package packet

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"
)

// TestRoom: a frame is a slice that grows and shrinks at both ends; what it holds and where its checksum lies is compared with a plain copy.
func TestRoom(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		room := rapid.SliceOfN(rapid.Byte(), 1, 200).Draw(t, "room")
		from := rapid.IntRange(0, len(room)-1).Draw(t, "from")
		to := rapid.IntRange(from+1, len(room)).Draw(t, "to")
		rest := rapid.SliceOfN(rapid.Byte(), 0, 20).Draw(t, "rest")
		f := Frame{Bufs: [][]byte{room[from:to]}, Len: to - from, Hdr: NetHdr{Flags: FlagNeedsCsum, CsumStart: 1000}}
		if len(rest) > 0 {
			f.Bufs = append(f.Bufs, rest)
			f.Len += len(rest)
		}
		if rapid.Bool().Draw(t, "has room") {
			f.SetRoom(room, from)
		}
		model := append(bytes.Clone(room[from:to]), rest...)
		start := 1000
		t.Repeat(map[string]func(*rapid.T){
			"push": func(t *rapid.T) {
				n := rapid.IntRange(0, 50).Draw(t, "n")
				had := f.Headroom()
				if f.Push(n) != (n <= had) {
					t.Fatalf("Push(%d) with headroom %d", n, had)
				}
				if n <= had {
					model = append(bytes.Clone(f.Bufs[0][:n]), model...)
					start += n
				}
			},
			"pull": func(t *rapid.T) {
				n := rapid.IntRange(0, 50).Draw(t, "n")
				if ok := n < len(f.Bufs[0]); f.Pull(n) != ok {
					t.Fatalf("Pull(%d) is not %v", n, ok)
				} else if ok {
					model, start = model[n:], start-n
				}
			},
			"resize": func(t *rapid.T) {
				n := rapid.IntRange(0, 250).Draw(t, "n")
				ok := n >= 1 && n <= f.Len+f.Tailroom()
				if f.Resize(n) != ok {
					t.Fatalf("Resize(%d) is not %v", n, ok)
				}
				if ok && n > len(model) {
					model = append(bytes.Clone(model), f.Bufs[0][len(model):]...)
				} else if ok {
					model = model[:n]
				}
			},
			"": func(t *rapid.T) {
				if got := bytes.Join(f.Bufs, nil); !bytes.Equal(got, model) || f.Len != len(model) || int(f.Hdr.CsumStart) != start {
					t.Fatalf("frame of %d is %x, checksum at %d; want %x, %d", f.Len, got, f.Hdr.CsumStart, model, start)
				}
			},
		})
	})
}

func TestVerdict(t *testing.T) {
	if v := RedirectTo(4095); v.Kind() != Redirect || v.Target() != 4095 || Drop.Kind() != Drop {
		t.Errorf("%v is %v to %d", v, v.Kind(), v.Target())
	}
}
