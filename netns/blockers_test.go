package netns

import (
	"errors"
	"io/fs"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestUsernsBlocker(t *testing.T) {
	for name, test := range map[string]struct {
		settings   map[string]string
		root       bool
		want, cure string // want empty: nothing blocks
	}{
		"plain":            {map[string]string{sysctlMaxUserNS: "1000"}, false, "", ""},
		"no limit read":    {nil, false, "", ""},
		"limit":            {map[string]string{sysctlMaxUserNS: "0"}, true, "user.max_user_namespaces is 0", "sysctl user.max_user_namespaces=10000"},
		"net limit":        {map[string]string{sysctlMaxNetNS: "0"}, true, "user.max_net_namespaces is 0", "sysctl user.max_net_namespaces=10000"},
		"debian":           {map[string]string{sysctlUnprivUser: "0"}, false, "kernel.unprivileged_userns_clone is 0", "sysctl kernel.unprivileged_userns_clone=1"},
		"debian as root":   {map[string]string{sysctlUnprivUser: "0"}, true, "", ""},
		"debian, allowed":  {map[string]string{sysctlUnprivUser: "1"}, false, "", ""},
		"apparmor":         {map[string]string{sysctlAppArmor: "1"}, false, "AppArmor restricts", "sysctl kernel.apparmor_restrict_unprivileged_userns=0"},
		"apparmor as root": {map[string]string{sysctlAppArmor: "1"}, true, "", ""},
		"apparmor, off":    {map[string]string{sysctlAppArmor: "0"}, false, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			b, ok := usernsBlocker(func(path string) string { return test.settings[path] }, test.root)
			if ok != (test.want != "") || !strings.Contains(b.reason, test.want) || !strings.Contains(b.cure, test.cure) {
				t.Errorf("got %v, %+v, want %q, %q", ok, b, test.want, test.cure)
			}
		})
	}
}

// TestErrorsSayTheCure checks the errors of system calls that cannot be provoked on every machine.
func TestErrorsSayTheCure(t *testing.T) {
	for _, test := range []struct {
		err  error
		want []string
		is   error
	}{
		{createError(unix.EPERM), []string{"creating the namespaces", "seccomp", "allow it"}, unix.EPERM},
		{createError(unix.ENOSPC), []string{"user.max_*_namespaces", "raise"}, unix.ENOSPC},
		{createError(unix.EINVAL), []string{"CONFIG_USER_NS"}, unix.EINVAL},
		{createError(unix.EAGAIN), []string{"short of processes"}, unix.EAGAIN},
		{tunOpenError(unix.EACCES), []string{tunPath, "chmod 0666 " + tunPath}, fs.ErrPermission},
		{tunOpenError(unix.ENOENT), []string{tunPath, "modprobe tun", "--device"}, fs.ErrNotExist},
		{tunOpenError(unix.ENODEV), []string{tunPath, "modprobe tun"}, unix.ENODEV},
		{tunOpenError(unix.EMFILE), []string{tunPath, "too many open files"}, unix.EMFILE},
		{tapCreateError("x", unix.EBUSY), []string{"TAP x", "choose another"}, unix.EBUSY},
		{tapCreateError("x", unix.EPERM), []string{"TAP x", "CAP_NET_ADMIN"}, unix.EPERM},
	} {
		for _, want := range test.want {
			if !strings.Contains(test.err.Error(), want) {
				t.Errorf("%q lacks %q", test.err, want)
			}
		}
		if strings.Contains(test.err.Error(), "\n") || !errors.Is(test.err, test.is) {
			t.Errorf("%q is more than a line, or no %v", test.err, test.is)
		}
	}
}

// TestBlockedErrorCrosses sends a stage's error through the wire format.
func TestBlockedErrorCrosses(t *testing.T) {
	sent := &blockedError{unix.EACCES, blocker{"AppArmor", "a profile"}}
	failure := failureOf(sent)
	got := failure.unpack()
	var blocked *blockedError
	if got.Error() != sent.Error() || !errors.As(got, &blocked) || blocked.blocker != sent.blocker {
		t.Errorf("got %v, want %v", got, sent)
	}
	plain := failureOf(unix.ENOMEM)
	if err := plain.unpack(); err.Error() != unix.ENOMEM.Error() || errors.As(err, &blocked) {
		t.Errorf("got %v", err)
	}
}
