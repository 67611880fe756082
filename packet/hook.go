package packet

// Verdict is what becomes of a frame.
type Verdict uint16

// The verdicts. A Redirect has the number of a target beside it: see RedirectTo.
const (
	Pass     Verdict = iota // goes its usual way
	Drop                    // ends here
	TX                      // goes back where it came from, as it is now
	Redirect                // goes elsewhere, as a copy
)

// RedirectTo is the verdict for a target, 0 to 4095. What the numbers mean is the affair of who carries it out: Redirect in the driver's configuration, or the network's.
func RedirectTo(target int) Verdict { return Redirect | Verdict(target)<<4 }

// Kind is the verdict without its target, and Target the target.
func (v Verdict) Kind() Verdict { return v & 0xf }

// Target is the number of where a Redirect goes to.
func (v Verdict) Target() int { return int(v >> 4) }

// Hook looks at a batch of frames before anything has been made of them, and writes a verdict for each. All verdicts are Pass when it is called. It may change
// the frames: their bytes, where the link's memory is its own, and their length at both ends (Push, Pull, Resize). What it sees is borrowed until it
// returns. It belongs to the goroutine of the queue it is called on, and must not block.
type Hook func(frames []Frame, verdicts []Verdict)

// SetRoom tells a frame what memory its first piece lies in: Bufs[0] begins at room[at], and what is in front of it, and behind if it is the only piece, may be used
// by Push and Resize. Links do that; without it a frame has no room.
func (f *Frame) SetRoom(room []byte, at int) { f.room, f.at = room, at }

// Headroom is how many bytes Push can add.
func (f *Frame) Headroom() int { return f.at }

// Tailroom is how many bytes Resize can add.
func (f *Frame) Tailroom() int {
	if len(f.Bufs) != 1 || f.room == nil {
		return 0
	}
	return len(f.room) - f.at - len(f.Bufs[0])
}

// Push puts n bytes, of whatever contents, in front of the frame. False says that there is no room. The offsets in the header move along.
func (f *Frame) Push(n int) bool {
	if n == 0 {
		return true // without room too
	}
	if n < 0 || n > f.at || len(f.Bufs) == 0 {
		return false
	}
	f.at -= n
	f.Bufs[0] = f.room[f.at : f.at+n+len(f.Bufs[0])]
	f.Len += n
	f.shift(n)
	return true
}

// Pull takes n bytes off the front, all of them in the first piece, which must not end with them. The room is larger by as much.
func (f *Frame) Pull(n int) bool {
	if n < 0 || len(f.Bufs) == 0 || n >= len(f.Bufs[0]) {
		return false
	}
	if f.room != nil {
		f.at += n
	}
	f.Bufs[0] = f.Bufs[0][n:]
	f.Len -= n
	f.shift(-n)
	return true
}

// shift moves what the header says about places in the frame. What lies in front of the frame now cannot be asked for any more.
func (f *Frame) shift(n int) {
	if f.Hdr.Flags&FlagNeedsCsum != 0 {
		if at := int(f.Hdr.CsumStart) + n; at >= 0 && at <= 0xffff {
			f.Hdr.CsumStart = uint16(at)
		} else {
			f.Hdr.Flags &^= FlagNeedsCsum
		}
	}
	if f.Hdr.HdrLen != 0 {
		f.Hdr.HdrLen = uint16(max(0, min(0xffff, int(f.Hdr.HdrLen)+n)))
	}
}

// Resize sets the length of the frame: less cuts off its end, more takes from the room behind it. False says that there is not as much, or that
// nothing would be left.
func (f *Frame) Resize(n int) bool {
	if n > f.Len {
		more := n - f.Len
		if more > f.Tailroom() {
			return false
		}
		f.Bufs[0] = f.room[f.at : f.at+n]
		f.Len = n
		return true
	}
	if n < 1 {
		return false
	}
	left := n
	for i, b := range f.Bufs {
		if left <= len(b) {
			f.Bufs[i] = b[:left]
			f.Bufs = f.Bufs[:i+1]
			break
		}
		left -= len(b)
	}
	f.Len = n
	return true
}
