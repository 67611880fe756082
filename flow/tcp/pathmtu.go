package tcp

import "github.com/vasta-net/vasta/packet"

// Lower bounds of a path's MTU in bytes: whoever says less is not believed, since tiny segments would be its gain (RFC 5927, 7.2). For IPv4 that is
// what Linux takes (net.ipv4.route.min_pmtu), for IPv6 what every link has.
const (
	minPath4 = 552
	minPath6 = 1280
)

// TooBig tells that a router on the guest's side has dropped a segment which began at sequence number seq, because it was longer than mtu bytes with its
// IP header. What the router cannot have seen is refused (RFC 5927, 4.1), and so is what changes nothing: false. Otherwise segments are of that size from
// now on, and what is on its way in longer ones is sent again with the next Output: it was lost for its size, which says nothing of
// congestion (RFC 8201, 5.2).
func (c *Conn) TooBig(seq uint32, mtu int) bool {
	off := c.ourOff(seq)
	if c.state != Open || off < c.una || off >= c.nxt {
		return false
	}
	mss := max(mtu, minPath4) - packet.IPv4Len - packet.TCPLen
	if c.config.V6 {
		mss = max(mtu, minPath6) - packet.IPv6Len - packet.TCPLen
	}
	if c.has(useTimes) {
		mss -= timesLen
	}
	if mss >= c.mss {
		return false
	}
	for i := range c.sb.n {
		if r := c.sb.at(i); r.fate == flying && r.to > off && r.to-r.from > int64(mss) {
			c.sb.move(r, lost)
		}
	}
	c.setMSS(mss)
	return true
}

// setMSS has segments carry mss bytes at most, and frames as many whole segments as fit.
func (c *Conn) setMSS(mss int) {
	c.mss, c.cc.mss = mss, int64(mss)
	c.frameLen = mss
	if gso := c.config.MaxGSO; gso > 0 {
		if c.has(useTimes) {
			gso -= timesLen
		}
		c.frameLen = max(1, gso/mss) * mss
	}
}
