package packet

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"golang.org/x/net/bpf"
)

// maxFilter is the longest program in instructions: what the kernel takes (BPF_MAXINSNS).
const maxFilter = 4096

// ParseFilter reads a classic BPF program as tcpdump -ddd prints it for Ethernet: the number of instructions, then four decimal numbers for each.
func ParseFilter(r io.Reader) ([]bpf.RawInstruction, error) {
	lines := bufio.NewScanner(io.LimitReader(r, 1<<20))
	var program []bpf.RawInstruction
	want, at := -1, 0
	for lines.Scan() {
		at++
		fields := strings.Fields(lines.Text())
		if len(fields) == 0 {
			continue
		}
		limits := []uint64{1<<16 - 1, 1<<8 - 1, 1<<8 - 1, 1<<32 - 1}
		if want < 0 {
			limits = []uint64{maxFilter}
		}
		var n [4]uint64
		if len(fields) != len(limits) {
			return nil, fmt.Errorf("line %d: %d numbers instead of %d; tcpdump -ddd prints such a filter", at, len(fields), len(limits))
		}
		for i, s := range fields {
			var err error
			if n[i], err = strconv.ParseUint(s, 10, 64); err != nil || n[i] > limits[i] {
				return nil, fmt.Errorf("line %d: %q is not a number up to %d", at, s, limits[i])
			}
		}
		if want < 0 {
			want = int(n[0])
			continue
		}
		program = append(program, bpf.RawInstruction{Op: uint16(n[0]), Jt: uint8(n[1]), Jf: uint8(n[2]), K: uint32(n[3])})
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if want < 0 {
		return nil, errors.New("it is empty; tcpdump -ddd prints a filter")
	}
	if len(program) != want || want == 0 {
		return nil, fmt.Errorf("%d instructions, but the first line says %d", len(program), want)
	}
	return program, nil
}

// FilterHook passes the frames that a classic BPF program accepts (it answers more than 0), and drops all others. It reads frames as they are, without the virtio-net
// header. The program is checked here: it cannot read beyond a frame, or loop. Each queue needs a hook of its own.
func FilterHook(program []bpf.RawInstruction) (Hook, error) {
	list := make([]bpf.Instruction, len(program))
	for i, raw := range program {
		list[i] = raw.Disassemble()
		if _, unknown := list[i].(bpf.RawInstruction); unknown {
			return nil, fmt.Errorf("instruction %d: unknown operation %#x", i, raw.Op)
		}
	}
	vm, err := bpf.NewVM(list)
	if err != nil {
		return nil, fmt.Errorf("not a valid filter: %w", err)
	}
	var whole []byte // of a frame in several pieces; made when there is one
	return func(frames []Frame, verdicts []Verdict) {
		for i := range frames {
			f := &frames[i]
			if len(f.Bufs) == 0 {
				verdicts[i] = Drop
				continue
			}
			b := f.Bufs[0]
			if len(f.Bufs) > 1 {
				if len(whole) < f.Len {
					whole = make([]byte, max(f.Len, 1<<17))
				}
				b = whole[:f.CopyAt(whole[:f.Len], 0)]
			}
			if n, err := vm.Run(b); err != nil || n == 0 {
				verdicts[i] = Drop
			}
		}
	}, nil
}
