// Package vasta gives a guest a network through the sockets of the machine it runs on, without privileges: the guest (a command in a Linux namespace, a
// virtual machine, or a part of the same program) sends Ethernet frames, and vasta opens, moves and ends TCP, UDP and ICMP flows for it as an ordinary user.
// It is the library under the program of the same name.
//
//	n, err := vasta.New(vasta.Config{}, vasta.Sandbox())
//	if err != nil { … }
//	defer n.Close()
//	go n.Run(ctx)
//	<-n.Ready()
//	err = n.Namespace().Start(netns.Command{Argv: []string{"curl", "https://example.org"}, Stdout: os.Stdout})
//	status, err := n.Namespace().Wait()
//
// # A network's life
//
// New takes a Config and a Link, binds forwarded ports and makes namespaces; Run moves data until its context ends; Close gives everything back. There may be
// any number of networks in a process. A network keeps no state outside itself: it takes no signals, sets no limits, writes nothing but to the slog.Logger it
// is given, and ends nothing but what it has started.
//
// # Links
//
// Sandbox makes namespaces for a command; Attach and NetNS give an existing one a network; TAP and Socket take a descriptor that somebody else has opened,
// such as a virtual machine's; Queues takes any link.Queue, and package link/mem has one whose other end a Go program holds. Programs that use the first
// three call netns.StageMain first in main.
//
// # What leads where
//
// The guest reaches what the host reaches. The host's loopback is closed unless Config.Mapping opens it; ports lead into the guest by Config.Ports and
// Network.Forward; the program itself talks to the guest by Network.Dial and Network.Listen, without any address of the host's. Config.Policy is asked about
// every flow.
//
// # Stability
//
// This is version 0: any minor version may change the interfaces, and says so in CHANGELOG.md. What is exported here is meant to last in kind; the packages
// worker, flow, gateway and hostsock, which it stands on, are exported for the curious and change without notice.
package vasta
