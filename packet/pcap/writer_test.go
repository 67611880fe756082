package pcap

import (
	"bytes"
	"encoding/csv"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
	"github.com/vasta-net/vasta/packet"
)

// udpFrame is a valid frame that carries n bytes of payload.
func udpFrame(t testing.TB, n int) []byte {
	t.Helper()
	eth := &layers.Ethernet{SrcMAC: []byte{2, 0, 0, 0, 0, 1}, DstMAC: []byte{2, 0, 0, 0, 0, 2}, EthernetType: layers.EthernetTypeIPv4}
	ip := &layers.IPv4{Version: 4, IHL: 5, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: []byte{10, 0, 0, 1}, DstIP: []byte{10, 0, 0, 2}}
	udp := &layers.UDP{SrcPort: 1000, DstPort: 2000}
	if err := udp.SetNetworkLayerForChecksum(ip); err != nil {
		t.Fatal(err)
	}
	b := gopacket.NewSerializeBuffer()
	opts := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(b, opts, eth, ip, udp, gopacket.Payload(make([]byte, n))); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func create(t *testing.T, path string, log io.Writer) *Writer {
	t.Helper()
	w, err := Create(path, "vasta0", slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// run gives a tool's standard output. Whatever it says besides is a failure.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Fatalf("%v: apt-get install tshark", err)
	}
	var stderr bytes.Buffer
	c := exec.Command(name, args...)
	c.Stderr = &stderr
	out, err := c.Output()
	msg := strings.ReplaceAll(stderr.String(), "Running as user \"root\" and group \"root\". This could be dangerous.\n", "")
	if err != nil || strings.TrimSpace(msg) != "" {
		t.Fatalf("%s %v: %v: %s", name, args, err, msg)
	}
	return string(out)
}

// readAll reads a capture with the library's reader, which must find it whole.
func readAll(t *testing.T, r io.Reader) (frames [][]byte, stats pcapgo.NgInterfaceStatistics) {
	t.Helper()
	ng, err := pcapgo.NewNgReader(r, pcapgo.DefaultNgReaderOptions)
	if err != nil {
		t.Fatal(err)
	}
	for {
		b, _, err := ng.ReadPacketData()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatalf("frame %d: %v", len(frames), err)
		}
		frames = append(frames, b)
	}
	intf, err := ng.Interface(0)
	if err != nil {
		t.Fatal(err)
	}
	return frames, intf.Statistics
}

func TestWiresharkReadsIt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.pcapng")
	var log bytes.Buffer
	w := create(t, path, &log)
	at := time.Date(2026, 11, 20, 17, 0, 0, 123456789, time.UTC)
	w.now = func() time.Time { at = at.Add(time.Nanosecond); return at }

	small, big := udpFrame(t, 18), udpFrame(t, 65507)
	w.Capture(FromGuest, &packet.NetHdr{}, [][]byte{small})
	w.Capture(ToGuest, &packet.NetHdr{Flags: packet.FlagNeedsCsum}, [][]byte{small[:14], small[14:34], small[34:]})
	w.Capture(ToGuest, &packet.NetHdr{GSOType: packet.GSOUDPL4, GSOSize: 1472, HdrLen: 42}, [][]byte{big[:42], big[42:]})
	w.Capture(FromGuest, &packet.NetHdr{GSOType: packet.GSOTCPv4 | packet.GSOECN, GSOSize: 1448, HdrLen: 66}, [][]byte{big})
	w.Capture(FromGuest, &packet.NetHdr{GSOType: packet.GSOTCPv6, GSOSize: 1428, HdrLen: 86}, [][]byte{small})
	w.Capture(FromGuest, &packet.NetHdr{GSOType: 3, GSOSize: 7}, [][]byte{small})
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Errorf("a second Close: %v", err)
	}
	w.Capture(FromGuest, &packet.NetHdr{}, [][]byte{small})
	if log.Len() > 0 {
		t.Errorf("logged: %s", &log)
	}

	out := run(t, "tshark", "-r", path, "-T", "fields", "-E", "separator=,", "-E", "quote=d", "-e", "frame.len", "-e", "frame.time_epoch",
		"-e", "frame.interface_name", "-e", "frame.packet_flags_direction", "-e", "frame.comment", "-e", "udp.dstport")
	got, err := csv.NewReader(strings.NewReader(out)).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	const in, outward = "0x00000001", "0x00000002"
	frame := func(i, n int, dir, comment string) []string {
		return []string{fmt.Sprint(n), fmt.Sprintf("%d.%09d", at.Unix(), 123456789+i), "vasta0", dir, comment, "2000"}
	}
	want := [][]string{
		frame(1, 60, in, ""),
		frame(2, 60, outward, ""),
		frame(3, 65549, outward, "GSO size 1472 type UDP headers 42"),
		frame(4, 65549, in, "GSO size 1448 type TCPv4+ECN headers 66"),
		frame(5, 60, in, "GSO size 1428 type TCPv6 headers 86"),
		frame(6, 60, in, "GSO size 7 type 0x3 headers 0"),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("tshark reads (-want +got):\n%s", diff)
	}
	if info := run(t, "capinfos", "-t", "-c", "-E", path); !strings.Contains(info, "pcapng") || !strings.Contains(info, "Ethernet") {
		t.Errorf("capinfos says: %s", info)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the file is %v, %v: others may read it", st.Mode(), err)
	}
}

// A capture is there to be looked at while it runs.
func TestFlushesByItself(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.pcapng")
	w := create(t, path, os.Stderr)
	defer w.Close()
	for round := 1; round <= 2; round++ {
		w.Capture(FromGuest, &packet.NetHdr{}, [][]byte{udpFrame(t, 100)})
		frames := 0
		for deadline := time.Now().Add(3 * flushDelay); frames < round && time.Now().Before(deadline); time.Sleep(flushDelay / 20) {
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if len(b) > 0 {
				got, _ := readAll(t, bytes.NewReader(b))
				frames = len(got)
			}
		}
		if frames != round {
			t.Fatalf("%d frames are in the file, want %d", frames, round)
		}
	}
}

func TestManyFramesFromManyWorkers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.pcapng")
	w := create(t, path, os.Stderr)
	const workers, each = 3, 200
	var wg sync.WaitGroup
	for i := range workers {
		wg.Go(func() {
			for n := range each {
				f := udpFrame(t, 8000+n)
				f[len(f)-1] = byte(i)
				w.Capture(ToGuest, &packet.NetHdr{}, [][]byte{f})
			}
		})
	}
	wg.Wait()
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	frames, stats := readAll(t, f)
	seen := [workers]int{} // frames of each so far, which come in order
	for _, b := range frames {
		i := b[len(b)-1]
		if want := len(udpFrame(t, 8000+seen[i])); len(b) != want {
			t.Fatalf("frame %d of worker %d has %d bytes, want %d", seen[i], i, len(b), want)
		}
		seen[i]++
	}
	if len(frames) != workers*each || stats.PacketsReceived != workers*each || stats.PacketsDropped != 0 {
		t.Errorf("%d frames, statistics %+v", len(frames), stats)
	}
}

func TestLongFrameIsCut(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.pcapng")
	w := create(t, path, os.Stderr)
	half := make([]byte, snapLen/2+100)
	w.Capture(ToGuest, &packet.NetHdr{}, [][]byte{half, half})
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	out := run(t, "tshark", "-r", path, "-T", "fields", "-e", "frame.len", "-e", "frame.cap_len")
	if want := fmt.Sprintf("%d\t%d\n", 2*len(half), snapLen); out != want {
		t.Errorf("frame.len and frame.cap_len are %q, want %q", out, want)
	}
}

func TestCreateFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "missing", "c.pcapng")
	_, err := Create(path, "vasta0", slog.Default())
	if want := "packet capture: open " + path + ": no such file or directory"; err == nil || err.Error() != want {
		t.Errorf("Create: %v, want %s", err, want)
	}
}

// A file that cannot be written ends the capture, with one line, and nothing else.
func TestWriteErrorEndsCapture(t *testing.T) {
	var log bytes.Buffer
	w := create(t, "/dev/full", &log)
	f := udpFrame(t, 60000)
	for range 50 {
		w.Capture(FromGuest, &packet.NetHdr{}, [][]byte{f})
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if s := log.String(); strings.Count(s, "\n") != 1 || !strings.Contains(s, "no space left on device") || !strings.Contains(s, "/dev/full") {
		t.Errorf("logged %q", s)
	}
}

// A full disk leaves a file that can be read, up to where the space ended.
func TestFullDiskLeavesReadableFile(t *testing.T) {
	dir := t.TempDir()
	// In a mount namespace that goes with this thread, and the thread with the test: it is never unlocked.
	runtime.LockOSThread()
	err := syscall.Unshare(syscall.CLONE_NEWNS)
	if err == nil {
		err = syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, "")
	}
	if err == nil {
		err = syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m")
	}
	if err != nil {
		t.Fatalf("mount a small tmpfs: %v; the tests need root", err)
	}
	defer func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	}()
	var log bytes.Buffer
	path := filepath.Join(dir, "c.pcapng")
	w := create(t, path, &log)
	b := udpFrame(t, 50000)
	for range 100 {
		w.Capture(FromGuest, &packet.NetHdr{}, [][]byte{b})
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if strings.Count(log.String(), "\n") != 1 {
		t.Errorf("logged %q", &log)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if frames, _ := readAll(t, f); len(frames) < 5 || len(frames) > 1<<20/len(b) {
		t.Errorf("%d frames of %d bytes are in a file on a disk of 1 MiB", len(frames), len(b))
	}
}

// openPipe makes a pipe that has a reader, who may or may not read.
func openPipe(t *testing.T) (path string, reader *os.File) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	reader, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { reader.Close() })
	return path, reader
}

// A reader that stops delays the link once, by a bounded time, and costs frames, which are counted.
func TestStalledReader(t *testing.T) {
	path, reader := openPipe(t)
	var log bytes.Buffer
	w := create(t, path, &log)
	f := udpFrame(t, 60000)
	const n = 200
	start := time.Now()
	for range n {
		w.Capture(FromGuest, &packet.NetHdr{}, [][]byte{f})
	}
	if d := time.Since(start); d > 10*stallLimit {
		t.Errorf("%d frames into a pipe that nobody reads took %v", n, d)
	}
	// The pipe is also open for writing here, so the end of the capture is not the end of the pipe: read until the
	// statistics, which come last.
	received := make(chan []byte, 1)
	go func() {
		var all []byte
		b := make([]byte, 1<<20)
		for {
			m, err := reader.Read(b)
			all = append(all, b[:m]...)
			if err != nil {
				received <- all
				return
			}
		}
	}()
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := reader.SetReadDeadline(time.Now().Add(stallLimit)); err != nil {
		t.Fatal(err)
	}
	frames, stats := readAll(t, bytes.NewReader(<-received))
	if stats.PacketsDropped == 0 || stats.PacketsReceived != n || uint64(len(frames)) != n-stats.PacketsDropped {
		t.Errorf("%d frames, statistics %+v", len(frames), stats)
	}
	if s := log.String(); strings.Count(s, "\n") != 1 || !strings.Contains(s, fmt.Sprintf("lost=%d seen=%d", stats.PacketsDropped, n)) {
		t.Errorf("logged %q", s)
	}
}

func TestCloseGivesUp(t *testing.T) {
	path, _ := openPipe(t)
	w := create(t, path, io.Discard)
	for range 100 {
		w.Capture(FromGuest, &packet.NetHdr{}, [][]byte{udpFrame(t, 60000)})
	}
	closed := make(chan error, 1)
	go func() { closed <- w.Close() }()
	select {
	case err := <-closed:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(3 * closeLimit):
		t.Error("Close waits for a pipe that nobody reads")
	}
}

func BenchmarkCapture(b *testing.B) {
	w, err := Create(filepath.Join("/dev", "null"), "vasta0", slog.Default())
	if err != nil {
		b.Fatal(err)
	}
	f := udpFrame(b, 60000)
	bufs := [][]byte{f[:42], f[42:]}
	b.SetBytes(int64(len(f)))
	b.ReportAllocs()
	for b.Loop() {
		w.Capture(ToGuest, &packet.NetHdr{}, bufs)
	}
	if err := w.Close(); err != nil {
		b.Fatal(err)
	}
}
