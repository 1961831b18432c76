package event

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// MaxRow is the largest row in bytes, as "data" of a frame or as an element of an answer.
// A larger one leaves out fields until it fits; see Row.LeaveOut.
const MaxRow = 4 << 20

// MaxFrame is more than any frame has: a row, and what is around it.
const MaxFrame = MaxRow + 64<<10

// Change is one captured row version.
type Change struct {
	ID int64     // change_id; 0 for a row older than the capture
	At time.Time // changed_at
	// Due is from when on it is late: At, or when the look before the one that found it was
	// taken, if its transaction was still open then. Zero: not known.
	Due time.Time
	Row Row
}

// Pending is a change that is encoded except for its event id, which the
// publish script splices in twice: a message is
//
//	<id> + Head + <id> + Tail
//
// which reads
//
//	<id> <kind> <change id> <order> <key length> <due>\n
//	<key>{"type":"<kind>","id":"<id>","stream_id":…,"timestamp":…,"data":{…}}
//
// A gateway reads the first line and hands out the JSON as it is.
type Pending struct {
	StreamID string
	Kind     Kind
	Head     []byte
	Tail     []byte
}

// Size is what the change adds to a batch in bytes.
func (p *Pending) Size() int { return len(p.Head) + len(p.Tail) }

// Encode writes a change for publication. An error means that the change can
// never be sent: its stream has a name that no client can ask for, its JSON is
// none, or it is too large even without the fields that may be left out.
func Encode(c *Change) (Pending, error) {
	row := c.Row
	if err := CheckStreamID(row.Stream()); err != nil {
		return Pending{}, err
	}
	kind, key := row.Kind().String(), row.key()
	head := make([]byte, 0, 96+len(key))
	head = append(head, ' ')
	head = append(head, kind...)
	head = append(head, ' ')
	head = strconv.AppendInt(head, c.ID, 10)
	head = append(head, ' ')
	head = strconv.AppendInt(head, row.order(), 10)
	head = append(head, ' ')
	head = strconv.AppendInt(head, int64(len(key)), 10)
	head = append(head, ' ')
	head = strconv.AppendInt(head, c.due(), 10)
	head = append(head, '\n')
	head = append(head, key...)
	head = append(head, `{"type":"`...)
	head = append(head, kind...)
	head = append(head, `","id":"`...)

	tail := append(make([]byte, 0, 512), '"')
	tail, err := appendRest(tail, c, false)
	if err != nil {
		return Pending{}, err
	}
	return Pending{StreamID: row.Stream(), Kind: row.Kind(), Head: head, Tail: tail}, nil
}

// due is Due in microseconds since 1970; 0: not known.
func (c *Change) due() int64 {
	if c.Due.IsZero() {
		return 0
	}
	return max(c.Due.UnixMicro(), 0)
}

// appendRest writes a frame from after its id to its end.
func appendRest(dst []byte, c *Change, state bool) ([]byte, error) {
	dst = append(dst, `,"stream_id":`...)
	dst = appendString(dst, c.Row.Stream())
	dst = append(dst, `,"timestamp":`...)
	at := c.At.UnixMilli()
	if c.At.IsZero() { // a row older than the capture: its own time is the best there is
		at = max(c.Row.order(), 0)
	}
	dst = strconv.AppendInt(dst, at, 10)
	if state {
		dst = append(dst, stateMember...)
	}
	dst = append(dst, dataMember...)
	dst, err := appendRow(dst, c.Row)
	if err != nil {
		return nil, err
	}
	return append(dst, '}'), nil
}

// appendRow writes a row within MaxRow.
func appendRow(dst []byte, row Row) ([]byte, error) {
	before := len(dst)
	for {
		out, err := row.appendData(dst)
		if err != nil {
			return nil, err
		}
		size := len(out) - before
		if size <= MaxRow {
			return out, nil
		}
		if !row.LeaveOut() {
			return nil, fmt.Errorf("row has %d bytes; allowed are %d", size, MaxRow)
		}
	}
}

const (
	// typeMember starts a frame.
	typeMember = `{"type":"`
	// dataMember starts the last member of a frame. These bytes occur in no JSON
	// string before it: there the quote would be escaped.
	dataMember = `,"data":`
	// stateMember marks a frame as a part of a state.
	stateMember = `,"state":true`
)

// WithMember copies a frame and adds a member to it, which stands before the data
// and starts with a comma. What has no data stays as it is.
func WithMember(frame []byte, member string) []byte {
	head, data, ok := bytes.Cut(frame, []byte(dataMember))
	if !ok {
		return frame
	}
	b := make([]byte, 0, len(frame)+len(member))
	b = append(b, head...)
	b = append(b, member...)
	b = append(b, dataMember...)
	return append(b, data...)
}

// Message is a published change: the parsed header and the frame as it goes to
// clients. Frame and Key share the memory of the parsed bytes.
type Message struct {
	ID       ID
	Kind     Kind
	ChangeID int64
	Order    int64  // the row's own time in milliseconds
	Key      string // moment_id; "" for the other kinds
	Due      int64  // from when on it is late, in microseconds since 1970; 0: not known
	Frame    []byte
}

var errBadMessage = errors.New("not a message of Telemetra")

// ParseMessage reads the header of a published message. Processes of two versions meet
// during an upgrade: a listener before due existed does not say it, and what a newer one
// says behind it is not for us.
func ParseMessage(b []byte) (Message, error) {
	line, rest, ok := bytes.Cut(b, []byte{'\n'})
	if !ok || len(line) > 256 {
		return Message{}, errBadMessage
	}
	var field [5][]byte
	more := true
	for i := range field {
		if !more {
			return Message{}, errBadMessage
		}
		field[i], line, more = bytes.Cut(line, []byte{' '})
	}
	id, err := ParseID(string(field[0]))
	if err != nil {
		return Message{}, errBadMessage
	}
	kind, ok := parseKind(field[1])
	if !ok {
		return Message{}, errBadMessage
	}
	changeID, err1 := strconv.ParseInt(string(field[2]), 10, 64)
	order, err2 := strconv.ParseInt(string(field[3]), 10, 64)
	keyLen, err3 := strconv.Atoi(string(field[4]))
	var due int64
	var err4 error
	if more {
		text, _, _ := bytes.Cut(line, []byte{' '})
		due, err4 = strconv.ParseInt(string(text), 10, 64)
	}
	if err1 != nil || err2 != nil || err3 != nil || err4 != nil || due < 0 || keyLen < 0 || keyLen > len(rest) {
		return Message{}, errBadMessage
	}
	frame := rest[keyLen:]
	if len(frame) < 2 || frame[0] != '{' || frame[len(frame)-1] != '}' {
		return Message{}, errBadMessage
	}
	return Message{
		ID: id, Kind: kind, ChangeID: changeID, Order: order,
		Key: string(rest[:keyLen]), Due: due, Frame: frame,
	}, nil
}

// State is a row as part of the state that a client gets when it connects.
type State struct {
	Kind     Kind
	ChangeID int64
	Order    int64
	Key      string
	Frame    []byte // marked as state, without an id
}

// NewState encodes a row that was read from Postgres.
func NewState(c *Change) (State, error) {
	kind := c.Row.Kind()
	frame, err := appendRest(appendType(make([]byte, 0, 512), kind), c, true)
	if err != nil {
		return State{}, err
	}
	return State{Kind: kind, ChangeID: c.ID, Order: c.Row.order(), Key: c.Row.key(), Frame: frame}, nil
}

// State turns a live message into a part of the state that later clients get.
func (m *Message) State() State {
	s := State{Kind: m.Kind, ChangeID: m.ChangeID, Order: m.Order, Key: m.Key}
	rest := m.Frame
	if i := bytes.Index(rest, []byte(`,"stream_id":`)); i >= 0 {
		rest = rest[i:]
	}
	s.Frame = appendType(make([]byte, 0, len(m.Frame)+len(stateMember)), m.Kind)
	head, data, ok := bytes.Cut(rest, []byte(dataMember))
	if !ok {
		s.Frame = append(s.Frame, rest...)
		return s
	}
	s.Frame = append(append(s.Frame, head...), stateMember...)
	s.Frame = append(append(s.Frame, dataMember...), data...)
	return s
}

// appendType begins a frame.
func appendType(dst []byte, kind Kind) []byte {
	dst = append(dst, typeMember...)
	dst = append(dst, kind.String()...)
	return append(dst, '"')
}

// WithID copies a frame that has no id and adds one. What is no frame stays as it is.
func WithID(frame []byte, id ID) []byte {
	const idMember = `,"id":"`
	rest, ok := bytes.CutPrefix(frame, []byte(typeMember))
	end := bytes.IndexByte(rest, '"') + 1
	if !ok || end == 0 {
		return frame
	}
	end += len(typeMember)
	text := id.String()
	b := make([]byte, 0, len(frame)+len(idMember)+len(text)+1)
	b = append(append(b, frame[:end]...), idMember...)
	b = append(append(b, text...), '"')
	return append(b, frame[end:]...)
}

// Newer tells whether s replaces o as the newest of its kind: by the row's own
// time, then by the time of its writing.
func (s *State) Newer(o *State) bool {
	if s.Order != o.Order {
		return s.Order > o.Order
	}
	return s.ChangeID >= o.ChangeID
}
