package netns

import (
	"errors"
	"net/netip"
	"syscall"
)

const tunFUSO = 0x60

// Template is what the host's own interfaces offer for the inside of a namespace.
type Template struct {
	IfName string
	MTU    int // of the host's interface in bytes, for information
	V4, V6 Family
	// Local says that the host has no network: the template is pasta's local mode, link-local addresses only.
	Local bool
}

// Family is one address family of a Template; no addresses means that the host does not have the family.
type Family struct {
	IfName  string
	Addrs   []netip.Prefix
	Routes  []Route
	Gateway netip.Addr
}

// Config returns the Config that gives a namespace t's name, addresses and routes.
func (t *Template) Config() Config { return Config{} }

// HostNetwork reads the host's template. iface4 and iface6 name the interfaces; empty means the one with the first default route, else with the first route.
func HostNetwork(iface4, iface6 string) (Template, error) { return Template{}, errors.ErrUnsupported }

// Namespace is a namespace made by Create or joined by Attach.
type Namespace struct{}

// StageMain must be the first call in main; it does not return in a stage, and returns at once otherwise.
func StageMain() {}

// Create makes the namespaces and the TAP.
func Create(cfg Config) (*Namespace, error) { return nil, errors.ErrUnsupported }

// Attach joins t and makes the TAP.
func Attach(t Target, cfg Config) (*Namespace, error) { return nil, errors.ErrUnsupported }

// TAP returns the interface; its FDs belong to the caller.
func (n *Namespace) TAP() *TAP { return nil }

// Warnings lists, one line each, what the machine refused and what follows from it.
func (n *Namespace) Warnings() []string { return nil }

// Start runs the command; the error is a *StartError when it could not be executed. Create only, once.
func (n *Namespace) Start(c Command) error { return errors.ErrUnsupported }

// Wait waits for the command's end, and that of everything else in the PID namespace.
func (n *Namespace) Wait() (ExitStatus, error) { return ExitStatus{}, errors.ErrUnsupported }

// Signal sends sig to the command.
func (n *Namespace) Signal(sig syscall.Signal) error { return errors.ErrUnsupported }

// Gone is closed when the namespace (or Target.PID) is no more; for Create, when the stage has ended.
func (n *Namespace) Gone() <-chan struct{} { return nil }

// Close ends the namespace's processes (Create) or stops watching (Attach). It does not close the TAP's FDs.
func (n *Namespace) Close() error { return nil }

// stageName is argv[0] of the stage.
const stageName = "vasta-stage"
