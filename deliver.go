package vasta

import "github.com/vasta-net/vasta/packet"

// Deliver gives the guest a frame as it is, past everything else of the network: gateway, flows, rules and ports. It is what [Config.Redirect] of another network calls to join two
// guests at layer 2, or a [packet.Hook] that gives a frame to several guests and passes it too. The frame is copied, with its virtio-net header; it goes to the guest behind
// those that were delivered before, by the first worker.
//
// True says that the frame waits for the link, up to 4 MiB or 1024 frames of them. What the link cannot carry after all is lost and counted: a frame that is longer than the guest's MTU (long_frame),
// as one is that has to be cut into segments where the link's end does not do that, or whose header contradicts it (bad_vnet_header). A partial checksum is completed for a link that has none.
// False says that there is no room, which is counted (delivery_full), or that the network has ended; what waits then is lost. Before Run, frames wait for it.
//
// Deliver may be called from any goroutine, one of this network's hooks too; it takes no memory but the first time, and does not wait for anybody.
func (n *Network) Deliver(f *packet.Frame) bool { return n.members[0].worker.Deliver(f) }
