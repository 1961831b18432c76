package httpapi

import (
	"bytes"
	"compress/flate"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"

	"github.com/telemetra/telemetra/broker/event"
	"github.com/telemetra/telemetra/sql"
)

// position is what a cursor holds: where the page before has ended, and all other
// parameters. Times are in microseconds since 2000, as Postgres keeps them.
type position struct {
	Time     *int64 `json:"t,omitempty"` // nil: none
	Infinite int    `json:"x,omitempty"` // 1 or -1: the time is infinity or -infinity
	ID       []byte `json:"i,omitempty"` // bytes, because it may be no valid text
	Limit    int    `json:"l"`
	Type     string `json:"k,omitempty"`
	Since    *int64 `json:"s,omitempty"`
	Until    *int64 `json:"u,omitempty"`
}

const (
	epoch         = 946684800 // 2000-01-01 in seconds since 1970
	microsASecond = 1_000_000
	nanosOfAMicro = 1_000
)

func micros(t time.Time) int64 {
	return (t.Unix()-epoch)*microsASecond + int64(t.Nanosecond())/nanosOfAMicro
}

func ofMicros(n int64) time.Time {
	return time.Unix(epoch+n/microsASecond, n%microsASecond*nanosOfAMicro).UTC()
}

// newPosition is behind a row of a list.
func newPosition(key sql.Key, limit int) position {
	p := position{ID: []byte(key.ID), Limit: limit}
	switch {
	case !key.Time.Valid:
	case key.Time.Infinite && key.Time.IsZero():
		p.Infinite = -1
	case key.Time.Infinite:
		p.Infinite = 1
	default:
		p.Time = new(micros(key.Time.Time))
	}
	return p
}

// key is where the page before has ended.
func (p *position) key() *sql.Key {
	key := &sql.Key{ID: string(p.ID)}
	switch {
	case p.Infinite != 0:
		key.Time = sql.Infinity(p.Infinite)
	case p.Time != nil:
		key.Time = event.Time{Time: ofMicros(*p.Time), Valid: true}
	}
	return key
}

func (p *position) span(w *Within) {
	if !w.Since.IsZero() {
		p.Since = new(micros(w.Since.Time))
	}
	if !w.Until.IsZero() {
		p.Until = new(micros(w.Until.Time))
	}
}

func (p *position) within() (w Within) {
	if p.Since != nil {
		w.Since.Time = ofMicros(*p.Since)
	}
	if p.Until != nil {
		w.Until.Time = ofMicros(*p.Until)
	}
	return w
}

// sumSize is how many bytes of a checksum stand before a position.
const sumSize = 9

// strictBase64 has one text for each sequence of bytes, apart from line breaks, which it
// skips wherever they stand.
var strictBase64 = base64.RawURLEncoding.Strict()

// encode makes a cursor of the list with a path. Its checksum is no secret: who makes a
// cursor by hand asks for what may be asked for by the parameters. It is there so that a
// cursor that was altered, cut or brought to another list is a fault and no other page.
//
// The id of a moment may be long; as far as an index takes it, it compresses well.
func (p *position) encode(path string) string {
	text, err := json.Marshal(p)
	if err != nil {
		panic(err) // numbers and texts can be written
	}
	if len(text) > maxPlainCursor {
		text = deflate(text)
	}
	return strictBase64.EncodeToString(append(checksum(path, text), text...))
}

const (
	// maxPlainCursor is the longest position that is not compressed, and maxPosition the
	// longest that is read.
	maxPlainCursor = 1 << 10
	maxPosition    = 1 << 20
)

func deflate(text []byte) []byte {
	var b bytes.Buffer
	w, _ := flate.NewWriter(&b, flate.BestCompression) // a level that there is
	_, _ = w.Write(text)                               // to memory, as Close
	_ = w.Close()
	return b.Bytes()
}

// inflate is deflate in reverse, of what is no JSON as it is.
func inflate(b []byte) ([]byte, error) {
	if len(b) > 0 && b[0] == '{' {
		return b, nil
	}
	return io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(b)), maxPosition))
}

func checksum(path string, text []byte) []byte {
	sum := sha256.Sum256([]byte("cursor 1\n" + path + "\n" + string(text)))
	return sum[:sumSize]
}

var errBadCursor = errors.New("no cursor of this list, or one that was altered; take it from the Link header of an answer")

// parseCursor reads a cursor of the list with a path.
func parseCursor(path, cursor string) (*position, error) {
	b, err := strictBase64.DecodeString(cursor)
	if err != nil || strings.ContainsAny(cursor, "\r\n") || len(b) < sumSize || !bytes.Equal(b[:sumSize], checksum(path, b[sumSize:])) {
		return nil, errBadCursor
	}
	var p position
	if text, err := inflate(b[sumSize:]); err != nil || json.Unmarshal(text, &p) != nil {
		return nil, errBadCursor
	}
	return &p, nil
}

// Continued is the parameter of a list that continues an answer.
type Continued struct {
	Cursor string `query:"cursor" maxLength:"16384" doc:"Where an answer goes on; from its Link header, and alone: it holds all other parameters. It never expires."`
}

// resume reads the cursor. nil and no faults: there is none.
func (c *Continued) resume(ctx huma.Context, path string, maxLimit int) (p *position, faults []error) {
	if c.Cursor == "" {
		return nil, nil
	}
	url := ctx.URL()
	for name, values := range url.Query() {
		if name != "cursor" {
			faults = append(faults, &huma.ErrorDetail{Location: "query." + name, Message: "not allowed beside cursor, which holds it", Value: values[0]})
		}
	}
	p, err := parseCursor(path, c.Cursor)
	if err == nil && (p.Limit < 1 || p.Limit > maxLimit || utf8.RuneCountInString(p.Type) > maxTypeLength || checkText(p.Type) != nil) {
		err = errBadCursor
	}
	if err != nil {
		return nil, append(faults, &huma.ErrorDetail{Location: "query.cursor", Message: err.Error(), Value: c.Cursor})
	}
	return p, faults
}

// after is where the page of a cursor begins, which has been read before; nil without one.
func (c *Continued) after(path string) *sql.Key {
	if c.Cursor == "" {
		return nil
	}
	p, err := parseCursor(path, c.Cursor)
	if err != nil {
		return nil
	}
	return p.key()
}
