package tcp

import (
	"testing"

	"pgregory.net/rapid"
)

// The scoreboard against one fate for each byte.
func TestScoreboardAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var b scoreboard
		var model []fate // from una on
		una := int64(1)
		now := int64(0)
		some := func(what string) (from, to int64) {
			from = rapid.Int64Range(una, una+int64(len(model))-1).Draw(t, what+" from")
			return from, rapid.Int64Range(from+1, una+int64(len(model))).Draw(t, what+" to")
		}
		for range rapid.IntRange(1, 100).Draw(t, "steps") {
			now++
			step := rapid.IntRange(0, 6).Draw(t, "step")
			if len(model) == 0 || step == 0 {
				n := rapid.Int64Range(1, 40).Draw(t, "frame")
				b.push(una+int64(len(model)), una+int64(len(model))+n, now)
				model = append(model, make([]fate, n)...)
			} else {
				switch step {
				case 1, 2: // SACK
					from, to := some("SACK")
					lo, hi := b.within(from, to)
					for i := lo; i < hi; i++ {
						b.move(b.at(i), sacked)
					}
					if lo < hi {
						b.join(lo, hi)
					}
					for i := from; i < to; i++ {
						model[i-una] = sacked
					}
				case 3: // acknowledgement
					_, to := some("acknowledged")
					for una < to {
						end := min(b.at(0).to, to)
						model = model[end-una:]
						b.cut(end)
						una = end
					}
				case 4: // one record is lost
					i := rapid.IntRange(0, b.n-1).Draw(t, "lost")
					if r := b.at(i); r.fate == flying {
						b.move(r, lost)
						for k := r.from; k < r.to; k++ {
							model[k-una] = lost
						}
					}
				case 5: // what is lost is sent again
					if b.lost == 0 {
						continue
					}
					i := b.firstLost()
					b.merge(i, 60)
					r := b.at(i)
					end := rapid.Int64Range(r.from+1, r.to).Draw(t, "resent to")
					for k := r.from; k < end; k++ {
						if model[k-una] != lost {
							t.Fatalf("%d is sent again, though it is not lost", k)
						}
						model[k-una] = flying
					}
					b.resend(i, end, now)
					if r := b.at(i); !r.resent || r.sentAt != now {
						t.Fatalf("sent again: %+v", *r)
					}
				case 6:
					reneged := model[0] == sacked
					if rapid.Bool().Draw(t, "timeout") {
						b.loseAll()
						for i, f := range model {
							if f != sacked || reneged {
								model[i] = lost
							}
						}
					} else {
						b.findAll()
						for i, f := range model {
							if f == lost {
								model[i] = flying
							}
						}
					}
				}
			}
			checkModel(t, &b, una, model)
		}
	})
}

func checkModel(t failer, b *scoreboard, una int64, model []fate) {
	var sums [3]int64
	for _, f := range model {
		sums[f]++
	}
	if sums != [3]int64{b.flying, b.lost, b.sacked} {
		t.Fatalf("flying %d, lost %d, sacked %d; want %v", b.flying, b.lost, b.sacked, sums)
	}
	at := una
	for i := range b.n {
		r := b.at(i)
		if r.from != at || r.to <= at {
			t.Fatalf("record %d is [%d, %d), the one before it ends at %d", i, r.from, r.to, at)
		}
		for ; at < r.to; at++ {
			if model[at-una] != r.fate {
				t.Fatalf("%d is %d, want %d", at, r.fate, model[at-una])
			}
		}
	}
	if at != una+int64(len(model)) {
		t.Fatalf("records up to %d, want %d", at, una+int64(len(model)))
	}
}

// A ring that was long does not stay when nothing is outstanding.
func TestScoreboardShrinks(t *testing.T) {
	var b scoreboard
	for i := range int64(1000) {
		b.push(i, i+1, 1)
	}
	for i := range int64(1000) {
		b.cut(i + 1)
	}
	if b.n != 0 || len(b.ring) != 0 || b.flying != 0 {
		t.Errorf("%d records in a ring of %d, %d bytes", b.n, len(b.ring), b.flying)
	}
}
