package page

import (
	"context"
	"image"
	"image/color"
	"image/png"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestPageInBrowser: a real browser shows the page: the bars, as long as they are to be, names beside them, and nothing to complain about.
func TestPageInBrowser(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "page.html")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := shown().Write(f); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	seen, complaints := screenshot(t, file)
	if complaints != "" {
		t.Errorf("the browser complains: %s", complaints)
	}
	bars := barsIn(seen)
	if len(bars) != 2 {
		t.Fatalf("bars at %v; want two", bars)
	}
	long, short := bars[0], bars[1]
	if long.Min.X != short.Min.X || long.Dx() < 300 || abs(long.Dx()-2*short.Dx()) > 3 || long.Dy() < 10 || short.Dy() < 10 {
		t.Errorf("bars at %v and %v; want the second below the first, half as long", long, short)
	}
	for _, b := range bars {
		if dark(seen, image.Rect(0, b.Min.Y, b.Min.X, b.Max.Y)) == 0 {
			t.Errorf("no name is left of the bar at %v", b)
		}
		if dark(seen, image.Rect(b.Max.X+2, b.Min.Y, seen.Bounds().Max.X, b.Max.Y)) == 0 {
			t.Errorf("no value is right of the bar at %v", b)
		}
	}
}

// screenshot is what the browser shows of a file, and what it writes to its console.
func screenshot(t *testing.T, file string) (seen image.Image, complaints string) {
	t.Helper()
	browser, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatalf("%v: the page is tested in a real browser; make prepare installs Debian's chromium", err)
	}
	profile, err := os.MkdirTemp("", "vasta-browser-")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Second)
	defer cancel()
	picture := filepath.Join(filepath.Dir(file), "page.png")
	// Without the flags about networking and services it looks for hosts of its maker's.
	cmd := exec.CommandContext(ctx, browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
		"--disable-component-update", "--disable-sync", "--disable-breakpad", "--enable-logging=stderr", "--user-data-dir="+profile,
		"--hide-scrollbars", "--force-device-scale-factor=1", "--window-size=1000,1000", "--screenshot="+picture, (&url.URL{Scheme: "file", Path: file}).String())
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	output, err := cmd.CombinedOutput()
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // helpers that are still about to end
	_ = os.RemoveAll(profile)
	if err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, output)
	}
	for line := range strings.Lines(string(output)) {
		if strings.Contains(line, ":CONSOLE") {
			complaints += line
		}
	}
	f, err := os.Open(picture)
	if err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	defer f.Close()
	if seen, err = png.Decode(f); err != nil {
		t.Fatal(err)
	}
	return seen, complaints
}

// barsIn finds the bars by their colour, from above.
func barsIn(m image.Image) (bars []image.Rectangle) {
	bar := color.RGBA{0x3b, 0x76, 0xc4, 0xff}
	inside := false
	for y := m.Bounds().Min.Y; y < m.Bounds().Max.Y; y++ {
		first, end := -1, -1
		for x := m.Bounds().Min.X; x < m.Bounds().Max.X; x++ {
			if color.RGBAModel.Convert(m.At(x, y)) == bar {
				if first < 0 {
					first = x
				}
				end = x + 1
			}
		}
		row := image.Rect(first, y, end, y+1)
		switch {
		case first < 0:
		case inside:
			bars[len(bars)-1] = bars[len(bars)-1].Union(row)
		default:
			bars = append(bars, row)
		}
		inside = first >= 0
	}
	return bars
}

// dark counts the pixels in a place that are dark as letters are.
func dark(m image.Image, in image.Rectangle) (n int) {
	for y := in.Min.Y; y < in.Max.Y; y++ {
		for x := in.Min.X; x < in.Max.X; x++ {
			if color.GrayModel.Convert(m.At(x, y)).(color.Gray).Y < 0x60 {
				n++
			}
		}
	}
	return n
}

func abs(n int) int { return max(n, -n) }
