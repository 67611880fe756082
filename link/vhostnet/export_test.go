package vhostnet

import (
	"testing"
	"time"
)

// SetShortLife sets how long rings last that were not made in vain, for a test.
func SetShortLife(t *testing.T, d time.Duration) {
	old := shortLife
	shortLife = d
	t.Cleanup(func() { shortLife = old })
}
