package netbench

import (
	"context"
	"errors"
	"fmt"

	"github.com/vasta-net/vasta/internal/lab"
)

// Sessions that are there for one measurement.

// started is what a subject's open has returned, or why there is no session: nothing is left of one that did not come up.
func started(x *session, err error) (*session, error) {
	if err == nil {
		return x, nil
	}
	if x != nil {
		err = errors.Join(err, x.close())
	}
	return nil, fmt.Errorf("start: %w", err)
}

// alone measures in a session of a vasta's own, which has more options.
func (r *rig) alone(ctx context.Context, s *subject, mtu int, measure func(*session) (Sample, error), options ...string) (sample Sample, err error) {
	x, err := started(openVastaWith(ctx, r, s, mtu, options...))
	if err != nil {
		return Sample{}, err
	}
	defer func() { err = errors.Join(err, x.close()) }()
	return measure(x)
}

// aloneInside is alone with MTU 65520, for who has to do with the namespace of the tool too.
func (r *rig) aloneInside(ctx context.Context, s *subject, measure func(*session, *lab.Namespace) (Sample, error), options ...string) (Sample, error) {
	return r.alone(ctx, s, lab.MTU, func(x *session) (sample Sample, err error) {
		inside, err := x.inside(r)
		if err != nil {
			return Sample{}, err
		}
		defer func() { err = errors.Join(err, inside.Close()) }()
		return measure(x, inside)
	}, options...)
}
