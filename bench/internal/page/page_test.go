package page

import (
	"strings"
	"testing"

	"golang.org/x/net/html"
)

// odd is a name that has to be shown as text.
const odd = `<script>alert("1 & 2")</script>`

// shown is a page with everything that there may be to show. Of what there is room for, 4 is all: the values are 3.5, 1.75 and 0.
func shown() *Page {
	met := 1.5
	return &Page{
		Title: "vasta bench",
		About: []string{"a machine"},
		Bars:  []Bar{{What: "speed", Want: "≥ 1", Measured: &met, Met: true}, {What: "other", Want: "0", Why: "not measured: no such program"}},
		Sections: []Section{
			{Title: "first", Charts: []Chart{{Title: "speeds " + odd, Unit: "Mpps", Notes: []string{"half: 1 invalid rounds"}, Lines: []Line{
				{Name: "quick", Value: 3.5, Low: 3, High: 4, Beside: "0 wrong"}, {Name: "half", Value: 1.75, Low: 1.75, High: 1.75}, {Name: odd, Missing: "no such program"},
			}}}},
			{
				Title: "second", About: "what others did", Source: []Figure{{What: "theirs", Before: "11.1", After: "14.4 Mpps"}}, Missing: []string{"vasta bench net: no iperf3"},
				Bars: []Bar{{What: "third", Want: "> 0"}}, Charts: []Chart{{Title: "nothing", Unit: "ns", Lines: []Line{{Name: "zero"}}}},
			},
		},
	}
}

// TestPage: the page is well formed, has a bar for each subject that was measured and says of the others why not, fetches nothing, and shows names as text.
func TestPage(t *testing.T) {
	var b strings.Builder
	if err := shown().Write(&b); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	count := map[string]int{}
	var open []string
	var words strings.Builder
	widths := []string{}
	for z := html.NewTokenizer(strings.NewReader(text)); ; {
		kind := z.Next()
		if kind == html.ErrorToken {
			break
		}
		token := z.Token()
		switch kind {
		case html.TextToken:
			words.WriteString(token.Data)
		case html.StartTagToken, html.SelfClosingTagToken:
			count[token.Data]++
			for _, a := range token.Attr {
				if a.Key == "href" || a.Key == "src" || strings.HasPrefix(a.Key, "on") || strings.Contains(a.Val, "://") {
					t.Errorf("<%s %s=%q>", token.Data, a.Key, a.Val)
				}
				if token.Data == "rect" && a.Key == "width" {
					widths = append(widths, a.Val)
				}
			}
			if kind == html.StartTagToken && token.Data != "meta" {
				open = append(open, token.Data)
			}
		case html.EndTagToken:
			if n := len(open); n == 0 || open[n-1] != token.Data {
				t.Fatalf("</%s> while %v are open", token.Data, open)
			} else {
				open = open[:n-1]
			}
		}
	}
	if len(open) > 0 {
		t.Errorf("%v are not closed", open)
	}
	for tag, want := range map[string]int{"svg": 2, "rect": 3, "line": 3, "script": 0, "link": 0, "img": 0, "iframe": 0, "section": 2, "h2": 3, "table": 3} {
		if count[tag] != want {
			t.Errorf("%d <%s>, want %d", count[tag], tag, want)
		}
	}
	if got := strings.Join(widths, " "); got != "402 201 0" {
		t.Errorf("bars of %s", got)
	}
	for _, want := range []string{odd, "1 of 2 met", "missed: not measured: no such program", "half: 1 invalid rounds", "≥ 1", "14.4 Mpps", "no iperf3", "0 of 1 met", "what others did"} {
		if !strings.Contains(words.String(), want) {
			t.Errorf("%q is not in the page", want)
		}
	}
	if strings.Contains(text, "url(") || strings.Contains(text, "@import") {
		t.Error("the style fetches something")
	}
}
