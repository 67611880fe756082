//go:build explore

package queue

// The twins of what access_unsafe.go has, for the explorer: the same five operations, each of which the simulated machine carries out. Outside of
// a simulated thread they act on memory at once.

func (w word) load() uint32 {
	if m := running; m != nil {
		return m.load(location{word: w.p})
	}
	return *w.p
}

func (w word) store(v uint32) {
	if m := running; m != nil {
		m.store(location{word: w.p}, v)
		return
	}
	*w.p = v
}

func (h half) load() uint16 {
	if m := running; m != nil {
		return uint16(m.load(location{half: h.p}))
	}
	return *h.p
}

func (h half) store(v uint16) {
	if m := running; m != nil {
		m.store(location{half: h.p}, uint32(v))
		return
	}
	*h.p = v
}

type fence struct{ _ uint32 }

func (*fence) full() {
	if m := running; m != nil {
		m.fence()
	}
}
