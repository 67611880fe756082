package options

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The manual page is right for mandoc, which is strict, and shows every option that can be given.
func TestMan(t *testing.T) {
	var b bytes.Buffer
	if err := WriteMan(&b, "v1.2-3"); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "vasta.1")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "mandoc", "-T", "lint", "-W", "warning,stop", path)
	shown := strings.Join(run(t, "mandoc", "-T", "ascii", "-O", "width=1000", path), " ")
	shown = thin(shown)
	for i := range Table {
		o := &Table[i]
		if has := strings.Contains(shown, "--"+o.Name+" ") || strings.Contains(shown, "--"+o.Name+"["); has != (o.State != NotYet) {
			t.Errorf("--%s: shown is %t", o.Name, has)
		}
		if o.State == Built && !strings.Contains(shown, strings.Join(strings.Fields(o.text()), " ")) {
			t.Errorf("--%s: the page does not say %q", o.Name, o.text())
		}
	}
	if !strings.Contains(shown, "vasta v1.2-3") {
		t.Error("the page does not name the version")
	}
}

// thin is text without overstriking: bold is X, backspace, X.
func thin(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if i+1 < len(s) && s[i+1] == '\b' {
			i++
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
