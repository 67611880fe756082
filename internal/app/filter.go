package app

import (
	"fmt"
	"os"

	"github.com/vasta-net/vasta"
	"github.com/vasta-net/vasta/packet"
)

// filterFrames has the workers drop what the filter in a file does not accept. Each gets a machine of its own.
func filterFrames(path string, c *vasta.Config) error {
	if path == "" {
		return nil
	}
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("option --filter: %w", err)
	}
	defer file.Close()
	program, err := packet.ParseFilter(file)
	if err == nil {
		_, err = packet.FilterHook(program)
	}
	if err != nil {
		return fmt.Errorf("option --filter: %s: %w", path, err)
	}
	c.Hook = func(int) packet.Hook {
		hook, err := packet.FilterHook(program)
		if err != nil {
			return nil // it was valid a moment ago
		}
		return hook
	}
	return nil
}
