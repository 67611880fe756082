// Package command holds what the command lines of the benchmarks have in common: options, exit statuses, which rows are measured, bars, and results as a file.
package command

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"github.com/vasta-net/vasta/bench/internal/page"
)

// Rows are all that a benchmark can measure.
type Rows[R interface{ RowName() string }] []R

// Named are the rows whose names begin with one of only; all when there are none.
func (rows Rows[R]) Named(only []string) (list Rows[R]) {
	for _, r := range rows {
		ok := len(only) == 0
		for _, name := range only {
			ok = ok || strings.HasPrefix(r.RowName(), name)
		}
		if ok {
			list = append(list, r)
		}
	}
	return list
}

// Check refuses what option --only says if one of the names is the beginning of no row's.
func (rows Rows[R]) Check(only []string) error {
	for _, name := range only {
		if len(rows.Named([]string{name})) == 0 {
			return fmt.Errorf("option --only: no row is named %q; rows are %s", name, rows)
		}
	}
	return nil
}

// String is the list of names that usage texts and errors show.
func (rows Rows[R]) String() string {
	var names []string
	for _, r := range rows {
		names = append(names, r.RowName())
	}
	return strings.Join(names, ", ")
}

// WriteJSON writes results to the file that option --json names; "" is none.
func WriteJSON(file string, results any) error {
	if file == "" {
		return nil
	}
	data, err := json.MarshalIndent(results, "", "  ")
	if err == nil {
		err = os.WriteFile(file, append(data, '\n'), 0o644)
	}
	if err != nil {
		return fmt.Errorf("option --json: %w", err)
	}
	return nil
}

// WriteHTML writes a page to the file that option --html names; "" is none.
func WriteHTML(file string, p *page.Page) error {
	if file == "" {
		return nil
	}
	var b bytes.Buffer
	err := p.Write(&b)
	if err == nil {
		err = os.WriteFile(file, b.Bytes(), 0o644)
	}
	if err != nil {
		return fmt.Errorf("option --html: %w", err)
	}
	return nil
}
