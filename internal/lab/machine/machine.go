// Package machine runs a guest machine under QEMU, without KVM and without rights, for what the kernel of the host lacks: netem, ifb,
// fq_codel, pktgen, vhost-net, kernels of other versions. Its image is made of Debian's packages (package image) when it is first asked
// for.
//
//	func main() { // or TestMain
//		if machine.GuestMain() {
//			return
//		}
//		...
//		m, err := machine.Boot(ctx, machine.Config{Kernel: "6.12", Log: os.Stderr})
//		defer m.Close()
//		result := filepath.Join(m.Dir(), "result.json")
//		err = m.Command(machine.Self, "bench", "net", "--quick", "--json", result).Run(ctx)
//		content, err := os.ReadFile(result)
//
// The guest's first process and its agent are the calling program itself, which is why it calls [GuestMain]. [Self] runs
// the same program once more, as any other command. A program that was built on the host and is static is started by its path when it
// lies in [Machine.Dir] or under [Config.Source]: both are shared with the guest, and have the same paths there. [Machine.Dir] can be
// written from both sides and is how files get in and out.
//
// Time passes in the guest as it does outside, but everything takes 5 to 20 times as long; speeds mean something only as
// ratios within one boot.
//
// The console's log is kept when a boot or a machine fails, and the error names its path.
package machine

import (
	"bytes"
	"context"
	"encoding/gob"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cavaliergopher/cpio"
	"golang.org/x/sys/unix"

	"github.com/vasta-net/vasta/internal/lab/image"
)

const (
	emulator = "qemu-system-x86_64"
	// bootLimit bounds the wait for the guest's agent, which takes about 5 s on an idle machine.
	bootLimit = 2 * time.Minute
	// closeLimit bounds the wait for the guest to switch itself off.
	closeLimit = 10 * time.Second
	// processor is all that QEMU emulates, but for what makes kernels copy with "rep movsb": that goes byte by byte here, 5 ns each, so that a copy of 64 KiB costs as much as hundreds
	// of system calls where it costs ten on a real machine.
	processor = "max,-erms,-fsrm"
	// consoleTail is how much of the console's log an error shows, in lines.
	consoleTail = 50
)

// Config says what to boot. The zero value of a field stands for its default.
type Config struct {
	// Kernel is one of image.Kernels; the default is "6.12".
	Kernel string
	// CPUs is the number of the guest's processors, by default 2.
	CPUs int
	// Memory is the guest's, in MiB, by default 2048.
	Memory int
	// Source is a folder of the host that the guest sees under the same path, read-only. By default there is none.
	Source string
	// Log is told when an image is made, which takes a while. The default is to discard it.
	Log io.Writer
}

// Machine is a running guest. Its methods may be called from several goroutines.
type Machine struct {
	dir     string // of this run: console's log, initramfs, shared folder
	qemu    *exec.Cmd
	gone    chan struct{} // closed when QEMU has ended
	gonErr  error         // how, once gone is closed
	orders  *gob.Encoder
	channel net.Conn

	mu       sync.Mutex // guards orders and what is below
	commands map[uint64]*running
	lastID   uint64
	failed   bool // the log is to be kept
	closed   bool
}

// Boot makes the image if need be and boots a machine from it. When ctx ends, the machine is ended. The caller owns the machine and
// must Close it.
func Boot(ctx context.Context, cfg Config) (*Machine, error) {
	if cfg.Kernel == "" {
		cfg.Kernel = "6.12"
	}
	if cfg.CPUs == 0 {
		cfg.CPUs = 2
	}
	if cfg.Memory == 0 {
		cfg.Memory = 2048
	}
	if cfg.Log == nil {
		cfg.Log = io.Discard
	}
	img, err := image.Get(ctx, cfg.Kernel, cfg.Log)
	if err != nil {
		return nil, err
	}
	for attempt := 1; ; attempt++ {
		m, err := bootOnce(ctx, cfg, img)
		if !errors.Is(err, errEnded) || attempt == bootAttempts || ctx.Err() != nil {
			return m, err
		}
		fmt.Fprintf(cfg.Log, "%v\nbooting again\n", err)
	}
}

// bootAttempts is how often a guest may end before it is up. QEMU emulates processors in threads of their own, and at times one of them runs over code that another is
// changing: the kernel then stops at its own breakpoint ("Oops: int3"), seen once in some hundred boots on a busy machine.
const bootAttempts = 3

// errEnded says that QEMU has ended before the guest was up.
var errEnded = errors.New("the guest ended before it was up")

func bootOnce(ctx context.Context, cfg Config, img image.Image) (*Machine, error) {
	m := &Machine{gone: make(chan struct{}), commands: make(map[uint64]*running)}
	var err error
	if m.dir, err = os.MkdirTemp("", "lab-machine-*"); err != nil {
		return nil, fmt.Errorf("machine: %w", err)
	}
	if err := m.boot(ctx, cfg, img); err != nil {
		return nil, errors.Join(m.fail(fmt.Errorf("kernel %s: %w", cfg.Kernel, err)), m.Close())
	}
	return m, nil
}

func (m *Machine) boot(ctx context.Context, cfg Config, img image.Image) error {
	// Users of the guest pass through both.
	if err := errors.Join(os.Chmod(m.dir, 0o755), os.Mkdir(m.Dir(), 0o777), os.Chmod(m.Dir(), 0o777)); err != nil {
		return err
	}
	if err := m.writeInitramfs(img); err != nil {
		return err
	}
	if err := m.startEmulator(ctx, cfg, img); err != nil {
		return err
	}
	began := time.Now()
	if err := m.channel.SetReadDeadline(began.Add(bootLimit)); err != nil {
		return err
	}
	reports := gob.NewDecoder(m.channel)
	var first report
	err := reports.Decode(&first)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("the guest does not answer %v after it was started", bootLimit)
	case err != nil:
		m.stopEmulator()
		return fmt.Errorf("%w: %w", errEnded, errors.Join(err, m.gonErr, ctx.Err()))
	case !first.Ready:
		return fmt.Errorf("the guest's first report is %+v", first)
	}
	if err := m.channel.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	go m.listen(reports)
	return os.Remove(m.initramfs()) // it is large, and QEMU has read it
}

// Dir is the folder that host and guest share; every user may write there. Close removes it.
func (m *Machine) Dir() string { return filepath.Join(m.dir, "shared") }

func (m *Machine) console() string   { return filepath.Join(m.dir, "console.log") }
func (m *Machine) initramfs() string { return filepath.Join(m.dir, "initramfs") }

// writeInitramfs puts the archives of the image behind one another, and behind them one with the calling program.
func (m *Machine) writeInitramfs(img image.Image) error {
	out, err := os.Create(m.initramfs())
	if err != nil {
		return err
	}
	defer out.Close()
	for _, name := range img.Archives {
		in, err := os.Open(name)
		if err != nil {
			return err
		}
		_, err = io.Copy(out, in)
		in.Close()
		if err != nil {
			return err
		}
	}
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer self.Close()
	info, err := self.Stat()
	if err != nil {
		return err
	}
	archive := cpio.NewWriter(out)
	if err := archive.WriteHeader(&cpio.Header{Name: strings.TrimPrefix(Self, "/"), Mode: cpio.TypeReg | 0o755, Links: 1, Size: info.Size()}); err != nil {
		return err
	}
	if _, err := io.Copy(archive, self); err != nil {
		return err
	}
	return archive.Close()
}

// startEmulator starts QEMU, whose end of the channel is a socketpair: it ends with this process.
func (m *Machine) startEmulator(ctx context.Context, cfg Config, img image.Image) error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "channel"), os.NewFile(uintptr(pair[1]), "guest's channel")
	defer theirs.Close()
	m.channel, err = net.FileConn(ours)
	ours.Close()
	if err != nil {
		return err
	}
	shared, source := word(m.Dir()), ""
	m.orders = gob.NewEncoder(m.channel)
	args := []string{
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
		"-machine", "pc", "-accel", "tcg,thread=multi,tb-size=256", "-cpu", processor,
		"-smp", strconv.Itoa(cfg.CPUs), "-m", strconv.Itoa(cfg.Memory),
		"-serial", "file:" + m.console(),
		"-device", "virtio-serial-pci", "-chardev", "socket,id=channel,fd=3", "-device", "virtserialport,chardev=channel,name=" + portName,
		"-device", "virtio-rng-pci",
		"-virtfs", "local,path=" + comma(m.Dir()) + ",mount_tag=" + tagShared + ",security_model=none,multidevs=remap",
		"-kernel", img.Kernel, "-initrd", m.initramfs(),
	}
	if cfg.Source != "" {
		source = word(cfg.Source)
		args = append(args, "-virtfs", "local,path="+comma(cfg.Source)+",mount_tag="+tagSource+",security_model=none,multidevs=remap,readonly=on")
	}
	args = append(args, "-append", strings.Join([]string{
		"console=ttyS0", "rdinit=" + Self, "panic=-1", "oops=panic", "mitigations=off", "nokaslr", "loglevel=6",
		"vasta.shared=" + shared, "vasta.source=" + source, "vasta.time=" + strconv.FormatInt(time.Now().Unix(), 10),
	}, " "))
	m.qemu = exec.CommandContext(ctx, emulator, args...)
	m.qemu.ExtraFiles = []*os.File{theirs} // becomes descriptor 3
	m.qemu.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	var stderr bytes.Buffer
	m.qemu.Stderr = &stderr
	if err := m.qemu.Start(); err != nil {
		m.qemu = nil
		return fmt.Errorf("%w: install qemu-system-x86 (.ci/prepare does)", err)
	}
	go func() {
		err := m.qemu.Wait()
		switch said := bytes.TrimSpace(stderr.Bytes()); {
		case err != nil:
			m.gonErr = fmt.Errorf("%s: %w: %s", emulator, err, said)
		case len(said) > 0:
			m.gonErr = fmt.Errorf("%s: %s", emulator, said)
		}
		close(m.gone)
	}()
	return nil
}

// awaitEmulator waits for the end of QEMU, and ends it when that does not come within limit.
func (m *Machine) awaitEmulator(limit time.Duration) {
	select {
	case <-m.gone:
	case <-time.After(limit):
		m.stopEmulator()
	}
}

// stopEmulator ends QEMU and waits for its end.
func (m *Machine) stopEmulator() {
	if m.qemu == nil {
		return
	}
	_ = m.qemu.Process.Kill() // fails when it has ended
	<-m.gone
}

// listen hands reports to the commands they are about, until there are no more.
func (m *Machine) listen(reports *gob.Decoder) {
	for {
		var r report
		if err := reports.Decode(&r); err != nil {
			m.lost(err)
			return
		}
		m.mu.Lock()
		c := m.commands[r.ID]
		if r.Ended != nil {
			delete(m.commands, r.ID)
		}
		m.mu.Unlock()
		if c != nil {
			c.take(r)
		}
	}
}

// lost ends all commands after the channel has broken: the guest has crashed, or was ended.
func (m *Machine) lost(err error) {
	m.awaitEmulator(closeLimit) // a panic is still being written to the console
	m.mu.Lock()
	commands := m.commands
	m.commands = nil
	closed := m.closed
	m.mu.Unlock()
	if !closed {
		err = m.fail(fmt.Errorf("the guest has ended: %w", errors.Join(err, m.gonErr)))
	}
	for _, c := range commands {
		c.lose(err)
	}
}

// fail adds the end of the console's log to an error, and keeps the log.
func (m *Machine) fail(err error) error {
	m.mu.Lock()
	m.failed = true
	m.mu.Unlock()
	return fmt.Errorf("machine: %w; the console's last lines, from %s:\n%s", err, m.console(), tail(m.console(), consoleTail))
}

// Close switches the guest off, ends it when it does not obey, and removes everything but the log of a machine that failed. Commands
// that still run there end with it. It may be called more than once.
func (m *Machine) Close() error {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return nil
	}
	m.closed = true
	failed := m.failed
	m.mu.Unlock()
	if m.qemu != nil {
		if failed {
			m.stopEmulator()
		}
		m.channel.Close() // the agent takes it for the order to switch off
		m.awaitEmulator(closeLimit)
	} else if m.channel != nil {
		m.channel.Close()
	}
	if failed {
		return errors.Join(os.RemoveAll(m.Dir()), os.RemoveAll(m.initramfs()))
	}
	return os.RemoveAll(m.dir)
}

// tail gives the last lines of a file.
func tail(name string, lines int) string {
	content, err := os.ReadFile(name)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(strings.ReplaceAll(string(content), "\r", ""), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// comma escapes a value of QEMU's comma-separated options.
func comma(s string) string { return strings.ReplaceAll(s, ",", ",,") }

// word makes a word of the kernel's command line out of any string.
func word(s string) string { return hex.EncodeToString([]byte(s)) }

// Install puts a program into the shared folder and returns its path.
func (m *Machine) Install(name string, content io.Reader) (string, error) {
	to := filepath.Join(m.Dir(), name)
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return "", fmt.Errorf("machine: %w", err)
	}
	_, err = io.Copy(out, content)
	if err := errors.Join(err, out.Close()); err != nil {
		return "", fmt.Errorf("machine: %w", err)
	}
	return to, nil
}
