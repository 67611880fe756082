package options

// ArgKind says whether an option takes an argument.
type ArgKind uint8

// The kinds, which are getopt_long's: an optional argument can be given only as --name=value.
const (
	NoArg ArgKind = iota
	RequiredArg
	OptionalArg
)

// State says what vasta does with an option of the table.
type State uint8

// The states.
const (
	// Built options do what their help says.
	Built State = iota
	// AlreadySo options of pasta ask for what vasta does anyway: they are accepted and change nothing.
	AlreadySo
	// NotYet options of pasta are refused by their name.
	NotYet
)

// Section groups the options of --help.
type Section string

// The sections, in the order they are shown in.
const (
	SectionGeneral   Section = "General"
	SectionNamespace Section = "The namespace"
	SectionAddress   Section = "Addresses and routes"
	SectionDNS       Section = "Names"
	SectionHost      Section = "Reaching the host, and being reached"
	SectionProtocol  Section = "Protocols"
	SectionPolicy    Section = "What may be reached, and by whom"
	SectionLimits    Section = "Limits"
	SectionWatch     Section = "Seeing what happens"
	SectionVM        Section = "Virtual machines"
)

// sections is the order of --help.
var sections = []Section{
	SectionNamespace, SectionAddress, SectionDNS, SectionHost, SectionProtocol, SectionPolicy, SectionLimits, SectionWatch, SectionGeneral, SectionVM,
}

// Option is one row of the table.
type Option struct {
	// Name is the long name without dashes, and Aliases are others for the same.
	Name    string
	Aliases []string
	// Short is the letter, or 0.
	Short byte
	// Arg says whether there is an argument, and ArgName what --help calls it.
	Arg     ArgKind
	ArgName string
	// Help is one sentence without its full stop; Default is shown behind it where it is not empty.
	Help, Default string
	Section       Section
	State         State
	// Instead is what somebody who wanted a NotYet option can do today, as the end of a sentence.
	Instead string
	// Commands are those that take the option.
	Commands commandSet

	// ends is true for an option that ends the command line where it stands.
	ends bool
	// set carries the option out; nil for one that is only accepted.
	set func(p *parser, f found) error
}

// names gives every long name.
func (o *Option) names() []string { return append([]string{o.Name}, o.Aliases...) }

// flag makes a set function of one that needs no argument.
func flag(set func(p *parser)) func(*parser, found) error {
	return func(p *parser, _ found) error {
		set(p)
		return nil
	}
}

// value makes a set function that parses its argument and stores the result.
func value[T any](parse func(string) (T, error), store func(p *parser, v T)) func(*parser, found) error {
	return func(p *parser, f found) error {
		v, err := parse(f.arg)
		if err != nil {
			return err
		}
		store(p, v)
		return nil
	}
}

// number makes a set function for a decimal number from low to high.
func number(low, high int64, store func(p *parser, n int64)) func(*parser, found) error {
	return value(func(text string) (int64, error) { return parseNumber(text, low, high) }, store)
}
