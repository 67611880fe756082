package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// debianPackage is one package as apt's lists know it.
type debianPackage struct {
	name, version string
}

// A line of apt-get --print-uris: 'URI' NAME_VERSION_ARCHITECTURE.deb SIZE CHECKSUM. The colon of an epoch is %3a. Some
// lines have no checksum.
var uriLine = regexp.MustCompile(`^'[^']+' ([a-z0-9.+-]+)_(\S+)_(?:amd64|all)\.deb `)

// closure lists the named packages and everything they depend on, as if nothing was installed.
func closure(ctx context.Context, names ...string) ([]debianPackage, error) {
	args := append([]string{"-o", "Dir::State::status=/dev/null", "--no-install-recommends", "--print-uris", "-qq", "-y", "install"}, names...)
	out, err := run(ctx, "", "apt-get", args...)
	if err != nil {
		// A machine that was just installed has no lists yet.
		if _, updateErr := run(ctx, "", "apt-get", "update", "-qq"); updateErr != nil {
			return nil, errors.Join(err, updateErr)
		}
		if out, err = run(ctx, "", "apt-get", args...); err != nil {
			return nil, fmt.Errorf("%w; are bookworm and bookworm-security among apt's sources?", err)
		}
	}
	var packages []debianPackage
	for line := range strings.Lines(string(out)) {
		m := uriLine.FindStringSubmatch(line)
		if m == nil {
			return nil, fmt.Errorf("apt-get --print-uris says %q", line)
		}
		packages = append(packages, debianPackage{m[1], strings.ReplaceAll(m[2], "%3a", ":")})
	}
	return packages, nil
}

// download fetches packages into a folder. apt checks them against the lists' signatures.
func download(ctx context.Context, dir string, packages []debianPackage) error {
	// The sandbox's user may not write into dir.
	args := []string{"-o", "APT::Sandbox::User=root", "-qq", "download"}
	for _, p := range packages {
		args = append(args, p.name+"="+p.version)
	}
	_, err := run(ctx, dir, "apt-get", args...)
	return err
}

// downloaded lists the packages in a folder.
func downloaded(debs string) ([]string, error) {
	paths, err := filepath.Glob(filepath.Join(debs, "*.deb"))
	if err == nil && len(paths) == 0 {
		err = fmt.Errorf("apt-get left no package in %s", debs)
	}
	return paths, err
}

// readPackage calls visit for every file of a package, in the package's order, with its path relative to the root.
func readPackage(ctx context.Context, deb string, visit func(path string, h *tar.Header, content io.Reader) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", deb)
	c.WaitDelay = time.Second // dpkg-deb has children, which keep stderr open when it is killed
	var stderr bytes.Buffer
	c.Stderr = &stderr
	stdout, err := c.StdoutPipe()
	if err != nil {
		return err
	}
	if err := c.Start(); err != nil {
		return err
	}
	err = visitAll(tar.NewReader(stdout), visit)
	if err == nil {
		_, err = io.Copy(io.Discard, stdout) // the blocks behind the end
	}
	if err != nil {
		cancel()
		_ = c.Wait() // it was killed
		return fmt.Errorf("%s: %w", filepath.Base(deb), err)
	}
	if err := c.Wait(); err != nil {
		return fmt.Errorf("dpkg-deb %s: %w: %s", filepath.Base(deb), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return nil
}

func visitAll(archive *tar.Reader, visit func(path string, h *tar.Header, content io.Reader) error) error {
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = visit(strings.Trim(strings.TrimPrefix(h.Name, "."), "/"), h, archive)
		}
		if err != nil {
			return err
		}
	}
}

// run runs a command in a folder and returns what it says.
func run(ctx context.Context, dir, name string, args ...string) ([]byte, error) {
	c := exec.CommandContext(ctx, name, args...)
	c.Dir = dir
	c.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive")
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w: %s", name, strings.Join(args[:min(len(args), 8)], " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return out, nil
}
