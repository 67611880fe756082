package netbench

import "fmt"

// dropName names the vasta that drops when there is no room among the subjects.
const dropName = "vasta-drop"

// eitherOverload accepts vasta in both modes of --overload.
func eitherOverload(s *subject) bool { return s.Name == vastaName || s.Name == dropName }

// overloadStreams are the numbers of streams: the first version of the kernel's queue with stop and wake lost a third at eight.
var overloadStreams = []int{1, 4, 8}

// overloadLoads compare vasta with back-pressure to itself with drops, in TCP. What is lost and what is not, "vasta bench overload" tells.
func overloadLoads() (all []load) {
	for _, streams := range overloadStreams {
		for _, d := range directions {
			all = append(all, load{
				name:  fmt.Sprintf("overload-%d-%s", streams, d.name),
				title: fmt.Sprintf("TCP %d streams, MTU 65520, %s, by --overload", streams, d.title),
				unit:  "Gbit/s", phase: phaseWorkers, when: whenFull, who: eitherOverload, inSession: throughput(streams, d.down),
			})
		}
	}
	return all
}

func overloadBars() barList {
	var b barList
	for _, streams := range overloadStreams {
		for _, d := range directions {
			name := fmt.Sprintf("overload-%d-%s", streams, d.name)
			drop := of(dropName, statMedian, name)
			b.add(fmt.Sprintf("TCP %d streams %s with --overload backpressure", streams, d.title), atLeast(0.97, "of the same with drop", of(vastaName, statMedian, name), &drop), nil)
		}
	}
	return b
}
