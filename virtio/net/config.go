package net

import "encoding/binary"

// Link states (5.1.4).
const (
	linkUp   = 1
	announce = 2
)

// Config is the configuration space of a network device (5.1.4). A field means something only when its feature was offered.
type Config struct {
	MAC               [6]byte
	Status            uint16
	MaxPairs          uint16 // 1 to 0x8000
	MTU               uint16
	Speed             uint32 // Mbit/s; above 0x7fffffff unknown
	Duplex            uint8
	RSSMaxKey         uint8
	RSSMaxIndirection uint16
	HashTypes         uint32
}

// configLen is the length of the configuration space in bytes.
const configLen = 24

// encode writes the configuration as it lies in the configuration space.
func (c *Config) encode() (b [configLen]byte) {
	le := binary.LittleEndian
	copy(b[:6], c.MAC[:])
	le.PutUint16(b[6:], c.Status)
	le.PutUint16(b[8:], c.MaxPairs)
	le.PutUint16(b[10:], c.MTU)
	le.PutUint32(b[12:], c.Speed)
	b[16], b[17] = c.Duplex, c.RSSMaxKey
	le.PutUint16(b[18:], c.RSSMaxIndirection)
	le.PutUint32(b[20:], c.HashTypes)
	return b
}

// readConfig reads all of the configuration, again while it changes under way (2.5.2): it must not be taken for atomic.
func readConfig(t Transport) (c Config) {
	var b [configLen]byte
	le := binary.LittleEndian
	for range 1000 { // a device that always changes is read as it is in the end
		before := t.ReadConfig(b[:], 0)
		if t.ReadConfig(nil, 0) == before {
			break
		}
	}
	copy(c.MAC[:], b[:6])
	c.Status, c.MaxPairs, c.MTU = le.Uint16(b[6:]), le.Uint16(b[8:]), le.Uint16(b[10:])
	c.Speed, c.Duplex, c.RSSMaxKey = le.Uint32(b[12:]), b[16], b[17]
	c.RSSMaxIndirection, c.HashTypes = le.Uint16(b[18:]), le.Uint32(b[20:])
	return c
}
