package stats

// Shortage is what there was too little of when an idle flow was ended to make room.
type Shortage uint8

// The shortages. Each has a stable name in the JSON output (see String).
const (
	OfFlows       Shortage = iota // as many flows as there may be
	OfDescriptors                 // the system gave no socket: EMFILE, ENFILE, ENOBUFS
	OfBudget                      // memory promises would exceed the budget
	OfSendMemory                  // no page to read host data into
	NumShortages  = iota          // how many there are
)

var shortageNames = [NumShortages]string{"flows", "descriptors", "budget", "send_memory"}

// String is the shortage's name in the JSON output.
func (s Shortage) String() string {
	if int(s) < len(shortageNames) {
		return shortageNames[s]
	}
	return "unknown"
}
