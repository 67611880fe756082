package options

import (
	"fmt"
	"io"
	"strings"
)

// Shell is a shell that options can be completed in.
type Shell string

// The shells.
const (
	Bash Shell = "bash"
	Zsh  Shell = "zsh"
	Fish Shell = "fish"
)

var shells = []Shell{Bash, Zsh, Fish}

func joined(list []Shell, separator string) string {
	words := make([]string, len(list))
	for i, s := range list {
		words[i] = string(s)
	}
	return strings.Join(words, separator)
}

// WriteCompletion writes what a shell reads to complete vasta's command line.
func WriteCompletion(w io.Writer, shell Shell) error {
	var text string
	switch shell {
	case Bash:
		text = bashCompletion()
	case Zsh:
		text = zshCompletion()
	case Fish:
		text = fishCompletion()
	default:
		return fmt.Errorf("completion for %q: the shells are %s", shell, joined(shells, ", "))
	}
	_, err := io.WriteString(w, text)
	return err
}

// completed calls f for every option that can be given.
func completed(f func(o *Option)) {
	for i := range Table {
		if o := &Table[i]; o.State == Built {
			f(o)
		}
	}
}

// words are the commands that have a name.
func words() (list []string) {
	for _, w := range commandWords {
		if w != "" {
			list = append(list, w)
		}
	}
	return list
}

// isPath says whether the argument names a file.
func (o *Option) isPath() bool {
	return strings.Contains(o.ArgName, "FILE") || strings.Contains(o.ArgName, "PATH")
}

// choices are the values of an argument that is one of a few words.
func (o *Option) choices() []string {
	if strings.ToLower(o.ArgName) != o.ArgName {
		return nil
	}
	return strings.Split(o.ArgName, "|")
}

// bashCompletion completes options before the command, and what follows it as that command's own.
func bashCompletion() string {
	var options, withArg, paths []string
	var choices strings.Builder
	completed(func(o *Option) {
		names := []string{"--" + o.Name}
		if o.Short != 0 {
			names = append(names, "-"+string(rune(o.Short)))
		}
		options = append(options, names...)
		if o.Arg != RequiredArg {
			return
		}
		pattern := strings.Join(names, "|")
		switch list := o.choices(); {
		case len(list) > 0:
			fmt.Fprintf(&choices, "\t\t%s) COMPREPLY=($(compgen -W '%s' -- \"$cur\")); return ;;\n", pattern, strings.Join(list, " "))
		case o.isPath():
			paths = append(paths, pattern)
		default:
			withArg = append(withArg, pattern)
		}
	})
	return fmt.Sprintf(`# bash completion for vasta, written by: vasta completion bash
_vasta() {
	local cur=$2 prev=$3 i
	COMPREPLY=()
	for ((i = 1; i < COMP_CWORD; i++)); do
		case ${COMP_WORDS[i]} in
		--)
			if declare -F _command_offset >/dev/null; then _command_offset $((i + 1)); else COMPREPLY=($(compgen -c -f -- "$cur")); fi
			return ;;
		completion) COMPREPLY=($(compgen -W '%s' -- "$cur")); return ;;
		bench) if ((COMP_CWORD == i + 1)); then COMPREPLY=($(compgen -W '%s' -- "$cur")); else compopt -o default 2>/dev/null; fi; return ;;
		esac
	done
	case $prev in
%s		%s) compopt -o filenames; COMPREPLY=($(compgen -f -- "$cur")); return ;;
		%s) return ;;
	esac
	case $cur in
	-*) COMPREPLY=($(compgen -W '%s' -- "$cur")) ;;
	*) COMPREPLY=($(compgen -W '%s' -c -- "$cur")) ;;
	esac
}
complete -F _vasta vasta
`, joined(shells, " "), strings.Join(Benchmarks, " "), choices.String(), strings.Join(paths, "|"), strings.Join(withArg, "|"), strings.Join(options, " "), strings.Join(words(), " "))
}

// zshCompletion is a specification for zsh's _arguments.
func zshCompletion() string {
	quote := strings.NewReplacer("'", `'\''`, "[", `\[`, "]", `\]`, ":", `\:`).Replace
	var b strings.Builder
	b.WriteString("#compdef vasta\n# zsh completion for vasta, written by: vasta completion zsh\n_arguments -s -S \\\n")
	completed(func(o *Option) {
		argument, joint := "", ""
		action := " "
		switch list := o.choices(); {
		case len(list) > 0:
			action = "(" + strings.Join(list, " ") + ")"
		case o.isPath():
			action = "_files"
		}
		switch o.Arg {
		case RequiredArg:
			argument, joint = ":"+quote(o.ArgName)+":"+action, "="
		case OptionalArg:
			argument, joint = "::"+quote(o.ArgName)+":"+action, "=-"
		}
		text := "[" + quote(o.Help) + "]" + argument
		fmt.Fprintf(&b, "\t'*--%s%s%s' \\\n", o.Name, joint, text)
		if o.Short != 0 {
			short := ""
			if o.Arg == RequiredArg {
				short = "+"
			}
			fmt.Fprintf(&b, "\t'*-%c%s%s' \\\n", o.Short, short, text)
		}
	})
	fmt.Fprintf(&b, "\t'1: :{compadd %s; _command_names -e}' \\\n\t'*:: :_normal'\n", strings.Join(words(), " "))
	return b.String()
}

// fishCompletion is one line for each option.
func fishCompletion() string {
	quote := strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace
	var b strings.Builder
	b.WriteString("# fish completion for vasta, written by: vasta completion fish\n")
	fmt.Fprintf(&b, "complete -c vasta -n __fish_use_subcommand -a '%s'\n", strings.Join(words(), " "))
	fmt.Fprintf(&b, "complete -c vasta -n '__fish_seen_subcommand_from completion' -f -a '%s'\n", joined(shells, " "))
	fmt.Fprintf(&b, "complete -c vasta -n '__fish_seen_subcommand_from bench' -a '%s'\n", strings.Join(Benchmarks, " "))
	completed(func(o *Option) {
		fmt.Fprintf(&b, "complete -c vasta -l %s", o.Name)
		if o.Short != 0 {
			fmt.Fprintf(&b, " -s %c", o.Short)
		}
		list := o.choices()
		switch {
		case o.Arg != RequiredArg:
		case len(list) > 0:
			fmt.Fprintf(&b, " -x -a '%s'", strings.Join(list, " "))
		case o.isPath():
			b.WriteString(" -r -F")
		default:
			b.WriteString(" -x")
		}
		fmt.Fprintf(&b, " -d '%s'\n", quote(o.Help))
	})
	return b.String()
}
