// Package kernel drives the Linux kernel's vhost-net: a device whose two rings the kernel serves in a thread of its own, moving frames between them and a TAP.
//
// What a frame costs a program that reads and writes the TAP (a system call each) costs the kernel's thread here; the program and the kernel share
// memory, and call each other only when one of them sleeps.
//
//	h, err := kernel.Open(kernel.Path)            // once for each queue pair
//	d, err := kernel.New(kernel.Config{Calls: h, TAP: fd, Call: bell})
//	d.Map(mem, memfd); d.SetFeatures(f); d.Attach(kernel.RX, rx); d.Attach(kernel.TX, tx)
//	d.Start()
//
// The TAP has been opened with IFF_TAP, IFF_NO_PI and IFF_VNET_HDR and a header of 12 bytes; checksums and segmentation are its affair (TUNSETOFFLOAD), not vhost's.
//
// A vhost call needs no capability, only the device, which belongs to group kvm on most systems. Its owner is the address space of the process that
// has called SetOwner: a descriptor may come from elsewhere, a device may not.
//
// What an older kernel lacks is found out by trying: it takes an ioctl that it does not know for one about a ring and answers what comes of that,
// often ENOBUFS, so any error means that there is no such thing.
package kernel
