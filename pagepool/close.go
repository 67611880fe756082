package pagepool

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// Holder names who takes pages, for the report of what is still held.
type Holder uint8

// maxHolders is how many names a pool can have.
const maxHolders = 256

// Holder registers a name, once for each: "rx ring", "send queues".
func (p *Pool) Holder(name string) Holder {
	for i, n := range p.names {
		if n == name {
			return Holder(i)
		}
	}
	if len(p.names) == maxHolders {
		return 0
	}
	p.names = append(p.names, name)
	return Holder(len(p.names) - 1)
}

// As has all pages that are taken from now on belong to h.
func (p *Pool) As(h Holder) { p.as = h }

// Mark passes a page that is held on to another holder.
func (p *Pool) Mark(pg Page, h Holder) { p.pages[pg].holder = h }

// Close ends the pool, and its arena if that is its own. While anything is held it changes nothing and returns an error
// that wraps ErrInUse and says what is held and by whom; it may then be called again.
func (p *Pool) Close() error {
	p.Reclaim()
	if p.carve != noPage && p.pages[p.carve].refs == 1 {
		p.endCarving()
	}
	if p.InUse() > 0 {
		return fmt.Errorf("close page pool: %w: %s", ErrInUse, p.inUse())
	}
	p.provider.Free(p.sortedWarm())
	p.taken, p.warm, p.pages, p.mem = 0, nil, nil, nil
	if p.owned {
		if err := p.provider.Close(); err != nil {
			return fmt.Errorf("close page pool: %w", err)
		}
	}
	return nil
}

// Shutdown waits until others have given back what they hold, then closes. The owner must have put back everything of its own. When the context
// ends first, the pool is as it was and the error is that of Close.
func (p *Pool) Shutdown(ctx context.Context) error {
	p.returns.closing.Store(true)
	defer p.returns.closing.Store(false)
	for {
		err := p.Close()
		if !errors.Is(err, ErrInUse) {
			return err
		}
		select {
		case <-p.returns.wake:
		case <-ctx.Done():
			return fmt.Errorf("%w (%w)", err, context.Cause(ctx))
		}
	}
}

// inUse describes what is held: how much, by whom, and the first page of it.
func (p *Pool) inUse() string {
	var b strings.Builder
	held := make([]int, len(p.names))
	first := noPage
	for i := range p.pages {
		if m := &p.pages[i]; m.refs != 0 {
			held[m.holder]++
			if first == noPage {
				first = Page(i)
			}
		}
	}
	fmt.Fprintf(&b, "%d pages, among them %d fragments (", p.InUse(), p.frags)
	sep := ""
	for h, n := range held {
		if n > 0 {
			fmt.Fprintf(&b, "%s%s %d", sep, p.names[h], n)
			sep = ", "
		}
	}
	if m := &p.pages[first]; m.cut {
		fmt.Fprintf(&b, "); the first is page %d, cut into fragments", first)
	} else {
		fmt.Fprintf(&b, "); the first is page %d, held, with %d references", first, m.refs)
	}
	return b.String()
}
