package command

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

type row string

func (r row) RowName() string { return string(r) }

func TestRows(t *testing.T) {
	all := Rows[row]{"ring-1", "ring-4", "tap-1"}
	for _, test := range []struct {
		only []string
		want string
	}{
		{nil, "ring-1, ring-4, tap-1"},
		{[]string{"ring"}, "ring-1, ring-4"},
		{[]string{"tap-1", "ring-4"}, "ring-4, tap-1"},
		{[]string{"1"}, ""},
	} {
		if got := all.Named(test.only).String(); got != test.want {
			t.Errorf("%q: %s, want %s", test.only, got, test.want)
		}
	}
	if err := all.Check([]string{"ring", "tap-1"}); err != nil {
		t.Error(err)
	}
	if err := all.Check([]string{"ring", "link"}); err == nil || !strings.Contains(err.Error(), `"link"; rows are ring-1, ring-4, tap-1`) {
		t.Errorf("a name that is no row's: %v", err)
	}
}

func TestWriteJSON(t *testing.T) {
	file := filepath.Join(t.TempDir(), "r.json")
	if err := WriteJSON(file, map[string]int{"a": 1}); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "{\n  \"a\": 1\n}\n" {
		t.Errorf("%q, %v", b, err)
	}
	if err := WriteJSON("", nil); err != nil {
		t.Error(err)
	}
	if err := WriteJSON(filepath.Join(file, "below"), 1); err == nil || !strings.Contains(err.Error(), "option --json") {
		t.Errorf("a file that cannot be: %v", err)
	}
}
