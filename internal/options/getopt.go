package options

import "strings"

// syntaxError is a mistake in the form of the command line, in the words glibc's getopt_long has for it.
type syntaxError string

func (e syntaxError) Error() string { return string(e) }

// scanner splits a command line into options and operands as glibc's getopt_long does with an option string that
// begins with "+": it stops at the first operand.
type scanner struct {
	table []Option
	args  []string // what has not been read yet
	// cluster is what is left of an argument of several short options.
	cluster string
	// ended is true once "--" was read: everything after it is an operand.
	ended bool
}

// found is one option of the command line.
type found struct {
	option *Option
	// spelled is the option with its dashes, in the long or the short form the user chose.
	spelled string
	// arg is its argument; hasArg is false where an optional one was not given.
	arg    string
	hasArg bool
}

// next gives the next option. At the first operand, after "--" (which it consumes) and at the end it gives ok false, and
// args holds the operands.
func (s *scanner) next() (f found, ok bool, err error) {
	if s.cluster != "" {
		f, err = s.short()
		return f, err == nil, err
	}
	if s.ended || len(s.args) == 0 || len(s.args[0]) < 2 || s.args[0][0] != '-' {
		return found{}, false, nil
	}
	word := s.args[0]
	s.args = s.args[1:]
	switch {
	case word == "--":
		s.ended = true
		return found{}, false, nil
	case strings.HasPrefix(word, "--"):
		f, err = s.long(word[2:])
	default:
		s.cluster = word[1:]
		f, err = s.short()
	}
	return f, err == nil, err
}

// long reads an option from text, which is an argument without its two dashes.
func (s *scanner) long(text string) (found, error) {
	name, value, hasValue := strings.Cut(text, "=")
	option, spelled, err := s.lookup(name, text)
	if err != nil {
		return found{}, err
	}
	f := found{option: option, spelled: "--" + spelled, arg: value, hasArg: hasValue}
	switch {
	case hasValue && option.Arg == NoArg:
		return found{}, syntaxError("option '" + f.spelled + "' doesn't allow an argument")
	case !hasValue && option.Arg == RequiredArg:
		if len(s.args) == 0 {
			return found{}, syntaxError("option '" + f.spelled + "' requires an argument")
		}
		f.arg, f.hasArg = s.args[0], true
		s.args = s.args[1:]
	}
	return f, nil
}

// lookup finds the option that name is the whole of, or else an unambiguous beginning of; text is the name with what
// follows it, for messages. Two names of one option do not make a beginning ambiguous.
func (s *scanner) lookup(name, text string) (option *Option, spelled string, err error) {
	var possible []string
	for i := range s.table {
		o := &s.table[i]
		for _, candidate := range o.names() {
			if candidate == name {
				return o, candidate, nil
			}
			if !strings.HasPrefix(candidate, name) {
				continue
			}
			if option == nil {
				option, spelled = o, candidate
			}
			if o != option || len(possible) == 0 {
				possible = append(possible, "'--"+candidate+"'")
			}
		}
	}
	switch {
	case option == nil:
		return nil, "", syntaxError("unrecognized option '--" + text + "'")
	case len(possible) > 1:
		return nil, "", syntaxError("option '--" + text + "' is ambiguous; possibilities: " + strings.Join(possible, " "))
	}
	return option, spelled, nil
}

// short reads the first option of the cluster; what follows a letter that takes an argument is that argument.
func (s *scanner) short() (found, error) {
	letter := s.cluster[:1]
	s.cluster = s.cluster[1:]
	var option *Option
	for i := range s.table {
		if s.table[i].Short != 0 && s.table[i].Short == letter[0] {
			option = &s.table[i]
			break
		}
	}
	if option == nil {
		return found{}, syntaxError("invalid option -- '" + letter + "'")
	}
	f := found{option: option, spelled: "-" + letter}
	if option.Arg == NoArg {
		return f, nil
	}
	if s.cluster != "" {
		f.arg, f.hasArg = s.cluster, true
		s.cluster = ""
		return f, nil
	}
	if option.Arg == RequiredArg {
		if len(s.args) == 0 {
			return found{}, syntaxError("option requires an argument -- '" + letter + "'")
		}
		f.arg, f.hasArg = s.args[0], true
		s.args = s.args[1:]
	}
	return f, nil
}
