package allbench

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"github.com/vasta-net/vasta/bench/internal/page"
)

// about says what was measured on what.
func (r *Results) about() string {
	return fmt.Sprintf("Linux %s, %d processors, %s; the %s form, begun %s, took %v.",
		r.Kernel, r.Processors, r.Go, r.Form, r.Began.Format(time.RFC3339), r.Elapsed.Round(time.Second))
}

// counts are how many bars there are, and how they came out. A benchmark that has not run is one that is not measured.
func (r *Results) counts() (bars, missed, unmeasured int) {
	for _, s := range r.Sections {
		for _, p := range s.Parts {
			if p.Failure != "" {
				bars, missed, unmeasured = bars+1, missed+1, unmeasured+1
			}
			for _, b := range p.shown.Bars {
				bars++
				if !b.Met {
					missed++
				}
				if b.Measured == nil {
					unmeasured++
				}
			}
		}
	}
	return bars, missed, unmeasured
}

// report writes what a terminal shows, with the summary as the last line. It returns how many bars were missed.
func report(w io.Writer, r *Results) (missed int, err error) {
	var b strings.Builder
	fmt.Fprintf(&b, "vasta bench all: %s\n", r.about())
	for _, s := range r.Sections {
		title := s.Name + ": " + s.Title
		fmt.Fprintf(&b, "\n%s\n%s\n%s\n\nThe source's own figures:\n", title, strings.Repeat("=", utf8.RuneCountInString(title)), s.About)
		t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
		for _, f := range s.Source {
			fmt.Fprintf(t, "  %s\t%s\t%s\n", f.What, f.Before, f.After)
		}
		if err := t.Flush(); err != nil {
			return 0, err
		}
		for _, p := range s.Parts {
			fmt.Fprintf(&b, "\n$ %s\n", p.Command)
			if p.Failure != "" {
				fmt.Fprintf(&b, "not measured: %s\n", p.Failure)
			}
			b.WriteString(p.text)
		}
	}
	bars, missed, unmeasured := r.counts()
	fmt.Fprintf(&b, "\nbench all: %d of %d bars met, %d missed (%d of them not measured)\n", bars-missed, bars, missed, unmeasured)
	_, err = io.WriteString(w, b.String())
	return missed, err
}

// newPage is what option --html writes.
func newPage(r *Results) *page.Page {
	bars, missed, unmeasured := r.counts()
	p := &page.Page{
		Title: "vasta bench all",
		About: []string{
			r.about(), fmt.Sprintf("%d of %d bars met, %d missed (%d of them not measured).", bars-missed, bars, missed, unmeasured),
			"Bars are medians; the line on each goes from the lowest round to the highest.",
		},
	}
	for _, s := range r.Sections {
		one := page.Section{Title: s.Name + ": " + s.Title, About: s.About, Source: s.Source}
		for _, x := range s.Parts {
			if x.Failure != "" {
				one.Missing = append(one.Missing, x.Command+": not measured: "+x.Failure)
			}
			one.Bars = append(one.Bars, x.shown.Bars...)
			one.Charts = append(one.Charts, x.shown.Charts...)
		}
		p.Sections = append(p.Sections, one)
	}
	return p
}
