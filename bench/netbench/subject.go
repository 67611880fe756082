package netbench

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vasta-net/vasta/bench/internal/agent"
	"github.com/vasta-net/vasta/bench/internal/command"
	"github.com/vasta-net/vasta/internal/lab"
)

// Class says what a subject is to vasta.
type Class string

// The classes of subjects.
const (
	ClassVasta     Class = "vasta"
	ClassPeer      Class = "peer"
	ClassYardstick Class = "yardstick"
	ClassVariant   Class = "variant" // vasta with options that only some loads ask for
)

// subject is one thing to be measured.
type subject struct {
	SubjectInfo
	// tool is the command line up to the command to run, for an MTU and with more
	// options of the tool's own; nil for a subject that does not run commands.
	tool func(mtu int, options ...string) []string
	// forwarding is the same with TCP ports of the host that lead into the namespace; nil for a subject that has no such thing.
	forwarding func(ports string) []string
	// ownMTU says that its network has an MTU of its own.
	ownMTU bool
	// open starts a session whose network has the given MTU.
	open func(ctx context.Context, r *rig, s *subject, mtu int) (*session, error)
}

// versionTimeout bounds a tool's answer to --version.
const versionTimeout = 5 * time.Second

// newSubjects returns all subjects of a run in the order of the tables, the
// absent ones too. Binaries of our own are copied into dir, where an ordinary user can
// execute them.
func newSubjects(o Options, dir string) ([]*subject, error) {
	bin, err := vastaBinary(o, dir)
	if err != nil {
		return nil, err
	}
	subjects := []*subject{vastaSubject(vastaName, ClassVasta, bin), pastaSubject(Peer{pastaName, []string{"pasta"}}), slirpSubject()}
	for _, p := range o.Peers {
		for _, s := range subjects {
			if s.Name == p.Name || slices.Contains([]string{vethName, loopbackName, spliceName, routedName}, p.Name) {
				return nil, fmt.Errorf("option --peer: the name %s is taken; give another", p.Name)
			}
		}
		subjects = append(subjects, pastaSubject(p))
	}
	for _, queues := range workerQueues {
		subjects = append(subjects, vastaSubject(queuesName(queues), ClassVariant, bin, "--queues", strconv.Itoa(queues)))
	}
	rules, err := writeRules(dir)
	if err != nil {
		return nil, err
	}
	subjects = append(subjects, vastaSubject(dropName, ClassVariant, bin, "--overload", "drop"))
	subjects = append(subjects, vastaSubject(rulesName, ClassVariant, bin, "--policy", rules))
	subjects = slices.Concat(subjects, vhostSubjects(bin), ladderSubjects())
	return append(subjects,
		&subject{SubjectInfo: SubjectInfo{Name: vethName, Class: ClassYardstick}, open: openVeth},
		&subject{SubjectInfo: SubjectInfo{Name: loopbackName, Class: ClassYardstick}, ownMTU: true, open: openLoopback},
		&subject{SubjectInfo: SubjectInfo{Name: spliceName, Class: ClassYardstick}, open: openSplice},
		&subject{SubjectInfo: SubjectInfo{Name: routedName, Class: ClassYardstick}, open: openRouted},
	), nil
}

// vastaBinary copies the program under test into dir and returns the copy's path.
func vastaBinary(o Options, dir string) (string, error) {
	path, err := command.Program(o.Vasta)
	if err != nil {
		return "", err
	}
	bin := filepath.Join(dir, "vasta")
	if err := copyExecutable(path, bin); err != nil {
		return "", fmt.Errorf("option --vasta: %w", err)
	}
	return bin, nil
}

func vastaSubject(name string, class Class, bin string, fixed ...string) *subject {
	s := &subject{
		SubjectInfo: SubjectInfo{Name: name, Class: class, PastaLike: class == ClassVasta},
		tool: func(mtu int, options ...string) []string {
			return slices.Concat([]string{bin, "-q", "-m", strconv.Itoa(mtu)}, fixed, options, []string{"--"})
		},
		open: openVasta,
	}
	s.forwarding = func(ports string) []string { return s.tool(lab.MTU, "-t", ports) }
	s.describe(bin)
	return s
}

// pastaSubject is pasta or a program that takes its command line. It forwards no
// ports, as vasta by default.
func pastaSubject(p Peer) *subject {
	s := &subject{
		SubjectInfo: SubjectInfo{Name: p.Name, Class: ClassPeer, PastaLike: true},
		tool: func(mtu int, options ...string) []string {
			return slices.Concat(p.Argv, []string{"--config-net", "-q", "-t", "none", "-u", "none", "-T", "none", "-U", "none", "-m", strconv.Itoa(mtu)},
				options, []string{"--"})
		},
		open: openTool,
	}
	s.forwarding = func(ports string) []string {
		argv := s.tool(lab.MTU)
		argv[slices.Index(argv, "-t")+1] = ports
		return argv
	}
	s.describe(p.Argv[0])
	return s
}

func slirpSubject() *subject {
	s := &subject{
		SubjectInfo: SubjectInfo{Name: slirpName, Class: ClassPeer, Command: "slirp4netns -c --mtu=MTU PID tap0"},
		open:        openSlirp,
	}
	s.describe(slirpName)
	return s
}

// describe fills in the version, or why the program cannot be measured, and the
// command line.
func (s *subject) describe(program string) {
	if s.tool != nil {
		argv := s.tool(lab.MTU)
		argv[0] = filepath.Base(argv[0])
		s.Command = strings.Join(argv, " ") + " CMD"
	}
	version, err := programVersion(program)
	if err != nil {
		s.Absent = err.Error()
		return
	}
	s.Version = version
}

// programVersion returns the first line that the program prints for --version.
func programVersion(program string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), versionTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, program, "--version").Output()
	if errors.Is(err, exec.ErrNotFound) {
		return "", fmt.Errorf("%s is not installed", program)
	}
	if err != nil {
		return "", fmt.Errorf("%s --version: %w", filepath.Base(program), err)
	}
	line, _, _ := strings.Cut(string(out), "\n")
	version := strings.TrimSpace(line)
	if pkg := debianPackage(ctx, program); pkg != "" {
		version += " (" + pkg + ")"
	}
	return version, nil
}

// debianPackage returns name and version of the package that the program was
// installed from, "" when there is none to be found: some programs are packaged
// without knowing their own version.
func debianPackage(ctx context.Context, program string) string {
	path, err := exec.LookPath(program)
	if err != nil {
		return ""
	}
	// The answer is "PACKAGE[:ARCHITECTURE]: PATH".
	out, err := exec.CommandContext(ctx, "dpkg-query", "--search", path).Output()
	if err != nil {
		return ""
	}
	name, _, _ := strings.Cut(string(out), ":")
	out, err = exec.CommandContext(ctx, "dpkg-query", "--show", name).Output()
	if err != nil {
		return ""
	}
	return strings.Join(strings.Fields(string(out)), " ")
}

// openTool starts a program that runs a command inside its namespace, with an
// agent as the command.
func openTool(ctx context.Context, r *rig, s *subject, mtu int) (*session, error) {
	return startTool(ctx, r, s, mtu)
}

// openVasta is openTool with a file that vasta writes its counters to.
func openVasta(ctx context.Context, r *rig, s *subject, mtu int) (*session, error) {
	return openVastaWith(ctx, r, s, mtu)
}

// openVastaWith is openVasta with more options.
func openVastaWith(ctx context.Context, r *rig, s *subject, mtu int, options ...string) (*session, error) {
	file := r.countersFile()
	x, err := startTool(ctx, r, s, mtu, append(options, "--counters="+file)...)
	if x != nil {
		x.counters = file
	}
	return x, err
}

func startTool(ctx context.Context, r *rig, s *subject, mtu int, options ...string) (*session, error) {
	argv := append(s.tool(mtu, options...), r.agentArgv("session")...)
	x, err := startSession(r.lab.Host.CommandContext(ctx, lab.Ordinary, argv...))
	if err != nil {
		return nil, err
	}
	x.toolPID = x.agentCmd.Process.Pid
	return x, x.connect(r.hostServers)
}

// openSlirp starts an agent in a namespace of its own and connects that namespace
// by slirp4netns.
func openSlirp(ctx context.Context, r *rig, _ *subject, mtu int) (*session, error) {
	argv := append([]string{"unshare", "--user", "--net", "--map-root-user"}, r.agentArgv("session")...)
	x, err := startSession(r.lab.Host.CommandContext(ctx, lab.Ordinary, argv...))
	if err != nil {
		return nil, err
	}
	slirp := r.lab.Host.CommandContext(ctx, lab.Ordinary, slirpName, "--configure",
		"--mtu="+strconv.Itoa(mtu), strconv.Itoa(x.agentCmd.Process.Pid), "tap0")
	if err := slirp.Start(); err != nil {
		return nil, errors.Join(err, x.close())
	}
	x.helper = slirp
	x.toolPID = slirp.Process.Pid
	return x, x.connect(r.hostServers)
}

// openVeth makes an agent in host that talks to inet directly.
func openVeth(ctx context.Context, r *rig, _ *subject, mtu int) (*session, error) {
	return openAcross(ctx, r, r.lab.Host, servers{ns: r.lab.Inet, addr: lab.InetAddr4.Addr()}, inetServer)
}

// openLoopback makes an agent in host that talks to host itself.
func openLoopback(ctx context.Context, r *rig, _ *subject, _ int) (*session, error) {
	return openAcross(ctx, r, r.lab.Host, r.hostServers, netip.AddrPortFrom(loopback, iperfPort))
}

// openRouted makes an agent in a namespace behind host, whose kernel routes what it says to inet. Like vasta's, and unlike that of a plain
// veth, a sender in inet does not know what queues there are behind the next hop: the kernel lets go of a packet's socket where it routes
// it, and cannot hold that back (TCP small queues).
func openRouted(ctx context.Context, r *rig, _ *subject, _ int) (*session, error) {
	if r.behind == nil {
		ns, err := r.lab.AddBehind()
		if err != nil {
			return nil, err
		}
		r.behind = ns
	}
	return openAcross(ctx, r, r.behind, servers{ns: r.lab.Inet, addr: lab.InetAddr4.Addr()}, inetServer)
}

// openSplice makes an agent in host that talks to inet's loopback through the
// relay in inet.
func openSplice(ctx context.Context, r *rig, _ *subject, mtu int) (*session, error) {
	return openAcross(ctx, r, r.lab.Host, servers{ns: r.lab.Inet, addr: loopback}, netip.AddrPortFrom(lab.InetAddr4.Addr(), relayPort))
}

// inetServer is iperf3's in inet.
var inetServer = netip.AddrPortFrom(lab.InetAddr4.Addr(), iperfPort)

// openAcross makes an agent in a namespace whose own kernel carries what it says to target, and by that to the servers.
func openAcross(ctx context.Context, r *rig, from *lab.Namespace, behind servers, target netip.AddrPort) (*session, error) {
	x, err := startSession(from.CommandContext(ctx, lab.Root, r.agentArgv("session")...))
	if err != nil {
		return nil, err
	}
	if err := x.connect(behind); err != nil {
		return x, err
	}
	x.target = target
	return x, nil
}

// agentArgv returns the command line of an agent.
func (r *rig) agentArgv(args ...string) []string {
	return append([]string{r.agentPath, "bench", agent.Command}, args...)
}

// copyExecutable copies a file so that everybody may execute the copy.
func copyExecutable(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o755)
}
