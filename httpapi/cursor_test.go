package httpapi

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/telemetra/telemetra/broker/event"
	"github.com/telemetra/telemetra/deploy/local/localtest"
	"github.com/telemetra/telemetra/sql"
	"github.com/telemetra/telemetra/wsgateway/access"
)

var nextLink = regexp.MustCompile(`<(\?cursor=[A-Za-z0-9_-]+)>; rel="next"`)

// next is the path that the Link header of an answer leads to, or "".
func (r *reply) next(path string) string {
	m := nextLink.FindStringSubmatch(r.header.Get("Link"))
	if m == nil {
		return ""
	}
	path, _, _ = strings.Cut(path, "?")
	return path + m[1]
}

// follow reads a list from a path to its end, and returns the ids of its elements.
func (s *served) follow(path, id string, header ...string) (ids []string) {
	s.tb.Helper()
	for path != "" {
		r := s.get(path, header...)
		var page []map[string]any
		if err := json.Unmarshal([]byte(r.body), &page); err != nil || r.status != http.StatusOK {
			s.tb.Fatalf("%s: %d %.300s", path, r.status, r.body)
		}
		for _, element := range page {
			ids = append(ids, fmt.Sprint(element[id]))
		}
		if len(ids) > 1000 {
			s.tb.Fatalf("%s has no end", path)
		}
		path = r.next(path)
	}
	return ids
}

// A cursor holds all that was asked for, and leads through the whole list.
func TestCursorsLeadThroughLists(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	withStream(w)
	w.exec(`INSERT INTO streams (stream_id, created_at) SELECT 'x' || n, '2026-01-01Z' FROM generate_series(1, 30) AS n`)
	w.exec(`INSERT INTO chat_summary_minute (stream_id, window_start, chat_count) SELECT 's', timestamptz '2026-01-01Z' + n * interval '1 minute', n FROM generate_series(1, 30) AS n`)
	w.exec(`INSERT INTO moments (moment_id, stream_id, "timestamp", moment_type)
		SELECT n::text, 's', timestamptz '2026-01-01Z' + n / 5 * interval '1 minute', CASE WHEN n % 2 = 0 THEN 'even & "more"' ELSE 'odd' END FROM generate_series(1, 30) AS n`)
	a := w.serve()
	for _, c := range []struct {
		path, query, id string
		want            int
	}{
		{"/api/v1/streams", "", "stream_id", 31},
		{metricsPath, "", "chat_count", 30},
		{metricsPath, "&since=2026-01-01T00:05:00Z", "chat_count", 26},
		{metricsPath, "&since=2026-01-01T00:05:00Z&until=2026-01-01T00:10:00Z", "chat_count", 5},
		{"/api/v1/streams/s/moments", "", "moment_id", 30},
		{"/api/v1/streams/s/moments", "&type=" + url.QueryEscape(`even & "more"`), "moment_id", 15},
		{"/api/v1/streams/s/moments", "&type=odd&since=2026-01-01T00:02:00Z", "moment_id", 10},
	} {
		all := a.follow(c.path+"?limit=200"+c.query, c.id)
		if len(all) != c.want {
			t.Errorf("%s%s: %d elements, want %d", c.path, c.query, len(all), c.want)
		}
		for _, limit := range []int{1, 4, 15, 29, 30, 31} {
			if got := a.follow(fmt.Sprintf("%s?limit=%d%s", c.path, limit, c.query), c.id); !slices.Equal(got, all) {
				t.Errorf("%s%s in pages of %d: %q, want %q", c.path, c.query, limit, got, all)
			}
		}
	}
	// Behind an answer nothing changes because something comes before it.
	first := a.get(metricsPath + "?limit=10")
	w.exec(`INSERT INTO chat_summary_minute (stream_id, window_start, chat_count) VALUES ('s', '2026-02-01Z', 99)`)
	if got := a.follow(first.next(metricsPath), "chat_count"); len(got) != 20 || got[0] != "20" {
		t.Errorf("behind the first page: %q", got)
	}
}

// A cursor that was altered in any way is a fault, and so are parameters beside it.
func TestAlteredCursorsAreFaults(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	withStream(w)
	w.exec(`INSERT INTO streams (stream_id) VALUES ('other')`)
	w.exec(`INSERT INTO moments (moment_id, stream_id, "timestamp") SELECT n::text, 's', now() FROM generate_series(1, 3) AS n`)
	w.exec(`INSERT INTO chat_summary_minute (stream_id, window_start) SELECT 's', timestamptz '2026-01-01Z' + n * interval '1 minute' FROM generate_series(1, 3) AS n`)
	a := w.serve()
	const moments = "/api/v1/streams/s/moments"
	path := a.get(moments + "?limit=1")
	good := path.next(moments)
	_, cursor, _ := strings.Cut(good, "=")
	if r := a.get(good); r.status != http.StatusOK {
		t.Fatalf("%s: %d %s", good, r.status, r.body)
	}
	refused := func(what, path string) {
		t.Helper()
		if r := a.get(path); r.status != http.StatusUnprocessableEntity || !strings.Contains(r.body, "cursor") {
			t.Errorf("%s: %d %.300s", what, r.status, r.body)
		}
	}
	const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	for i := range cursor {
		for _, other := range []byte{digits[(strings.IndexByte(digits, cursor[i])+1)%64], digits[strings.IndexByte(digits, cursor[i])^32], '=', '%'} {
			refused(fmt.Sprintf("character %d is %c", i, other), moments+"?cursor="+cursor[:i]+strings.ReplaceAll(string(other), "%", "%25")+cursor[i+1:])
		}
		refused(fmt.Sprintf("cut after %d", i), moments+"?cursor="+cursor[:i])
	}
	refused("longer", good+"A")
	for _, at := range []int{0, 1, len(cursor)} {
		for _, lineBreak := range []string{"%0a", "%0d", "%0d%0a"} {
			refused(fmt.Sprintf("%s after %d", lineBreak, at), moments+"?cursor="+cursor[:at]+lineBreak+cursor[at:])
		}
	}
	refused("of another stream", "/api/v1/streams/other/moments?cursor="+cursor)
	refused("of another list", metricsPath+"?cursor="+cursor)
	refused("of the list of streams", "/api/v1/streams?cursor="+cursor)
	for _, beside := range []string{"limit=1", "limit=50", "type=x", "since=2026-01-01T00:00:00Z", "until=2026-01-01T00:00:00Z"} {
		refused("beside "+beside, good+"&"+beside)
		refused("behind "+beside, moments+"?"+beside+"&cursor="+cursor)
	}
	refused("twice", good+"&cursor="+cursor)
	// Made by hand, with a checksum that fits, it is held to what parameters may be.
	for what, p := range map[string]position{
		"no limit": {}, "a large limit": {Limit: maxMoments + 1}, "a long type": {Limit: 1, Type: strings.Repeat("x", maxTypeLength+1)}, "a control character": {Limit: 1, Type: "\x00"},
	} {
		refused(what, moments+"?cursor="+p.encode(moments))
	}
	for what, p := range map[string]position{
		"an early time": {Limit: 1, Time: new(int64(math.MinInt64 + 1))}, "a late time": {Limit: 1, Time: new(int64(math.MaxInt64 - 1))},
		"an early span": {Limit: 1, Since: new(int64(math.MinInt64 + 1))}, "a late span": {Limit: 1, Until: new(int64(math.MaxInt64 - 1))},
		"an id with a NUL": {Limit: 1, ID: []byte("a\x00")}, "an id that is no text": {Limit: 1, Time: new(int64(1)), ID: []byte("\xff")},
	} {
		refused(what, moments+"?cursor="+p.encode(moments))
	}
	refused("a late time of windows", metricsPath+"?cursor="+(&position{Limit: 1, Time: new(int64(math.MaxInt64 - 1))}).encode(metricsPath))
	refused("a late time of streams", "/api/v1/streams?cursor="+(&position{Limit: 1, Time: new(int64(math.MaxInt64 - 1))}).encode("/api/v1/streams"))
	for _, sign := range []int{-7, -1, 1, 7} {
		for _, path := range []string{moments, metricsPath, "/api/v1/streams"} {
			p := position{Limit: 1, Infinite: sign, Since: new(int64(1))}
			if r := a.get(path + "?cursor=" + p.encode(path)); r.status != http.StatusOK {
				t.Errorf("%s behind %d times infinity: %d %s", path, sign, r.status, r.body)
			}
		}
	}
	since, until := int64(2), int64(1)
	undated := position{Limit: 1, Since: &since}
	if r := a.get(moments + "?cursor=" + undated.encode(moments)); r.status != http.StatusOK || r.body != "[]" {
		t.Errorf("behind rows without a time in a span: %d %s", r.status, r.body)
	}
	p := position{Limit: 1, Since: &since, Until: &until}
	if r := a.get(moments + "?cursor=" + p.encode(moments)); r.status != http.StatusUnprocessableEntity {
		t.Errorf("a span that ends before it begins: %d %s", r.status, r.body)
	}
}

// However long the id of a moment is that an index takes, the list goes on behind it.
func TestCursorsOfLongIDsAreAccepted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	withStream(w)
	w.exec(`INSERT INTO moments (moment_id, stream_id, "timestamp") SELECT n || repeat('ab', 50000), 's', '2026-01-01Z' FROM generate_series(1, 3) AS n`)
	w.exec(`INSERT INTO moments (moment_id, stream_id, "timestamp") SELECT string_agg(md5(i::text), ''), 's', '2025-01-01Z' FROM generate_series(1, 80) AS i`)
	a := w.serve()
	if got := a.follow("/api/v1/streams/s/moments?limit=1", "moment_id"); len(got) != 4 || len(got[0]) != 100_001 || got[0][0] != '3' || got[2][0] != '1' || len(got[3]) != 2560 {
		t.Errorf("%d moments", len(got))
	}
}

// Whoever has got a cursor, it shows what the token of who brings it allows.
func TestCursorsAreAuthorisedAnew(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.auth = access.TokenConfig{Secret: localtest.TokenSecret}
	w.exec(`INSERT INTO streams (stream_id, created_at) SELECT p || n, now() - n * interval '1 second' FROM generate_series(1, 4) AS n, unnest('{a,b}'::text[]) AS p`)
	w.exec(`INSERT INTO moments (moment_id, stream_id, "timestamp") SELECT n::text, 'a1', now() FROM generate_series(1, 3) AS n`)
	a := w.serve()
	first := a.get("/api/v1/streams?limit=2", "Authorization", bearer(t, "*"))
	if got := a.follow(first.next("/api/v1/streams"), "stream_id", "Authorization", bearer(t, "b*")); !slices.Equal(got, []string{"b2", "b3", "b4"}) {
		t.Errorf("with a token for b*: %q", got)
	}
	moments := a.get("/api/v1/streams/a1/moments?limit=1", "Authorization", bearer(t, "*"))
	path := moments.next("/api/v1/streams/a1/moments")
	if r := a.get(path, "Authorization", bearer(t, "b*")); r.status != http.StatusForbidden {
		t.Errorf("a stream that the token does not allow: %d", r.status)
	}
	if r := a.get(path); r.status != http.StatusUnauthorized {
		t.Errorf("without a token: %d", r.status)
	}
}

// A cursor says exactly where a row is, whatever its time and its id.
func TestPositionsAreExact(t *testing.T) {
	t.Parallel()
	for _, key := range []sql.Key{
		{},
		{ID: "x"},
		{ID: "\xff\ufffd\x00\"🙂"},
		{Time: event.Time{Time: time.Date(2026, 1, 1, 0, 0, 0, 123456000, time.UTC), Valid: true}, ID: "a"},
		{Time: event.Time{Time: time.Date(-4712, 1, 1, 0, 0, 0, 0, time.UTC), Valid: true}},
		{Time: event.Time{Time: time.Date(294276, 12, 31, 23, 59, 59, 999999000, time.UTC), Valid: true}},
		{Time: event.Time{Time: time.Unix(0, 0).UTC(), Valid: true}},
		{Time: sql.Infinity(1)},
		{Time: sql.Infinity(-1)},
	} {
		p := newPosition(key, 7)
		cursor := p.encode("/x")
		back, err := parseCursor("/x", cursor)
		if err != nil || back.Limit != 7 || !back.key().Time.Equal(key.Time.Time) || back.key().ID != key.ID ||
			back.key().Time.Valid != key.Time.Valid || back.key().Time.Infinite != key.Time.Infinite {
			t.Errorf("%+v came back as %+v, %v", key, back, err)
		}
	}
}

func FuzzParseCursor(f *testing.F) {
	p := position{Limit: 1, ID: []byte("a")}
	f.Add(p.encode("/x"), []byte(`{"l":1}`))
	f.Add(p.encode("/x")+"\n", []byte{})
	f.Add("", []byte(`{"t":9223372036854775807,"x":-1,"l":-1,"s":-9223372036854775808}`))
	f.Fuzz(func(t *testing.T, cursor string, text []byte) {
		if _, err := parseCursor("/x", cursor); err == nil && strictBase64.EncodeToString(must(strictBase64.DecodeString(cursor))) != cursor {
			t.Errorf("%q stands for the same as another cursor", cursor)
		}
		// Whatever somebody puts behind a checksum that fits.
		if p, err := parseCursor("/x", strictBase64.EncodeToString(append(checksum("/x", text), text...))); err == nil {
			_, w := p.key(), p.within()
			_ = w.spanKey()
		}
	})
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}
