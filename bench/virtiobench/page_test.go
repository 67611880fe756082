package virtiobench

import (
	"strings"
	"testing"

	"golang.org/x/net/html"
)

// odd is a name that has to be shown as text.
const odd = `<script>alert("1 & 2")</script>`

// shown is a result with everything that a page may have to show. Of what there is room for, 4 is all: the medians are 3.5, 1.75 and 0.
func shown() *Results {
	met := 1.5
	return &Results{
		Options: Options{Rounds: 2},
		Rows: []RowResult{
			{Name: "a", Table: "first", Title: "speeds " + odd, Unit: "Mpps", Rounds: 2, Series: []Series{
				{Subject: "quick", Samples: []Sample{{Round: 1, Value: 3, Extra: map[string]float64{"wrong": 0}}, {Round: 2, Value: 4}}},
				{Subject: "half", Samples: []Sample{{Round: 1, Value: 1.75}, {Round: 2, Value: 1.75}}, Invalid: []Sample{{Round: 1, Value: 9, Note: "the generator was away"}}},
				{Subject: odd, Failures: []string{"no such program"}},
			}},
			{Name: "b", Table: "second", Title: "nothing", Unit: "ns", Rounds: 1, Series: []Series{{Subject: "zero", Samples: []Sample{{Value: 0}}}}},
		},
		Bars: []Bar{{Row: "speed", Want: "≥ 1", Measured: &met, Met: true}, {Row: "other", Want: "0", Why: "not measured: no such program"}},
	}
}

// TestPage: the page is well formed, has a bar for each subject that was measured and says of the others why not, fetches nothing, and shows names as text.
func TestPage(t *testing.T) {
	var b strings.Builder
	if err := writePage(&b, shown()); err != nil {
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
	for tag, want := range map[string]int{"svg": 2, "rect": 3, "line": 3, "script": 0, "link": 0, "img": 0, "iframe": 0, "section": 2, "h2": 3} {
		if count[tag] != want {
			t.Errorf("%d <%s>, want %d", count[tag], tag, want)
		}
	}
	if got := strings.Join(widths, " "); got != "402 201 0" {
		t.Errorf("bars of %s", got)
	}
	for _, want := range []string{odd, "1 of 2 met", "missed: not measured: no such program", "1 invalid rounds are not counted (median 9): the generator was away", "≥ 1"} {
		if !strings.Contains(words.String(), want) {
			t.Errorf("%q is not in the page", want)
		}
	}
	if strings.Contains(text, "url(") || strings.Contains(text, "@import") {
		t.Error("the style fetches something")
	}
}
