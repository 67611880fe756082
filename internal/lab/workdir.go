package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const (
	dirPattern = "vasta-lab-*"
	lockName   = ".lock"
)

// workDir is a lab's directory. While its owner lives it holds an flock(2) on
// the lock file inside; the kernel drops the lock when the owner dies, which is
// how a later run tells a leftover from a directory in use, whatever became of
// the owner's process id.
type workDir struct {
	path string
	lock *os.File
}

func newWorkDir(parent string) (*workDir, error) {
	path, err := os.MkdirTemp(parent, dirPattern)
	if err != nil {
		return nil, err
	}
	// A directory without a lock file is one that is just being made: it is
	// never taken for a leftover.
	d := &workDir{path: path}
	if d.lock, err = os.OpenFile(filepath.Join(path, lockName), os.O_CREATE|os.O_RDWR, 0o600); err != nil {
		return nil, errors.Join(err, os.RemoveAll(path))
	}
	if err := unix.Flock(int(d.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("flock %s: %w", d.lock.Name(), err), d.remove())
	}
	if err := os.Chmod(path, 0o755); err != nil { // ordinary users pass through it
		return nil, errors.Join(err, d.remove())
	}
	return d, nil
}

func (d *workDir) remove() error {
	return errors.Join(os.RemoveAll(d.path), d.lock.Close())
}

// removeLeftovers removes the directories under parent whose owners are dead.
func removeLeftovers(parent string) error {
	dirs, err := filepath.Glob(filepath.Join(parent, dirPattern))
	if err != nil {
		return err
	}
	var errs []error
	for _, dir := range dirs {
		errs = append(errs, removeIfDead(dir))
	}
	return errors.Join(errs...)
}

func removeIfDead(dir string) error {
	// O_NOFOLLOW and the owner check: anyone may plant names in a shared
	// temporary directory.
	fd, err := unix.Open(filepath.Join(dir, lockName), unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	lock := os.NewFile(uintptr(fd), dir)
	defer lock.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	if int(st.Uid) != os.Geteuid() {
		return nil
	}
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil // held: its owner lives
	}
	return os.RemoveAll(dir)
}
