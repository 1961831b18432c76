package event

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

var update = flag.Bool("update", false, "write testdata anew")

var (
	windowStart = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	changedAt   = time.Date(2026, 1, 1, 0, 1, 2, 345678000, time.UTC)
)

func at(t time.Time) Time    { return Time{Time: t, Valid: true} }
func number(f float64) Float { return Float{Float64: f, Valid: true} }
func splice(p Pending, id ID) []byte { // as publish.lua does
	var b []byte
	b = append(b, id.String()...)
	b = append(b, p.Head...)
	b = append(b, id.String()...)
	return append(b, p.Tail...)
}

// publish encodes a change, splices an id in, and reads it back.
func publish(tb testing.TB, c *Change, id ID) Message {
	tb.Helper()
	p, err := Encode(c)
	if err != nil {
		tb.Fatalf("encode: %v", err)
	}
	m, err := ParseMessage(splice(p, id))
	if err != nil {
		tb.Fatalf("parse what was encoded: %v", err)
	}
	return m
}

func fullMetric() *Metric {
	return &Metric{
		StreamID: "demo", WindowStart: at(windowStart), WindowEnd: at(windowStart.Add(time.Minute)),
		ChatCount: new(int64(120)), UniqueChatters: new(int64(80)),
		TopEmotes: []string{"Kappa", "PogChamp", "Kappa"}, AvgSentiment: number(-0.25), ChatRate: number(2),
		AvgViewers: number(1500.5), ZScore: number(1.75), IsAnomaly: new(false),
	}
}

func fullMoment() *Moment {
	return &Moment{
		MomentID: "m-1", StreamID: "demo", Timestamp: at(windowStart.Add(30 * time.Second)),
		MomentType: new("chat_spike"), Description: new(`chat "exploded"`), MetricName: new("chat_rate"),
		MetricValue: number(12.5), Threshold: number(3), ZScore: number(4.5),
		Metadata: []byte("{\n  \"top\": [1, 2],\r\n  \"by\": \"a b\"\n}"),
	}
}

// rows has a row for each golden file.
func rows() map[string]Row {
	null := func() (Float, Time) { return Float{}, Time{} }
	noNumber, noTime := null()
	infinite := Time{Valid: true, Infinite: true}
	return map[string]Row{
		"metrics":           fullMetric(),
		"metrics_null":      &Metric{StreamID: "demo", WindowStart: at(windowStart), WindowEnd: noTime, AvgSentiment: noNumber},
		"metrics_no_number": &Metric{StreamID: "demo", WindowStart: at(windowStart), AvgSentiment: number(math.NaN()), ChatRate: number(math.Inf(1)), AvgViewers: number(math.Inf(-1)), ZScore: number(1e300)},
		"metrics_infinite":  &Metric{StreamID: "demo", WindowStart: infinite, WindowEnd: infinite},
		"moment":            fullMoment(),
		"moment_null":       &Moment{MomentID: "m-2", StreamID: "demo"},
		"moment_infinite_z": &Moment{MomentID: "m-3", StreamID: "demo", Timestamp: infinite, ZScore: number(math.Inf(-1)), Threshold: number(math.NaN())},
		"moment_text":       &Moment{MomentID: "\xff\u2028id", StreamID: "流/😀 %2F", Description: new("tab\tline\nnul\x00del\x7f\u2029\\\"</script>\xc3"), Metadata: []byte("\"\u2028\"")},
		"stream": &Stream{
			StreamID: "demo", Title: new("Demo 🎮"), CreatedAt: at(windowStart), UpdatedAt: at(changedAt),
			IsLive: new(true), ViewerCount: new(int64(7)), LastWindowEnd: at(windowStart.Add(time.Minute)),
		},
		"stream_null":  &Stream{StreamID: "demo"},
		"viewers":      &Viewers{StreamID: "demo", Timestamp: at(windowStart), ViewerCount: new(int64(9)), UniqueViewers: new(int64(5))},
		"viewers_null": &Viewers{StreamID: "demo", Timestamp: noTime},
	}
}

// checkFrame holds what every frame must be, whatever the row.
func checkFrame(tb testing.TB, frame []byte) map[string]any {
	tb.Helper()
	var v map[string]any
	if err := json.Unmarshal(frame, &v); err != nil {
		tb.Fatalf("frame is no JSON: %v\n%.200q", err, frame)
	}
	if !utf8.Valid(frame) {
		tb.Errorf("frame is not UTF-8, as a text frame of WebSocket must be: %.200q", frame)
	}
	if bytes.ContainsAny(frame, "\r\n") {
		tb.Errorf("frame is more than one line: %.200q", frame)
	}
	return v
}

func TestFramesStayAsTheyAre(t *testing.T) {
	id := ID{Epoch: "k3f9", Offset: 41}
	for name, row := range rows() {
		t.Run(name, func(t *testing.T) {
			m := publish(t, &Change{ID: 77, At: changedAt, Row: row}, id)
			checkFrame(t, m.Frame)
			path := filepath.Join("testdata", name+".json")
			got := append(bytes.Clone(m.Frame), '\n')
			if *update {
				if err := os.WriteFile(path, got, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("frame has changed; if it was meant to: go test ./broker/event -update\n got %s\nwant %s", got, want)
			}
		})
	}
}

func TestAnyRowMakesAFrame(t *testing.T) {
	large := []byte(`{"blob":"` + strings.Repeat("x", 1<<20) + "\",\n\"n\":[1,\r\n2]}")
	for name, row := range map[string]Row{
		"invalid UTF-8":           &Moment{MomentID: "a\xfe", StreamID: "s", MomentType: new("\x80"), Metadata: []byte(`{}`)},
		"invalid UTF-8 metadata":  &Moment{MomentID: "a", StreamID: "s", Metadata: []byte("{\"k\xff\":\"v\xc3\"}")},
		"surrogate":               &Moment{MomentID: "a", StreamID: "s", Description: new("\xed\xa0\x80")},
		"line separators":         &Stream{StreamID: "s", Title: new("\u2028\u2029\u0085\r\n")},
		"emoji":                   &Stream{StreamID: "👩‍👩‍👧", Title: new("👍🏽")},
		"255 characters":          &Viewers{StreamID: strings.Repeat("€", 255)},
		"255 characters of 4":     &Moment{StreamID: strings.Repeat("😀", 255), MomentID: strings.Repeat("m", 255)},
		"metadata of 1 MB":        &Moment{MomentID: "a", StreamID: "s", Metadata: large},
		"metadata with breaks":    &Moment{MomentID: "a", StreamID: "s", Metadata: []byte("\n[\n1,\r\n\t{\"a\" :\n null}\n]\n")},
		"metadata null":           &Moment{MomentID: "a", StreamID: "s", Metadata: []byte("null")},
		"key with a line break":   &Moment{MomentID: "a\nb {\"type\":", StreamID: "s"},
		"key that is empty":       &Moment{MomentID: "", StreamID: "s"},
		"times before 1970":       &Viewers{StreamID: "s", Timestamp: at(time.Date(-4000, 1, 1, 0, 0, 0, 0, time.UTC))},
		"extremes":                &Metric{StreamID: "s", ChatCount: new(int64(math.MinInt64)), ChatRate: number(math.SmallestNonzeroFloat64), ZScore: number(-math.MaxFloat64), AvgViewers: number(1e17)},
		"negative zero":           &Metric{StreamID: "s", ChatRate: number(math.Copysign(0, -1))},
		"emotes that are no text": &Metric{StreamID: "s", TopEmotes: []string{"\xff", "", "\"", "\xff"}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, when := range []time.Time{{}, changedAt} {
				m := publish(t, &Change{ID: 5, At: when, Row: row}, ID{Epoch: "e", Offset: 1})
				v := checkFrame(t, m.Frame)
				if got, want := v["stream_id"], row.Stream(); got != want {
					t.Errorf("stream_id is %q, want %q", got, want)
				}
				if got, want := v["type"], row.Kind().String(); got != want {
					t.Errorf("type is %q, want %q", got, want)
				}
				if got, want := v["id"], "e-1"; got != want {
					t.Errorf("id is %q, want %q", got, want)
				}
				if got, want := m.Key, row.key(); got != want {
					t.Errorf("key is %q, want %q", got, want)
				}
				if got, want := m.Order, row.order(); got != want {
					t.Errorf("order is %d, want %d", got, want)
				}
			}
		})
	}
}

// The timestamp of a row that is older than the capture is the row's own.
func TestTimestampWithoutChange(t *testing.T) {
	for _, c := range []struct {
		name string
		row  Row
		want float64
	}{
		{"row's own time", &Viewers{StreamID: "s", Timestamp: at(windowStart)}, float64(windowStart.UnixMilli())},
		{"no time at all", &Viewers{StreamID: "s"}, 0},
		{"before 1970", &Viewers{StreamID: "s", Timestamp: at(time.Unix(-5, 0))}, 0},
	} {
		m := publish(t, &Change{Row: c.row}, ID{Epoch: "e", Offset: 1})
		if got := checkFrame(t, m.Frame)["timestamp"]; got != c.want {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}

func TestEncodeRefuses(t *testing.T) {
	for name, row := range map[string]Row{
		"no stream":               &Stream{},
		"256 characters":          &Stream{StreamID: strings.Repeat("é", 256)},
		"invalid UTF-8":           &Stream{StreamID: "a\xff"},
		"control character":       &Stream{StreamID: "a\nb"},
		"C1 control character":    &Stream{StreamID: "a\u0085b"},
		"metadata that is none":   &Moment{StreamID: "s", Metadata: []byte(`{"a":`)},
		"metadata twice":          &Moment{StreamID: "s", Metadata: []byte(`{} {}`)},
		"metadata that is empty":  &Moment{StreamID: "s", Metadata: []byte{}},
		"metadata with NaN":       &Moment{StreamID: "s", Metadata: []byte(`{"a":NaN}`)},
		"an id that is too large": &Moment{StreamID: "s", MomentID: strings.Repeat("x", MaxRow)},
	} {
		if p, err := Encode(&Change{ID: 1, At: changedAt, Row: row}); err == nil {
			t.Errorf("%s: encoded to %.100q", name, p.Tail)
		}
	}
}

// A row that is too large leaves out fields until it fits, and names them: as an event
// and in a state alike.
func TestLargeRowsLeaveOutFields(t *testing.T) {
	text := func(size int) *string { return new(strings.Repeat("x", size)) }
	metadata := func(size int) []byte { return []byte(`"` + strings.Repeat("x", size-2) + `"`) }
	const (
		around = 256 // the other fields
		half   = MaxRow / 2
	)
	control := strings.Repeat("\x01", half/2) // six bytes each, in JSON
	names := make([]string, MaxRow/20)
	for i := range names {
		names[i] = fmt.Sprint(i) // {"name":"…","count":1}, in JSON
	}
	for name, c := range map[string]struct {
		row       Row
		truncated []string
	}{
		"metadata that just fits":          {&Moment{Metadata: metadata(MaxRow - around)}, nil},
		"metadata above the bound":         {&Moment{Metadata: metadata(MaxRow)}, []string{"metadata"}},
		"metadata beside a description":    {&Moment{Metadata: metadata(half), Description: text(half)}, []string{"metadata"}},
		"two descriptions that fit":        {&Moment{Description: text(half - around), MetricName: text(half - around)}, nil},
		"a description above the bound":    {&Moment{Metadata: metadata(9), Description: text(MaxRow)}, []string{"metadata", "description"}},
		"a description of control bytes":   {&Moment{Description: &control}, []string{"description"}},
		"a type, which stands there twice": {&Moment{Description: text(9), MetricName: text(9), MomentType: text(half)}, []string{"moment_type"}},
		"a title":                          {&Stream{Title: text(MaxRow)}, []string{"title"}},
		"emotes":                           {&Metric{TopEmotes: names}, []string{"top_emotes"}},
	} {
		t.Run(name, func(t *testing.T) {
			switch row := c.row.(type) {
			case *Moment:
				row.StreamID = "s"
			case *Stream:
				row.StreamID = "s"
			case *Metric:
				row.StreamID = "s"
			}
			change := Change{ID: 7, At: changedAt, Row: c.row}
			m := publish(t, &change, ID{Epoch: "e", Offset: 1})
			var frame struct {
				Data struct {
					Truncated []string `json:"truncated"`
				} `json:"data"`
			}
			if err := json.Unmarshal(m.Frame, &frame); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(frame.Data.Truncated, c.truncated) {
				t.Errorf("left out %q, want %q", frame.Data.Truncated, c.truncated)
			}
			for _, field := range c.truncated {
				empty := `"` + field + `":null`
				if field == "top_emotes" {
					empty = `"top_emotes":[]`
				}
				if !bytes.Contains(m.Frame, []byte(empty)) {
					t.Errorf("the frame has no %s", empty)
				}
			}
			if len(m.Frame) > MaxFrame {
				t.Errorf("the frame has %d bytes", len(m.Frame))
			}
			fromMessage := m.State()
			if fromRow, err := NewState(&change); err != nil || !bytes.Equal(fromRow.Frame, fromMessage.Frame) {
				t.Errorf("a state from the row differs from %.200s: %v", fromMessage.Frame, err)
			}
		})
	}
}

// A state's frame is the live frame without its id and with "state":true, be it
// made from a message or from a row.
func TestStateFrameEqualsLiveFrame(t *testing.T) {
	cases := rows()
	for _, id := range []string{`,"data":`, `"stream_id":`, `x,"stream_id":"y","data":{`, `\",\"data\":`, `","state":true,"data":`} {
		cases["stream "+id] = &Stream{StreamID: id, Title: &id}
		cases["moment "+id] = &Moment{StreamID: id, MomentID: id, Description: &id, Metadata: []byte(`{"a":1,"data":2,"stream_id":3}`)}
	}
	id := ID{Epoch: "k3f9", Offset: 41}
	for name, row := range cases {
		t.Run(name, func(t *testing.T) {
			change := Change{ID: 77, At: changedAt, Row: row}
			m := publish(t, &change, id)
			live := checkFrame(t, m.Frame)
			fromRow, err := NewState(&change)
			if err != nil {
				t.Fatal(err)
			}
			fromMessage := m.State()
			for _, withID := range []*ID{nil, {Epoch: "other", Offset: 9}} {
				got, want := string(fromMessage.Frame), string(fromRow.Frame)
				if withID != nil {
					got, want = string(WithID(fromMessage.Frame, *withID)), string(WithID(fromRow.Frame, *withID))
				}
				if got != want {
					t.Errorf("state of the message and of the row differ\nmessage %s\n    row %s", got, want)
				}
				v := checkFrame(t, []byte(got))
				if v["state"] != true {
					t.Errorf("not marked as state: %s", got)
				}
				delete(v, "state")
				if withID == nil {
					if _, ok := v["id"]; ok {
						t.Errorf("has an id: %s", got)
					}
				} else if v["id"] != withID.String() {
					t.Errorf("id is %v, want %s", v["id"], withID)
				}
				delete(v, "id")
				delete(live, "id")
				if got, want := marshal(t, v), marshal(t, live); got != want {
					t.Errorf("state differs from the live frame\n got %s\nwant %s", got, want)
				}
			}
			if fromRow.Kind != fromMessage.Kind || fromRow.ChangeID != fromMessage.ChangeID || fromRow.Order != fromMessage.Order || fromRow.Key != fromMessage.Key {
				t.Errorf("headers differ: %+v, %+v", fromRow, fromMessage)
			}
		})
	}
}

func marshal(tb testing.TB, v any) string {
	tb.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		tb.Fatal(err)
	}
	return string(b)
}

func TestNewer(t *testing.T) {
	for _, c := range []struct {
		name string
		s, o State
		want bool
	}{
		{"later row", State{Order: 2, ChangeID: 1}, State{Order: 1, ChangeID: 9}, true},
		{"earlier row", State{Order: 1, ChangeID: 9}, State{Order: 2, ChangeID: 1}, false},
		{"later change", State{Order: 1, ChangeID: 2}, State{Order: 1, ChangeID: 1}, true},
		{"earlier change", State{Order: 1, ChangeID: 1}, State{Order: 1, ChangeID: 2}, false},
		{"same", State{Order: 1, ChangeID: 1}, State{Order: 1, ChangeID: 1}, true},
		{"no time", State{Order: math.MinInt64}, State{Order: 0}, false},
	} {
		if got := c.s.Newer(&c.o); got != c.want {
			t.Errorf("%s: got %t, want %t", c.name, got, c.want)
		}
	}
}

func FuzzParseMessage(f *testing.F) {
	f.Add([]byte("demo"), []byte("m-1"), []byte("text"), []byte(`{"a":1}`), int64(7), int64(1767225600000), uint64(41))
	f.Add([]byte(`,"data":`), []byte("a\nb"), []byte("\xff\u2028"), []byte("[\n]"), int64(0), int64(-1), uint64(math.MaxUint64))
	f.Add([]byte("k3f9-41 moment 1 2 3\nabc{}"), []byte("{"), []byte("}"), []byte(""), int64(-5), int64(0), uint64(0))
	f.Fuzz(func(t *testing.T, stream, key, text, metadata []byte, changeID, ms int64, offset uint64) {
		// Anything: no panic, and what is accepted can become a state.
		for _, garbage := range [][]byte{stream, key, text, metadata} {
			if m, err := ParseMessage(garbage); err == nil {
				s := m.State()
				_ = WithID(s.Frame, m.ID)
			} else if !errors.Is(err, errBadMessage) {
				t.Errorf("another error: %v", err)
			}
		}
		// What was encoded comes back.
		moment := &Moment{
			StreamID: string(stream), MomentID: string(key), Description: new(string(text)),
			Timestamp: at(time.UnixMilli(ms)), Metadata: metadata,
		}
		p, err := Encode(&Change{ID: changeID, At: changedAt, Due: changedAt, Row: moment})
		if err != nil {
			if CheckStreamID(moment.StreamID) == nil && (metadata == nil || json.Valid(metadata)) {
				t.Fatalf("refused: %v", err)
			}
			return
		}
		id := ID{Epoch: "k3f9", Offset: offset}
		m, err := ParseMessage(splice(p, id))
		if err != nil {
			t.Fatalf("cannot be read back: %v", err)
		}
		if m.ID != id || m.Kind != KindMoment || m.ChangeID != changeID || m.Order != ms || m.Key != moment.MomentID || m.Due != changedAt.UnixMicro() {
			t.Errorf("header came back as %+v", m)
		}
		v := checkFrame(t, m.Frame)
		if v["id"] != id.String() || v["stream_id"] != moment.StreamID {
			t.Errorf("frame says %v of %v", v["id"], v["stream_id"])
		}
		s := m.State()
		checkFrame(t, s.Frame)
	})
}

// During an upgrade messages come from listeners of two versions.
func TestParseMessageOfAnotherVersion(t *testing.T) {
	want := Message{ID: ID{Epoch: "k3f9", Offset: 41}, Kind: KindMoment, ChangeID: 7, Order: 5, Key: "abc", Frame: []byte("{}")}
	for text, due := range map[string]int64{
		"k3f9-41 moment 7 5 3\nabc{}":           0,
		"k3f9-41 moment 7 5 3 9\nabc{}":         9,
		"k3f9-41 moment 7 5 3 9 new 4 x\nabc{}": 9,
		"k3f9-41 moment 7 5 3 9 \nabc{}":        9,
	} {
		want.Due = due
		if m, err := ParseMessage([]byte(text)); err != nil || !reflect.DeepEqual(m, want) {
			t.Errorf("%q: got %+v, %v", text, m, err)
		}
	}
}

func TestParseMessageRefuses(t *testing.T) {
	const good = "k3f9-41 moment 7 5 3 9\nabc{}"
	if _, err := ParseMessage([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"empty":            "",
		"no line":          "k3f9-41 moment 7 5 3 9",
		"too few fields":   "k3f9-41 moment 7 5\nabc{}",
		"bad id":           "k3f9-041 moment 7 5 3 9\nabc{}",
		"unknown kind":     "k3f9-41 party 7 5 3 9\nabc{}",
		"no change id":     "k3f9-41 moment x 5 3 9\nabc{}",
		"no order":         "k3f9-41 moment 7  3 9\nabc{}",
		"no due time":      "k3f9-41 moment 7 5 3 x\nabc{}",
		"negative due":     "k3f9-41 moment 7 5 3 -9\nabc{}",
		"negative key":     "k3f9-41 moment 7 5 -1 9\nabc{}",
		"key is too long":  "k3f9-41 moment 7 5 6 9\nabc{}",
		"key is too short": "k3f9-41 moment 7 5 2 9\nabc{}",
		"frame is missing": "k3f9-41 moment 7 5 5 9\nabc{}",
		"frame is cut":     "k3f9-41 moment 7 5 3 9\nabc{",
		"long first line":  "k3f9-41 moment 7 5 3 9" + strings.Repeat(" ", 300) + "\nabc{}",
	} {
		if m, err := ParseMessage([]byte(text)); !errors.Is(err, errBadMessage) {
			t.Errorf("%s: got %+v, %v", name, m, err)
		}
	}
}

func BenchmarkEncode(b *testing.B) {
	for _, name := range []string{"metrics", "moment", "stream", "viewers"} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			c := Change{ID: 77, At: changedAt, Due: changedAt, Row: rows()[name]}
			for b.Loop() {
				if _, err := Encode(&c); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// published is a row's message as a gateway gets it.
func published(tb testing.TB, row Row) []byte {
	tb.Helper()
	p, err := Encode(&Change{ID: 77, At: changedAt, Due: changedAt, Row: row})
	if err != nil {
		tb.Fatal(err)
	}
	return splice(p, ID{Epoch: "k3f9cd2345", Offset: 123456})
}

func BenchmarkParseMessage(b *testing.B) {
	for _, row := range []Row{fullMetric(), fullMoment()} { // without and with a key
		b.Run(row.Kind().String(), func(b *testing.B) {
			text := published(b, row)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := ParseMessage(text); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// What a gateway keeps of each event for those who come later, and what they get of it.
func BenchmarkState(b *testing.B) {
	m, err := ParseMessage(published(b, fullMetric()))
	if err != nil {
		b.Fatal(err)
	}
	b.Run("of a message", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_ = m.State()
		}
	})
	b.Run("frame", func(b *testing.B) {
		s := m.State()
		b.ReportAllocs()
		for b.Loop() {
			_ = WithID(s.Frame, m.ID)
		}
	})
}
