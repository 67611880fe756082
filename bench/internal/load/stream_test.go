package load

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"
)

func TestStreamsBothWays(t *testing.T) {
	s, err := ListenStreams()
	if err != nil {
		t.Fatal(err)
	}
	for _, server := range []string{"127.7.1.3", "::1"} {
		for _, download := range []bool{false, true} {
			// On a machine with much else to do, a short time may pass with nothing received in it.
			for duration := 100 * time.Millisecond; ; duration *= 2 {
				got, err := Streams{Server: netip.MustParseAddr(server), Count: 3, Download: download, Duration: duration}.Run()
				if err != nil || got.Wrong != 0 {
					t.Fatalf("%s, download %t: %+v, %v", server, download, got, err)
				}
				// What came after the time is right too but does not count.
				within := got.BitsPerSecond / 8 * duration.Seconds()
				if within > float64(got.Bytes)+1 {
					t.Errorf("%s, download %t: %+v", server, download, got)
				}
				if within >= chunkSize {
					break
				}
				if duration > 2*time.Second {
					t.Fatalf("%s, download %t: %+v", server, download, got)
				}
			}
		}
	}
	if got, err := (Streams{Server: netip.MustParseAddr("127.7.1.3"), Count: 1}).Run(); err != nil || got.Bytes != 0 {
		t.Errorf("for no time: %+v, %v", got, err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if got, err := (Streams{Server: netip.MustParseAddr("127.7.1.3"), Count: 2}).Run(); err == nil {
		t.Errorf("nobody listens: %+v", got)
	}
}

// stream is what a stream of two chunks looks like.
func stream(o order) []byte {
	var b []byte
	for i := range 2 {
		b = binary.BigEndian.AppendUint32(b, chunkSize)
		at := (o.begin() + i*chunkSize) % period
		b = append(b, pattern()[at:at+chunkSize]...)
	}
	return append(b, 0, 0, 0, 0)
}

func TestWrongBytesAreSeen(t *testing.T) {
	o := order{stream: 5, duration: time.Minute}
	const head = 4
	for _, test := range []struct {
		name  string
		spoil func(b []byte) []byte
		bytes int64
		wrong string
	}{
		{"none", func(b []byte) []byte { return b }, 2 * chunkSize, ""},
		{"one bit", func(b []byte) []byte { b[head+1000] ^= 4; return b }, 0, "wrong bytes after 0"},
		{"last bit", func(b []byte) []byte { b[len(b)-5] ^= 1; return b }, chunkSize, "wrong bytes after 65536"},
		{"two segments swapped", func(b []byte) []byte {
			x := bytes.Clone(b[head : head+1448])
			copy(b[head:], b[head+1448:head+2*1448])
			copy(b[head+1448:], x)
			return b
		}, 0, "wrong bytes"},
		{"a page missing", func(b []byte) []byte { return append(b[:head+4096:head+4096], b[head+8192:]...) }, 0, "wrong bytes"},
		{"a chunk missing", func(b []byte) []byte { return b[head+chunkSize:] }, 0, "wrong bytes"},
		{"a chunk twice", func(b []byte) []byte { return append(bytes.Clone(b[:head+chunkSize]), b...) }, chunkSize, "wrong bytes"},
		{"cut within", func(b []byte) []byte { return b[:head+100] }, 100, "the end after 100 bytes"},
		{"cut between", func(b []byte) []byte { return b[:len(b)-4] }, 2 * chunkSize, "the end after 131072 bytes"},
		{"too long", func(b []byte) []byte { return append(b, 1) }, 2 * chunkSize, "more bytes"},
		{"another stream", func([]byte) []byte { return stream(order{stream: 6}) }, 0, "wrong bytes"},
		{"the other way", func([]byte) []byte { return stream(order{stream: 5, download: true}) }, 0, "wrong bytes"},
		{"a length", func(b []byte) []byte { b[0] = 1; return b }, 0, "a chunk of"},
	} {
		got, err := o.receive(bytes.NewReader(test.spoil(stream(o))))
		if err != nil || (test.wrong == "") != (got.wrong == "") || !strings.Contains(got.wrong, test.wrong) {
			t.Errorf("%s: %+v, %v", test.name, got, err)
		}
		if test.wrong == "" || strings.HasPrefix(test.wrong, "the end") || strings.HasSuffix(test.wrong, "65536") {
			if got.bytes != test.bytes {
				t.Errorf("%s: %d bytes right, want %d", test.name, got.bytes, test.bytes)
			}
		}
	}
}

func TestWhatComesLateDoesNotCount(t *testing.T) {
	o := order{duration: -time.Second}
	got, err := o.receive(bytes.NewReader(stream(o)))
	if err != nil || got.bytes != 2*chunkSize || got.within != 0 {
		t.Errorf("%+v, %v", got, err)
	}
}

// timedOut is a stream of which, after some bytes, no more come in time.
type timedOut struct{ io.Reader }

func (r timedOut) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	if errors.Is(err, io.EOF) {
		err = os.ErrDeadlineExceeded
	}
	return n, err
}

func TestCutStreams(t *testing.T) {
	o := order{duration: time.Minute}
	whole := stream(o)
	got, err := o.receive(timedOut{bytes.NewReader(whole[:5000])})
	if err != nil || !got.cut || got.stuck || got.wrong != "" || got.bytes != 4996 {
		t.Errorf("one that was still coming: %+v, %v", got, err)
	}
	if got, err := got.ended(os.ErrDeadlineExceeded, time.Now().Add(-stallLimit)); err != nil || !got.stuck {
		t.Errorf("one that was stuck: %+v, %v", got, err)
	}
	whole[70] ^= 1
	if got, err := o.receive(timedOut{bytes.NewReader(whole[:5000])}); err != nil || got.cut || got.wrong == "" {
		t.Errorf("one with wrong bytes: %+v, %v", got, err)
	}
}

func TestSumOfStreams(t *testing.T) {
	got := Streams{Duration: 2 * time.Second}.sum([]outcome{
		{bytes: 100, within: 50}, {bytes: 7, within: 7, cut: true}, {cut: true, stuck: true}, {bytes: 3, within: 3, wrong: "a byte"},
	})
	if want := (Streamed{Bytes: 110, BitsPerSecond: 240, Wrong: 1, Cut: 2, Stuck: 1, Example: "a byte"}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestOutcomeSurvivesTheReport(t *testing.T) {
	for _, want := range []outcome{
		{bytes: 1 << 40, within: 77, cut: true, wrong: "wrong bytes"},
		{bytes: 5, cut: true, stuck: true},
		{bytes: 6},
	} {
		got, err := readOutcome(bytes.NewReader(want.report()))
		if err != nil || got != want {
			t.Errorf("%+v, %v, want %+v", got, err, want)
		}
	}
	if _, err := readOutcome(strings.NewReader("short")); err == nil {
		t.Error("a report of five bytes")
	}
}
