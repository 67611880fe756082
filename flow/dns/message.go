package dns

import "encoding/binary"

// A message begins with 12 bytes: identifier, flags, and the numbers of records of four sections (RFC 1035, 4.1.1). Nothing
// behind the question is looked at.
const (
	headerLen = 12
	maxName   = 255 // bytes, RFC 1035, 3.1

	flagResponse  = 0x80 // in byte 2
	flagTruncated = 0x02
	rcodeMask     = 0x0f // in byte 3
)

// Response codes (RFC 1035, 4.1.1).
const (
	formatError    = 1
	serverFailure  = 2
	notImplemented = 4
	refused        = 5
)

// question returns the length of a message up to the end of its only question; false when it has none, several, or one that
// is malformed. Names in a question are not compressed: there is nothing before them that they could point to.
func question(msg []byte) (end int, ok bool) {
	if len(msg) < headerLen || binary.BigEndian.Uint16(msg[4:]) != 1 {
		return 0, false
	}
	const typeAndClass = 4
	for at := headerLen; at < len(msg) && at < headerLen+maxName; {
		n := int(msg[at])
		at++
		if n == 0 {
			return at + typeAndClass, at+typeAndClass <= len(msg)
		}
		if n > 63 {
			return 0, false
		}
		at += n
	}
	return 0, false
}

// answers reports whether a response is to a query of which the question is known: the same name, whatever the case of its letters,
// type and class (RFC 5452, 9.1). A server that did not understand the question may leave it out.
func answers(query, response []byte) bool {
	end, _ := question(query)
	if binary.BigEndian.Uint16(response[4:]) == 0 {
		return rcode(response) != 0
	}
	got, ok := question(response)
	if !ok || got != end {
		return false
	}
	for i := headerLen; i < end; i++ {
		if lower(query[i]) != lower(response[i]) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

func isResponse(msg []byte) bool { return msg[2]&flagResponse != 0 }

func rcode(msg []byte) int { return int(msg[3] & rcodeMask) }

func identifier(msg []byte) uint16 { return binary.BigEndian.Uint16(msg) }

func setIdentifier(msg []byte, id uint16) { binary.BigEndian.PutUint16(msg, id) }

// failure appends the answer to a query that says that there is none, and why.
func failure(b, query []byte, code byte) []byte {
	b = Truncate(append(b, query...))
	b[2] = b[2]&^flagTruncated | flagResponse
	b[3] = 0x80 | code // recursion available
	return b
}

// Truncate cuts a message such that nothing but its header and question is left, and says so in its header (RFC 1035, 4.1.1): whoever
// gets it asks again over TCP. The message is at least 12 bytes long.
func Truncate(msg []byte) []byte {
	end, ok := question(msg)
	if !ok {
		end = headerLen
		binary.BigEndian.PutUint16(msg[4:], 0)
	}
	msg[2] |= flagTruncated
	clear(msg[6:headerLen])
	return msg[:end]
}
