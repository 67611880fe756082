// Package queue holds the two ends of a virtqueue: the driver end, which offers buffers, and the device end, which takes them, works on
// them and returns them. Both exist for both ring formats of the virtio specification, split (section 2.7 of virtio 1.2 and 1.3) and packed
// (2.8), over any memory that the two ends share: a memfd, the memory of a virtual machine, or the Go heap.
//
// # The way of a buffer
//
//	driver                          ring                          device
//	Publish  ── descriptors, then avail idx (split) or the first flags (packed) ──▶  Take
//	ShouldNotify? kick ───────────────────────────────────────────▶  wakes, if it slept after Listen
//	                                                              reads Chain.Out, writes Chain.In
//	Reap     ◀── used elements, then used idx (split) or the first flags (packed) ──  Return
//	wakes, if it slept after Listen  ◀─────────────────── ShouldNotify? call
//
// Each step takes a batch. Publish and Return store one word, whatever the size of the batch: everything before is seen by an end that
// has seen the word. The calls that carry a notification across (an eventfd, an interrupt, a channel) are the caller's: the queue says
// whether one is wanted.
//
// An end that wants to sleep calls Listen, which asks for a notification and then looks once more; it sleeps only when Listen answers
// false. The other end calls ShouldNotify after each Publish or Return. Each of the two writes first, then crosses a full fence, then
// reads what the other has written: so at least one of them sees the other, and no wake-up is lost (2.7.7, 2.7.10, 2.8.10; the explorer in
// explore_test.go runs this code through every interleaving).
//
// # Trust
//
// The peer owns the shared memory too and may write anything at any time. Every field of it is read once into a local variable, then checked,
// then used. (The Go memory model, "Incorrect compilation", forbids a compiler to read such a variable's source again.) Indexes are compared
// with the sizes of private tables, lengths with what was offered, addresses with the Memory. What cannot come from a peer that keeps to the
// specification breaks the queue: the call returns a *BrokenError that says what was seen, and so does every later one until Reset. Other
// queues are not concerned. Nothing here panics, blocks or loops for longer than the ring is because of what the peer writes. A mapping that
// loses its pages (a truncated memfd) ends the process, unless it is sealed or the calls are made under Memory.Guard, which makes it an error like the others.
//
// What a peer may do to its own harm is not an error: a buffer that lies over the ring itself, an event index that means nothing.
//
// # Concurrency
//
// Each end belongs to one goroutine at a time; the two ends of a queue run in parallel, in one process or in two. No call allocates
// after construction, except for the one error when a queue breaks.
package queue
