package guest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"

	"github.com/vasta-net/vasta/internal/lab/machine"
)

// outcome is what is known of a test that ran in the machine.
type outcome struct {
	children []*outcome // in the order in which they began
	name     string     // the last part of the whole name
	action   string     // "run", and at the end "pass", "fail" or "skip"; "" for a part of a name that is no test
	output   strings.Builder
}

// child finds a test by its whole name, or adds it.
func (o *outcome) child(name string) *outcome {
	if name == "" {
		return o
	}
	first, rest, _ := strings.Cut(name, "/")
	for _, c := range o.children {
		if c.name == first {
			return c.child(rest)
		}
	}
	c := &outcome{name: first}
	o.children = append(o.children, c)
	return c.child(rest)
}

// event is a line of go tool test2json.
type event struct{ Action, Test, Output string }

// runSuite runs a test binary in the machine, and reports its tests as subtests of t.
func runSuite(ctx context.Context, t *testing.T, c *machine.Cmd) {
	convert := exec.CommandContext(ctx, "go", "tool", "test2json")
	stdin, stdinErr := convert.StdinPipe()
	var events, failure bytes.Buffer
	convert.Stdout, convert.Stderr = &events, &failure
	if err := errors.Join(stdinErr, convert.Start()); err != nil {
		t.Fatal(err)
	}
	c.Stdout, c.Stderr = stdin, stdin
	runErr := c.Run(ctx)
	if err := errors.Join(stdin.Close(), convert.Wait()); err != nil {
		t.Fatalf("go tool test2json: %v: %s", err, &failure)
	}
	suite := &outcome{action: "run"}
	for decoder := json.NewDecoder(&events); ; {
		var e event
		err := decoder.Decode(&e)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("go tool test2json: %v", err)
		}
		o := suite.child(e.Test)
		switch e.Action {
		case "output":
			o.output.WriteString(e.Output)
		case "run", "pass", "fail", "skip":
			o.action = e.Action
		}
	}
	if len(suite.children) == 0 {
		t.Error("no test ran")
	}
	suite.report(t)
	if runErr != nil {
		t.Error(runErr)
	}
}

// report makes subtests of the children and tells how o ended.
func (o *outcome) report(t *testing.T) {
	for _, c := range o.children {
		t.Run(c.name, c.report)
	}
	if o.output.Len() > 0 {
		t.Log("in the machine:\n" + o.output.String())
	}
	switch o.action {
	case "fail":
		t.Fail()
	case "run":
		t.Error("it did not end")
	case "skip":
		t.Skip()
	}
}
