package tcp

// Budget bounds the memory that the connections of one worker have promised to their guests: the sum over all
// connections of (advertised right edge - bytes delivered to the host). It is reserved when advertised, so an accepted
// byte always finds room (DESIGN.md, decision 2). Each connection that may still receive has at least its floor reserved, so
// that the others cannot starve it.
type Budget struct {
	Limit    int64 // bytes
	Promised int64 // bytes
	Peak     int64 // the most that Promised has been
}

// Per connection, in bytes: what every connection may advertise, what a young one starts with, and the slack that rounding
// windows up to the window scale may take (see Conn.nextWindow).
const (
	floorWindow = 16 << 10
	startWindow = 65535
	scaleSlack  = 4 << 10
)

// Admit reports whether another connection fits the budget.
func (b *Budget) Admit() bool { return b.Promised+floorWindow+scaleSlack <= b.Limit }

// first is the window that a new connection starts with.
func (b *Budget) first() int64 {
	if b.Promised < b.Limit/4 && b.Promised+startWindow <= b.Limit {
		return startWindow
	}
	return floorWindow
}

// room is how much more one connection may promise: an eighth of what is left, so that no connection takes all.
func (b *Budget) room() int64 { return max(0, (b.Limit-b.Promised)/8) }
