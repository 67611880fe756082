package baseline

import "github.com/vasta-net/vasta/packet"

// Object is a packet the old way: made for each frame, with a copy of it and everything that is known about it, before anybody has asked whether the
// frame is wanted (a socket buffer, an mbuf with its data).
type Object struct {
	Packet packet.Packet
	Hdr    packet.NetHdr
	Frame  packet.Frame

	bufs [1][]byte
	Data [2048]byte
}

// Fill makes the object of a frame: copies it, and parses it. Frames longer than Data are cut.
func (o *Object) Fill(f *packet.Frame) {
	n := f.CopyAt(o.Data[:], 0)
	o.Hdr = f.Hdr
	o.bufs[0] = o.Data[:n]
	o.Frame = packet.Frame{Hdr: f.Hdr, Bufs: o.bufs[:], Len: n}
	o.Packet.Parse(&o.Frame)
}

// Objects is a list of free objects.
type Objects struct{ free []*Object }

// Get takes one that was used before, or a new one.
func (l *Objects) Get() *Object {
	if n := len(l.free); n > 0 {
		o := l.free[n-1]
		l.free = l.free[:n-1]
		return o
	}
	return new(Object)
}

// Put gives it back.
func (l *Objects) Put(o *Object) { l.free = append(l.free, o) }
