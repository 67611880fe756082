// Package iperf builds the command lines of iperf3 and reads its JSON reports.
package iperf

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"time"
)

// Program is the name under which iperf3 is looked up in PATH.
const Program = "iperf3"

// Test describes one run of an iperf3 client.
type Test struct {
	Server     netip.AddrPort
	Streams    int           // parallel TCP connections
	Reverse    bool          // the server sends, the client receives
	Duration   time.Duration // whole seconds; ignored when Bytes is set
	Bytes      int64         // how much to send in all, 0 to send for Duration
	Congestion string        // congestion control of both ends
}

// ClientArgs returns the command line of the client, program name included.
func (t Test) ClientArgs() []string {
	args := []string{
		Program, "--json",
		"--client", t.Server.Addr().String(),
		"--port", strconv.Itoa(int(t.Server.Port())),
		"--parallel", strconv.Itoa(t.Streams),
		"--congestion", t.Congestion,
		"--connect-timeout", "3000",
	}
	if t.Bytes > 0 {
		args = append(args, "--bytes", strconv.FormatInt(t.Bytes, 10))
	} else {
		args = append(args, "--time", strconv.Itoa(int(t.Duration/time.Second)))
	}
	if t.Reverse {
		args = append(args, "--reverse")
	}
	return args
}

// ServerArgs returns the command line of a server that serves one client at addr
// and exits.
func ServerArgs(addr netip.AddrPort) []string {
	return []string{
		Program, "--server", "--one-off",
		"--bind", addr.Addr().String(),
		"--port", strconv.Itoa(int(addr.Port())),
	}
}

// Report is what a client measured.
type Report struct {
	BitsPerSecond      float64 // as the receiver counted them, all streams together
	Bytes              int64   // received, all streams together
	Seconds            float64 // the receiver's
	Retransmits        int64   // TCP segments that the sender sent again, all streams together
	SenderCongestion   string
	ReceiverCongestion string
	Version            string // of the client: "iperf 3.12"
}

// report mirrors the part of iperf3's JSON that is read.
type report struct {
	Start struct {
		Version string `json:"version"`
	} `json:"start"`
	End struct {
		SumSent            *sum   `json:"sum_sent"`
		SumReceived        *sum   `json:"sum_received"`
		SenderCongestion   string `json:"sender_tcp_congestion"`
		ReceiverCongestion string `json:"receiver_tcp_congestion"`
	} `json:"end"`
	Error string `json:"error"`
}

type sum struct {
	Seconds       float64 `json:"seconds"`
	Bytes         int64   `json:"bytes"`
	BitsPerSecond float64 `json:"bits_per_second"`
	Retransmits   *int64  `json:"retransmits"`
}

// Parse reads a client's JSON report. It returns an error when the report is not
// JSON, tells of a failure or lacks a sum.
func Parse(data []byte) (Report, error) {
	var r report
	if err := json.Unmarshal(data, &r); err != nil {
		return Report{}, fmt.Errorf("iperf3 report: %w", err)
	}
	if r.Error != "" {
		return Report{}, fmt.Errorf("iperf3: %s", r.Error)
	}
	sent, received := r.End.SumSent, r.End.SumReceived
	if sent == nil || received == nil {
		return Report{}, errors.New("iperf3 report: no sum of bytes sent and received")
	}
	if sent.Retransmits == nil {
		return Report{}, errors.New("iperf3 report: no count of retransmits")
	}
	if received.Bytes == 0 {
		return Report{}, errors.New("iperf3 report: nothing was received")
	}
	return Report{
		BitsPerSecond:      received.BitsPerSecond,
		Bytes:              received.Bytes,
		Seconds:            received.Seconds,
		Retransmits:        *sent.Retransmits,
		SenderCongestion:   r.End.SenderCongestion,
		ReceiverCongestion: r.End.ReceiverCongestion,
		Version:            r.Start.Version,
	}, nil
}
