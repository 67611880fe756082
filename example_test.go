package vasta_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"syscall"

	"github.com/vasta-net/vasta"
	"github.com/vasta-net/vasta/link"
	"github.com/vasta-net/vasta/link/mem"
	"github.com/vasta-net/vasta/netns"
	"github.com/vasta-net/vasta/packet"
)

// A command in namespaces of its own, with a network. The program that does this calls netns.StageMain first in main.
func ExampleSandbox() {
	n, err := vasta.New(vasta.Config{}, vasta.Sandbox())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer n.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go n.Run(ctx)
	<-n.Ready()

	// What the command asks for at this address, this program answers.
	l, err := n.Listen("tcp", "198.51.100.7:80")
	if err != nil {
		fmt.Println(err)
		return
	}
	go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "hello, %s\n", r.UserAgent()[:4])
	}))

	err = n.Namespace().Start(netns.Command{
		Argv: []string{"curl", "-sS", "http://198.51.100.7/"}, Env: os.Environ(), Stdout: os.Stdout, Stderr: os.Stderr,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	status, err := n.Namespace().Wait()
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("exit status", status.Shell())
	// Output:
	// hello, curl
	// exit status 0
}

// A guest that is a part of the same program: it asks for the router's Ethernet address.
func ExampleQueues() {
	network, guest, err := mem.New(mem.Config{Offloads: mem.Offloads})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer guest.Close()
	n, err := vasta.New(vasta.Config{
		Guest: vasta.Guest{
			MAC: netns.MAC{2, 0, 0, 0, 0, 1}, Address4: netip.MustParsePrefix("10.0.2.15/24"),
			Gateway: vasta.AddrPair{V4: netip.MustParseAddr("10.0.2.2")}, NoIPv6: true,
		},
	}, vasta.Queues(network))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer n.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go n.Run(ctx)

	request := []byte{
		0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 8, 6, // to everybody: ARP
		0, 1, 8, 0, 6, 4, 0, 1, // a request for an Ethernet address
		2, 0, 0, 0, 0, 1, 10, 0, 2, 15, // from
		0, 0, 0, 0, 0, 0, 10, 0, 2, 2, // who has 10.0.2.2?
	}
	guest.Send(&link.Out{Payload: [][]byte{request}})
	for {
		if err := guest.Wait(ctx); err != nil {
			fmt.Println(err)
			return
		}
		var frames [link.MaxBatch]packet.Frame
		received, err := guest.Receive(frames[:])
		if err != nil {
			fmt.Println(err)
			return
		}
		for _, f := range frames[:received] {
			b := f.Bufs[0] // borrowed until the next Receive
			if b[12] == 8 && b[13] == 6 {
				fmt.Println(net.IP(b[28:32]), "is at", net.HardwareAddr(b[22:28]))
				return
			}
		}
	}
	// Output: 10.0.2.2 is at 9a:55:9a:55:9a:55
}

// Two guests of one program, joined at layer 2: a hook redirects what one sends to the other's Ethernet address.
func ExampleNetwork_Deliver() {
	var guests [2]*mem.Guest
	var networks [2]*vasta.Network
	for i := range networks {
		other := []byte{2, 0, 0, 0, 0, byte(1 - i)} // the Ethernet address of the other guest
		c := vasta.Config{
			Guest: vasta.Guest{MAC: netns.MAC{2, 0, 0, 0, 0, byte(i)}},
			Hook: func(int) packet.Hook {
				return func(frames []packet.Frame, verdicts []packet.Verdict) {
					for k := range frames {
						var to [6]byte
						if frames[k].CopyAt(to[:], 0); bytes.Equal(to[:], other) {
							verdicts[k] = packet.RedirectTo(1 - i)
						}
					}
				}
			},
			Redirect: func(target int, f *packet.Frame) bool { return networks[target].Deliver(f) },
		}
		network, guest, err := mem.New(mem.Config{Offloads: mem.Offloads})
		if err == nil {
			guests[i] = guest
			defer guest.Close()
			networks[i], err = vasta.New(c, vasta.Queues(network))
		}
		if err != nil {
			fmt.Println(err)
			return
		}
		defer networks[i].Close()
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for _, n := range networks { // when both exist
		go n.Run(ctx)
	}

	head := []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0x88, 0xb5} // to guest 1, from guest 0
	guests[0].Send(&link.Out{Head: head, Payload: [][]byte{[]byte("hello, neighbour")}})
	for {
		if err := guests[1].Wait(ctx); err != nil {
			fmt.Println(err)
			return
		}
		var frames [link.MaxBatch]packet.Frame
		received, err := guests[1].Receive(frames[:])
		if err != nil {
			fmt.Println(err)
			return
		}
		for _, f := range frames[:received] {
			b := make([]byte, f.Len)
			if f.CopyAt(b, 0); bytes.HasPrefix(b, head) {
				fmt.Printf("%s\n", b[len(head):])
				return
			}
		}
	}
	// Output: hello, neighbour
}

// Ports come and go while the network works.
func ExampleNetwork_Forward() {
	n, err := vasta.New(vasta.Config{}, vasta.Sandbox())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer n.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go n.Run(ctx)

	rule := vasta.PortRule{Network: "tcp", Addr: netip.MustParseAddr("127.0.0.1"), First: 39910, Last: 39911, Target: 80}
	if err := n.Forward(ctx, rule); err != nil {
		fmt.Println(err)
		return
	}
	for _, r := range n.Forwarded() {
		fmt.Println(r)
	}
	err = n.Forward(ctx, rule)
	var taken *vasta.PortError
	if errors.As(err, &taken) && errors.Is(err, syscall.EADDRINUSE) {
		fmt.Println("taken:", taken.Network, taken.Listen)
	}
	if err := n.Unforward(ctx, rule); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(len(n.Forwarded()), "forwarded")
	// Output:
	// tcp 127.0.0.1 39910-39910 to 80-80
	// tcp 127.0.0.1 39911-39911 to 81-81
	// taken: tcp 127.0.0.1:39910
	// 0 forwarded
}

// A connection from this program to a server inside.
func ExampleNetwork_Dial() {
	n, err := vasta.New(vasta.Config{}, vasta.Sandbox())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer n.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go n.Run(ctx)
	<-n.Ready()
	err = n.Namespace().Start(netns.Command{
		Argv: []string{"sh", "-c", "echo hello from inside | busybox nc -l -p 7000"}, Env: os.Environ(), Stderr: os.Stderr,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	c, err := n.Dial(ctx, "tcp", ":7000")
	for errors.Is(err, syscall.ECONNREFUSED) { // the server has not come to listen yet
		c, err = n.Dial(ctx, "tcp", ":7000")
	}
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	if _, err := io.Copy(os.Stdout, c); err != nil {
		fmt.Println(err)
		return
	}
	// Output: hello from inside
}

// A policy of this program's own: the command may ask one server, and nobody else.
func ExamplePolicy() {
	server := netip.MustParseAddrPort("198.51.100.7:80")
	n, err := vasta.New(vasta.Config{
		Policy: func(f vasta.Flow) vasta.Verdict {
			if f.Network == "tcp" && f.Peer == server {
				return vasta.Allow
			}
			return vasta.Deny
		},
	}, vasta.Sandbox())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer n.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go n.Run(ctx)
	<-n.Ready()
	l, err := n.Listen("tcp", ":80") // whatever address is asked
	if err != nil {
		fmt.Println(err)
		return
	}
	go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "welcome") }))

	err = n.Namespace().Start(netns.Command{
		Argv: []string{"sh", "-c", "curl -sS http://198.51.100.7/; curl -s http://198.51.100.8/ || echo refused: curl says $?"},
		Env:  os.Environ(), Stdout: os.Stdout, Stderr: os.Stderr,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	if _, err := n.Namespace().Wait(); err != nil {
		fmt.Println(err)
	}
	// Output:
	// welcome
	// refused: curl says 7
}
