package netns

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vasta-net/vasta/internal/rawfork"
)

// namedNetNS is where iproute2 and container engines keep network namespaces by name.
const namedNetNS = "/run/netns"

// Attach puts a TAP into an existing network namespace. KeepID and ResolvConf of cfg have no effect. The TAP goes when its
// descriptors are closed; nothing else that Attach configures stays, since addresses and routes go with the interface.
func Attach(target Target, cfg Config) (*Namespace, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	path, err := target.path()
	if err != nil {
		return nil, err
	}
	// Watching starts first, so that no end is missed.
	watch, err := newWatcher(target.PID, path)
	if err != nil {
		return nil, err
	}
	s, err := attach(target, path, stageConfig{Config: cfg, Attached: true})
	var sockets *Sockets
	if err == nil {
		if sockets, err = s.takeSockets(); err != nil {
			closeAll(s.fds)
		}
	}
	if err != nil {
		watch.close()
		return nil, err
	}
	return &Namespace{tap: s.takeTAP(), warnings: s.ready.Warnings, sockets: sockets, gone: watch.gone, watch: watch, attached: &attachment{target, path}}, nil
}

// path returns the path of the network namespace.
func (t *Target) path() (string, error) {
	switch {
	case t.PID != 0 && t.NetNS != "":
		return "", errors.New("attaching: both a process id and a network namespace are given: give one")
	case t.PID > 0:
		return "/proc/" + strconv.Itoa(t.PID) + "/ns/net", nil
	case t.NetNS == "":
		return "", fmt.Errorf("attaching: process id %d: give one above 0, or a network namespace", t.PID)
	case !strings.Contains(t.NetNS, "/"):
		return filepath.Join(namedNetNS, t.NetNS), nil
	}
	return t.NetNS, nil
}

// attachment says how the namespace can be joined again.
type attachment struct {
	target Target
	path   string
}

// attach has a stage join the namespace and carry cfg out. The stage has ended; what it has left is the caller's.
func attach(target Target, path string, cfg stageConfig) (*stageProcess, error) {
	netNS, err := openNamespace(path, unix.CLONE_NEWNET)
	if err != nil {
		return nil, err
	}
	defer netNS.Close()
	userNS, err := owningUserNS(target, netNS)
	if err != nil {
		return nil, err
	}

	spec := rawfork.Spec{Path: procSelfExe, Argv: []string{stageName}, Env: stageEnv}
	names := []string{path}
	if userNS != nil {
		defer userNS.Close()
		spec.Join = []int{int(userNS.Fd())}
		names = []string{userNS.Name(), path}
		// The caller's user id may be any inside, so exec would take the capabilities.
		spec.AmbientCaps = []int{unix.CAP_NET_ADMIN, unix.CAP_SYS_ADMIN}
	}
	spec.Join = append(spec.Join, int(netNS.Fd()))

	s, err := startStage(cfg, func(remote conn) (int, error) {
		null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
		if err != nil {
			return 0, err
		}
		defer null.Close()
		spec.Files = []int{int(null.Fd()), int(null.Fd()), 2, remote.fd}
		pid, err := rawfork.Start(spec)
		if err != nil {
			return 0, joinError(err, names)
		}
		return pid, nil
	})
	if err != nil {
		return nil, err
	}
	<-s.done // it has nothing more to do, and leaves no zombie
	return s, nil
}

// joinError names the namespace that could not be joined.
func joinError(err error, names []string) error {
	var child *rawfork.ChildError
	if !errors.As(err, &child) || child.Step < rawfork.StepJoin {
		return fmt.Errorf("starting the process that joins %s: %w", names[len(names)-1], err)
	}
	name := names[child.Step-rawfork.StepJoin]
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("joining %s: %w: only root and the owner of the user namespace may: run as that user, or name the namespace's own with --userns", name, child.Errno)
	}
	return fmt.Errorf("joining %s: %w", name, child.Errno)
}

// openNamespace opens a namespace file and checks its type, a CLONE_NEW* flag.
func openNamespace(path string, kind int) (*os.File, error) {
	label := map[int]string{unix.CLONE_NEWNET: "network", unix.CLONE_NEWUSER: "user"}[kind]
	f, err := os.Open(path)
	if err != nil {
		switch {
		case errors.Is(err, os.ErrNotExist):
			err = fmt.Errorf("%w: no such process or namespace: check the id or the path", err)
		case errors.Is(err, os.ErrPermission):
			err = fmt.Errorf("%w: it is another user's: run as that user or as root", err)
		}
		return nil, fmt.Errorf("%s namespace: %w", label, err)
	}
	got, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE)
	if err != nil || got != kind {
		f.Close()
		return nil, fmt.Errorf("%s namespace: %s is no %s namespace: name one like /proc/PID/ns/%s or %s/NAME",
			label, path, label, map[int]string{unix.CLONE_NEWNET: "net", unix.CLONE_NEWUSER: "user"}[kind], namedNetNS)
	}
	return f, nil
}

// owningUserNS returns the user namespace to join before netNS, or nil when it is the caller's own.
func owningUserNS(target Target, netNS *os.File) (*os.File, error) {
	var user *os.File
	var err error
	if target.UserNS != "" {
		if user, err = openNamespace(target.UserNS, unix.CLONE_NEWUSER); err != nil {
			return nil, err
		}
	} else {
		fd, err := unix.IoctlRetInt(int(netNS.Fd()), unix.NS_GET_USERNS)
		if err != nil {
			return nil, fmt.Errorf("network namespace %s: asking for its owner: %w: it belongs to a user namespace outside the caller's: run vasta there", netNS.Name(), err)
		}
		unix.CloseOnExec(fd)
		user = os.NewFile(uintptr(fd), "the user namespace of "+netNS.Name())
	}
	own, err := os.Stat("/proc/self/ns/user")
	if err == nil {
		var info os.FileInfo
		if info, err = user.Stat(); err == nil && !os.SameFile(own, info) {
			return user, nil
		}
	}
	user.Close()
	if err != nil {
		return nil, fmt.Errorf("comparing user namespaces: %w", err)
	}
	return nil, nil
}
