// Package image makes the file systems that a guest machine boots from, out of Debian's packages: one with tools for all
// machines, and one with the kernel and its modules for each kernel.
//
// Both are kept in [Dir] under a name with a hash of what they are made from: the recipe (recipe.go), and the names and
// versions of the packages. A file system is made anew when that changes, and never changed. The folder may be
// removed at any time.
//
// Packages are downloaded and unpacked; none is installed, and nothing outside [Dir] is changed, but for the lists of
// packages when apt has none yet.
package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// formatVersion is part of what the hashes are made of. It is raised when the code below makes something else of the
// same recipe.
const formatVersion = 1

// Image is what a machine boots.
type Image struct {
	// Kernel is the path of a bzImage.
	Kernel string
	// Release is the kernel's release, as uname -r tells it.
	Release string
	// Archives are the paths of cpio archives, uncompressed, that belong behind one another into the initial RAM file
	// system. The length of each is a multiple of 512.
	Archives []string
}

// Names of the files of a layer.
const (
	archiveName = "initramfs.cpio"
	kernelName  = "vmlinuz"
	releaseName = "release"
)

// Dir is the folder that file systems are kept in: vasta-lab in XDG_CACHE_HOME, or in /var/cache for root, or in the folder for caches
// of the user's home.
func Dir() string {
	dir := "/var/cache"
	if user, err := os.UserCacheDir(); err == nil && (os.Geteuid() != 0 || os.Getenv("XDG_CACHE_HOME") != "") {
		dir = user
	}
	return filepath.Join(dir, "vasta-lab")
}

// Get returns the image of a kernel, one of [Kernels], making what of it is not there yet. That takes about a quarter of
// a minute and downloads 130 to 230 MB; log is told of it. Several processes may call it at once.
func Get(ctx context.Context, kernel string, log io.Writer) (Image, error) {
	if !slices.Contains(Kernels, kernel) {
		return Image{}, fmt.Errorf("lab image: no kernel %q; there are %s", kernel, strings.Join(Kernels, " and "))
	}
	tools, toolsErr, build, buildErr := layer{}, error(nil), layer{}, error(nil)
	var wait sync.WaitGroup
	wait.Go(func() { tools, toolsErr = planTools(ctx) })
	wait.Go(func() { build, buildErr = planKernel(ctx, kernel) })
	wait.Wait()
	if err := errors.Join(toolsErr, buildErr); err != nil {
		return Image{}, fmt.Errorf("lab image: %w", err)
	}
	for _, l := range []layer{tools, build} {
		if err := l.ensure(ctx, log); err != nil {
			return Image{}, fmt.Errorf("lab image: %s: %w", l.name, err)
		}
	}
	release, err := os.ReadFile(filepath.Join(build.dir(), releaseName))
	if err != nil {
		return Image{}, fmt.Errorf("lab image: %w", err)
	}
	return Image{
		Kernel:   filepath.Join(build.dir(), kernelName),
		Release:  string(release),
		Archives: []string{filepath.Join(tools.dir(), archiveName), filepath.Join(build.dir(), archiveName)},
	}, nil
}

// layer is a part of an image, and what it is made from.
type layer struct {
	name     string
	packages []debianPackage
	recipe   string // all of the recipe that the layer depends on
	// make fills the folder dir from the packages downloaded into debs.
	make func(ctx context.Context, dir, debs string) error
}

// dir is the folder of the layer as it is to be.
func (l layer) dir() string {
	hash := sha256.New()
	fmt.Fprintf(hash, "%d\n%s\n", formatVersion, l.recipe)
	for _, p := range l.packages {
		fmt.Fprintf(hash, "%s %s\n", p.name, p.version)
	}
	return filepath.Join(Dir(), l.name+"-"+hex.EncodeToString(hash.Sum(nil))[:16])
}

// ensure makes the layer unless it is there.
func (l layer) ensure(ctx context.Context, log io.Writer) error {
	if _, err := os.Stat(l.dir()); err == nil {
		return nil
	}
	if err := os.MkdirAll(Dir(), 0o755); err != nil {
		return err
	}
	// One process makes it, those that want it too wait. The kernel drops the lock of a process that dies.
	lock, err := os.OpenFile(filepath.Join(Dir(), ".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return err
	}
	if _, err := os.Stat(l.dir()); err == nil {
		return nil
	}

	began := time.Now()
	work, err := os.MkdirTemp(Dir(), ".making-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	debs, made := filepath.Join(work, "debs"), filepath.Join(work, "made")
	if err := errors.Join(os.Mkdir(debs, 0o755), os.Mkdir(made, 0o755)); err != nil {
		return err
	}
	if err := download(ctx, debs, l.packages); err != nil {
		return err
	}
	if err := l.make(ctx, made, debs); err != nil {
		return err
	}
	if err := os.Rename(made, l.dir()); err != nil {
		return err
	}
	fmt.Fprintf(log, "lab image: made %s in %.1f s from %d packages\n", l.dir(), time.Since(began).Seconds(), len(l.packages))
	return nil
}
