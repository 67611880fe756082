package queue

import (
	"errors"
	"fmt"
)

// ErrBroken is what every *BrokenError is (errors.Is).
var ErrBroken = errors.New("virtio queue broken")

// Fault is a way in which a peer departs from the specification.
type Fault uint8

// What a device end may see of a driver.
const (
	FaultAvailIndex      Fault = iota + 1 // avail idx moved back, or by more than can be offered
	FaultHead                             // a head outside of the descriptor table
	FaultHeadTwice                        // a head, or a buffer id, offered again while it is in flight
	FaultNext                             // a next outside of the table
	FaultChainLong                        // a chain of more descriptors than the limit: a loop among others
	FaultChainBytes                       // a chain of more than 2^32 bytes
	FaultAddress                          // a buffer that is not wholly in the memory
	FaultEmpty                            // a descriptor of no bytes
	FaultOrder                            // a readable descriptor behind a writable one
	FaultIndirect                         // an indirect descriptor though the feature was not negotiated
	FaultIndirectNested                   // an indirect descriptor in an indirect table
	FaultIndirectNext                     // an indirect descriptor where it must not be: with NEXT, or in a list of a packed ring
	FaultIndirectLength                   // an indirect table that is empty, too long, or no whole number of descriptors
	FaultIndirectAddress                  // an indirect table that does not lie in one region
	FaultID                               // a buffer id outside of a packed ring

	// What a driver end may see of a device.
	FaultUsedIndex  // used idx moved back, or by more than is in flight
	FaultUsedID     // a buffer returned that is not in flight
	FaultUsedOrder  // a buffer returned out of its turn, though VIRTIO_F_IN_ORDER was negotiated
	FaultUsedLength // more written than the buffer has room for

	numFaults
)

// faults says of each what was wrong, what the two numbers of a BrokenError are, and which section forbids it.
var faults = [numFaults]struct{ what, numbers, section string }{
	FaultAvailIndex:      {"avail idx moved too far or back", "%d, at most %d more can be offered", "2.7.6.1"},
	FaultHead:            {"head outside of the descriptor table", "%d of %d descriptors", "2.7.6"},
	FaultHeadTwice:       {"buffer offered again while it is in flight", "%d of %d descriptors", "2.7.13"},
	FaultNext:            {"next outside of the descriptor table", "%d of %d descriptors", "2.7.5"},
	FaultChainLong:       {"chain too long, or a loop", "%d descriptors, the limit is %d", "2.7.5.3.1, 2.8.17"},
	FaultChainBytes:      {"chain of too many bytes", "%d, the limit is %d", "2.7.5.2"},
	FaultAddress:         {"buffer outside of the memory", "%#x, %d bytes", "2.7.5"},
	FaultEmpty:           {"descriptor of no bytes", "%#x, %d bytes", "2.7.5"},
	FaultOrder:           {"readable descriptor behind a writable one", "%#x, %d bytes", "2.7.4.2, 2.8.17"},
	FaultIndirect:        {"indirect descriptor without the feature", "%#x, %d bytes", "2.7.5.3.1, 2.8.19"},
	FaultIndirectNested:  {"indirect descriptor in an indirect table", "%#x, %d bytes", "2.7.5.3.1"},
	FaultIndirectNext:    {"indirect descriptor with NEXT or in a list", "%#x, %d bytes", "2.7.5.3.1, 2.8.19"},
	FaultIndirectLength:  {"length of an indirect table", "%#x, %d bytes", "2.7.5.3, 2.8.7"},
	FaultIndirectAddress: {"indirect table not in one memory region", "%#x, %d bytes", "2.7.5.3, 2.8.7"},
	FaultID:              {"buffer id outside of the ring", "%d of %d descriptors", "2.8.6"},
	FaultUsedIndex:       {"used idx moved too far or back", "%d, at most %d are in flight", "2.7.8"},
	FaultUsedID:          {"buffer returned that is not in flight", "%d of %d descriptors", "2.7.8, 2.8.6"},
	FaultUsedOrder:       {"buffer returned out of its turn", "%d, at most %d were returned", "2.7.9, 2.8.8"},
	FaultUsedLength:      {"more written than the buffer has room for", "%d bytes of %d", "2.7.8.1, 2.8.4"},
}

func (f Fault) String() string {
	if f == 0 || f >= numFaults {
		return fmt.Sprintf("fault %d", uint8(f))
	}
	return faults[f].what
}

// BrokenError says why a queue is broken: the peer wrote into the ring what it must not.
type BrokenError struct {
	Fault Fault
	At    int    // the place: of the ring's entry, or of the descriptor
	Saw   uint64 // what was read there
	Limit uint64 // what it was compared with, or the length beside it
}

func (e *BrokenError) Error() string {
	if e.Fault == 0 || e.Fault >= numFaults {
		return ErrBroken.Error()
	}
	f := &faults[e.Fault]
	return fmt.Sprintf("%v: %s: at %d: "+f.numbers+" (virtio %s)", ErrBroken, f.what, e.At, e.Saw, e.Limit, f.section)
}

// Is makes every BrokenError an ErrBroken.
func (e *BrokenError) Is(target error) bool { return target == ErrBroken }
