package image

import (
	"bufio"
	"errors"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/cavaliergopher/cpio"
)

// alignment is what the length of an archive is a multiple of: the kernel wants 4, and cpio(1) writes blocks of 512.
const alignment = 512

// archive writes a cpio archive in the "newc" format that the kernel unpacks (Documentation/driver-api/early-userspace/
// buffer-format). Everything in it belongs to root. The first error sticks, and close returns it.
type archive struct {
	out  *os.File
	buf  *bufio.Writer
	cpio *cpio.Writer
	err  error
}

func createArchive(name string) (*archive, error) {
	out, err := os.Create(name)
	if err != nil {
		return nil, err
	}
	a := &archive{out: out, buf: bufio.NewWriterSize(out, 1<<20)}
	a.cpio = cpio.NewWriter(a.buf)
	return a, nil
}

// folder adds a folder. Its parent must have been added.
func (a *archive) folder(name string, permissions uint64) {
	a.header(&cpio.Header{Name: name, Mode: cpio.TypeDir | cpio.FileMode(permissions), Links: 2})
}

// symlink adds a symbolic link.
func (a *archive) symlink(name, target string) {
	a.header(&cpio.Header{Name: name, Mode: cpio.TypeSymlink | 0o777, Links: 1, Size: int64(len(target))})
	a.content(int64(len(target)), strings.NewReader(target))
}

// file adds a file with size bytes of content.
func (a *archive) file(name string, permissions uint64, size int64, content io.Reader) {
	a.header(&cpio.Header{Name: name, Mode: cpio.TypeReg | cpio.FileMode(permissions), Links: 1, Size: size})
	a.content(size, content)
}

func (a *archive) content(size int64, content io.Reader) {
	if a.err == nil {
		_, a.err = io.CopyN(a.cpio, content, size)
	}
}

func (a *archive) header(h *cpio.Header) {
	if a.err == nil {
		a.err = a.cpio.WriteHeader(h)
	}
}

// close ends the archive.
func (a *archive) close() error {
	if a.err == nil {
		a.err = errors.Join(a.cpio.Close(), a.buf.Flush())
	}
	if a.err == nil {
		a.err = a.align()
	}
	return errors.Join(a.err, a.out.Close())
}

func (a *archive) align() error {
	size, err := a.out.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	return a.out.Truncate((size + alignment - 1) / alignment * alignment)
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
