package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// planTools is the layer of programs and libraries.
func planTools(ctx context.Context) (layer, error) {
	all, err := closure(ctx, packages...)
	if err != nil {
		return layer{}, err
	}
	wanted := slices.DeleteFunc(all, func(p debianPackage) bool { return slices.Contains(needless, p.name) })
	return layer{
		name:     "tools",
		packages: wanted,
		recipe:   fmt.Sprint(needlessPaths, files, links, folders), // maps print in the order of their keys
		make:     makeTools,
	}, nil
}

func makeTools(ctx context.Context, dir, debs string) error {
	paths, err := downloaded(debs)
	if err != nil {
		return err
	}
	a, err := createArchive(filepath.Join(dir, archiveName))
	if err != nil {
		return err
	}
	for _, name := range sortedKeys(links) {
		if !strings.Contains(name, "/") { // the merged /usr comes before what lies in it
			a.symlink(name, links[name])
		}
	}
	for _, name := range sortedKeys(folders) {
		a.folder(name, folders[name])
	}
	for _, deb := range paths {
		err := readPackage(ctx, deb, func(name string, h *tar.Header, content io.Reader) error {
			return addTool(a, mergedUsr(name), h, content)
		})
		if err != nil {
			return errors.Join(err, a.close())
		}
	}
	for _, name := range sortedKeys(links) {
		if strings.Contains(name, "/") {
			a.symlink(name, links[name])
		}
	}
	for _, name := range sortedKeys(files) {
		a.file(name, 0o644, int64(len(files[name])), strings.NewReader(files[name]))
	}
	return a.close()
}

// addTool adds one file of a package.
func addTool(a *archive, name string, h *tar.Header, content io.Reader) error {
	if name == "" || slices.ContainsFunc(needlessPaths, func(p string) bool { return strings.HasPrefix(name+"/", p) }) {
		return nil
	}
	mode := uint64(h.Mode & 0o7777)
	switch h.Typeflag {
	case tar.TypeDir:
		if _, ours := folders[name]; !ours && links[name] == "" {
			a.folder(name, mode)
		}
	case tar.TypeReg:
		a.file(name, mode, h.Size, content)
	case tar.TypeSymlink:
		a.symlink(name, h.Linkname)
	case tar.TypeLink:
		a.symlink(name, "/"+mergedUsr(strings.TrimPrefix(h.Linkname, "./")))
	default:
		return fmt.Errorf("%s is of type %q, which no package of the image had before", name, h.Typeflag)
	}
	return a.err
}

// mergedUsr is where a file lies on a system whose /bin, /sbin and /lib are links into /usr.
func mergedUsr(name string) string {
	first, _, _ := strings.Cut(name, "/")
	if strings.HasPrefix(links[first], "usr/") {
		return path.Join("usr", name)
	}
	return name
}

// planKernel is the layer of a kernel and its modules.
func planKernel(ctx context.Context, kernel string) (layer, error) {
	all, err := closure(ctx, metapackages[kernel])
	if err != nil {
		return layer{}, err
	}
	prefix := "linux-image-" + kernel + "." // linux-image-6.1.0-56-amd64
	wanted := slices.DeleteFunc(all, func(p debianPackage) bool { return !strings.HasPrefix(p.name, prefix) })
	if len(wanted) != 1 {
		return layer{}, fmt.Errorf("%s depends on %v, not on one %s*", metapackages[kernel], wanted, prefix)
	}
	modules := Modules(kernel)
	return layer{
		name:     "kernel-" + kernel,
		packages: wanted,
		recipe:   strings.Join(modules, " "),
		make:     func(ctx context.Context, dir, debs string) error { return makeKernel(ctx, dir, debs, modules) },
	}, nil
}

func makeKernel(ctx context.Context, dir, debs string, modules []string) error {
	paths, err := downloaded(debs)
	if err != nil {
		return err
	}
	whole, chosen := filepath.Join(debs, "whole"), filepath.Join(debs, "chosen")
	if _, err := run(ctx, "", "dpkg-deb", "-x", paths[0], whole); err != nil {
		return err
	}
	kernels, err := filepath.Glob(filepath.Join(whole, "boot/vmlinuz-*"))
	if err != nil || len(kernels) != 1 {
		return fmt.Errorf("%s has the kernels %v, want one (%w)", filepath.Base(paths[0]), kernels, err)
	}
	release := strings.TrimPrefix(filepath.Base(kernels[0]), "vmlinuz-")
	if err := errors.Join(os.Rename(kernels[0], filepath.Join(dir, kernelName)),
		os.WriteFile(filepath.Join(dir, releaseName), []byte(release), 0o644)); err != nil {
		return err
	}
	if err := chooseModules(ctx, whole, chosen, release, modules); err != nil {
		return err
	}

	a, err := createArchive(filepath.Join(dir, archiveName))
	if err != nil {
		return err
	}
	from := filepath.Join(chosen, "lib/modules")
	err = filepath.WalkDir(from, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(from, name)
		if err != nil {
			return err
		}
		inside := path.Join("usr/lib/modules", relative)
		if entry.IsDir() {
			a.folder(inside, 0o755)
			return a.err
		}
		content, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		a.file(inside, 0o644, int64(len(content)), strings.NewReader(string(content)))
		return a.err
	})
	return errors.Join(err, a.close())
}

// chooseModules moves the named modules of a kernel, and those they depend on, from the tree whole to the tree chosen.
func chooseModules(ctx context.Context, whole, chosen, release string, modules []string) error {
	if _, err := run(ctx, "", "depmod", "-b", whole, release); err != nil {
		return err
	}
	args := append([]string{"-d", whole, "-S", release, "--show-depends", "--all", "--"}, modules...)
	out, err := run(ctx, "", "modprobe", args...)
	if err != nil {
		return err
	}
	wanted := map[string]bool{}
	for line := range strings.Lines(string(out)) {
		// "insmod PATH [options]", or "builtin NAME"
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "insmod" {
			wanted[fields[1]] = true
		}
	}
	for _, name := range []string{"modules.order", "modules.builtin", "modules.builtin.modinfo"} {
		wanted[filepath.Join(whole, "lib/modules", release, name)] = true
	}
	for name := range wanted {
		to := filepath.Join(chosen, strings.TrimPrefix(name, whole))
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		if err := os.Rename(name, to); err != nil {
			return err
		}
	}
	_, err = run(ctx, "", "depmod", "-b", chosen, release)
	return err
}
