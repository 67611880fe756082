package net

import (
	"encoding/binary"

	"github.com/vasta-net/vasta/packet"
)

// Hash types (5.1.6.5.6.1), as bits of Config.HashTypes and RSSConfig.Types.
const (
	HashIPv4 = 1 << iota
	HashTCPv4
	HashUDPv4
	HashIPv6
	HashTCPv6
	HashUDPv6
)

// allHashes are the types that the device end can compute.
const allHashes = HashIPv4 | HashTCPv4 | HashUDPv4 | HashIPv6 | HashTCPv6 | HashUDPv6

const (
	maxRSSKey         = 40 // of Toeplitz over two IPv6 addresses and two ports
	maxRSSIndirection = 128
)

// RSSConfig says by which queues a device delivers, and what it hashes for that.
type RSSConfig struct {
	Types        uint32   // hash types
	Table        []uint16 // pairs, by the last bits of the hash; a power of two of them, up to Config.RSSMaxIndirection
	Unclassified uint16   // the pair for everything that has no hash
	MaxTx        uint16   // pairs that the driver sends by
	Key          []byte   // up to Config.RSSMaxKey bytes
}

// Toeplitz is the hash of data under a key (5.1.6.5.6.4), which is at least 4 bytes longer than data.
func Toeplitz(key, data []byte) (hash uint32) {
	window := uint64(binary.BigEndian.Uint32(key)) << 32
	for i, b := range data {
		if 4+i < len(key) {
			window |= uint64(key[4+i]) << 24
		}
		for bit := 7; bit >= 0; bit-- {
			if b>>bit&1 != 0 {
				hash ^= uint32(window >> 32)
			}
			window <<= 1
		}
	}
	return hash
}

// hashOf is a frame's hash under a key and what it was made of, in the words of the header's hash_report; 0 when it has none of the types.
func hashOf(f *packet.Frame, types uint32, key []byte) (hash uint32, report uint16) {
	var in flowKey
	k := in.read(f)
	if k.addrs == 0 || len(key) < maxRSSKey {
		return 0, 0
	}
	first, tcp, udp := uint32(HashIPv4), uint32(HashTCPv4), uint32(HashUDPv4)
	if k.addrs > 8 {
		first, tcp, udp = HashIPv6, HashTCPv6, HashUDPv6
	}
	want := uint32(0)
	switch k.proto {
	case packet.ProtoTCP:
		want = tcp
	case packet.ProtoUDP:
		want = udp
	}
	if types&want != 0 && k.ports {
		return Toeplitz(key, in[:k.addrs+4]), reportOf(want)
	}
	if types&first != 0 {
		return Toeplitz(key, in[:k.addrs]), reportOf(first)
	}
	return 0, 0
}

// reportOf is the hash_report of a hash type (5.1.6.4.1): 1 for the first bit, and so on.
func reportOf(hashType uint32) (report uint16) {
	for ; hashType != 0; hashType >>= 1 {
		report++
	}
	return report
}
