// Package bench holds the benchmarks that compare vasta with other programs and
// with what the kernel can do: the command "vasta bench".
package bench

import (
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/vasta-net/vasta/bench/allbench"
	"github.com/vasta-net/vasta/bench/internal/agent"
	"github.com/vasta-net/vasta/bench/netbench"
	"github.com/vasta-net/vasta/bench/overloadbench"
	"github.com/vasta-net/vasta/bench/virtiobench"
	"github.com/vasta-net/vasta/internal/lab/machine"
)

const usage = `Usage: vasta bench BENCHMARK [options]

Benchmarks:
  all       all rows that vasta implements, in one report beside their sources' figures
  net       namespaces: throughput, latency, processor time, start-up and memory
  overload  producers that are faster than their consumer: what is lost, what it costs
  vhost     namespaces over the kernel's vhost-net, in a virtual machine
  virtio    the virtio datapath: page pool, views, receive modes, rings

See vasta bench BENCHMARK --help.
`

// GuestMain is the main function of the first process of the guest machine that "vasta bench net --lab" boots. It returns false at once in any
// other process; when it returns true, the program must end.
func GuestMain() bool { return machine.GuestMain() }

// Main is the command "vasta bench"; args is what follows that word. It returns
// the exit status. A process that it starts to make load comes through Main too,
// and then talks over its standard input.
func Main(args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		fmt.Fprintln(stderr, "vasta bench: no benchmark is named; see vasta bench --help")
		return 2
	}
	switch args[0] {
	case "all":
		return allbench.Main(args[1:], stdout, stderr)
	case "net":
		return netbench.Main(args[1:], stdout, stderr)
	case "overload":
		if lab := slices.Index(args, "--lab"); lab > 0 {
			return netbench.PressureMain(slices.Concat(args[1:lab], args[lab+1:]), stdout, stderr)
		}
		return overloadbench.Main(args[1:], stdout, stderr)
	case "vhost":
		return netbench.VHostMain(args[1:], stdout, stderr)
	case "virtio":
		return virtiobench.Main(args[1:], stdout, stderr)
	case agent.Command:
		return agent.Main(args[1:], os.Stdin, stdout, stderr)
	case "-h", "--help":
		fmt.Fprint(stdout, usage)
		return 0
	}
	fmt.Fprintf(stderr, "vasta bench: there is no benchmark %q; see vasta bench --help\n", args[0])
	return 2
}
