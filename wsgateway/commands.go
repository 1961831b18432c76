package wsgateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/telemetra/telemetra/broker/event"
)

// clientFrame is what a client may send. What a type does not need is not looked at.
type clientFrame struct {
	Type      string
	Timestamp json.RawMessage // of a ping
	StreamID  json.RawMessage // of subscribe and unsubscribe
	Since     json.RawMessage // of subscribe
	Token     json.RawMessage // of auth
}

var errBadFrame = errors.New(`a frame must be a JSON object with a "type"; each member may come once, with its name in lower case`)

// parseClientFrame is stricter than encoding/json, which takes names in any case and of a member
// that comes twice the last: what stands before the gateway may read it otherwise.
func parseClientFrame(text []byte) (*clientFrame, error) {
	var (
		f     clientFrame
		kind  json.RawMessage
		known = map[string]*json.RawMessage{"type": &kind, "timestamp": &f.Timestamp, "stream_id": &f.StreamID, "since": &f.Since, "token": &f.Token}
		d     = json.NewDecoder(bytes.NewReader(text))
	)
	if begin, err := d.Token(); err != nil || begin != json.Delim('{') {
		return nil, errBadFrame
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, errBadFrame
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, errBadFrame
		}
		text, _ := name.(string)
		member := known[text]
		switch {
		case member == nil && known[strings.ToLower(text)] == nil:
		case member == nil, *member != nil:
			return nil, errBadFrame
		default:
			*member = value
		}
	}
	if _, err := d.Token(); err != nil { // the end of the object
		return nil, errBadFrame
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errBadFrame
	}
	if json.Unmarshal(kind, &f.Type) != nil || f.Type == "" {
		return nil, errBadFrame
	}
	return &f, nil
}

// handleCommand does what a text frame of the client asks for. Frames of one client come one
// after the other. An error ends the connection.
func (s *session) handleCommand(text []byte) error {
	in, err := parseClientFrame(text)
	if err != nil {
		s.push(errorFrame("", codeBadFrame, err.Error()))
		return nil
	}
	switch in.Type {
	case "ping":
		s.push(encode(pongFrame{Type: "pong", Timestamp: in.Timestamp}))
	case "auth":
		if !s.affords(authFrames) {
			return errTooManyFrames
		}
		s.push(s.authenticate(in.Token))
	case "subscribe", "unsubscribe":
		s.changeStreams(in)
	default:
		s.push(errorFrame("", codeUnknownType, `the "type" is unknown; allowed are "ping", "auth", "subscribe" and "unsubscribe"`))
	}
	return nil
}

// authFrames is how many frames an auth frame counts as: a signature is checked, maybe with
// each of many keys, which costs as much as hundreds of pings.
const authFrames = 10

// affords counts a frame, which was counted once, as several, and reports whether the client
// may send as many.
func (s *session) affords(frames int) bool {
	return s.frames == nil || s.frames.AllowN(time.Now(), min(frames, s.frames.Burst())-1)
}

// authenticate takes another token, and returns the answer. Until then the one before
// it counts.
func (s *session) authenticate(raw json.RawMessage) *frame {
	tokens := s.gateway.tokens
	var token string
	switch err := json.Unmarshal(raw, &token); {
	case !tokens.Required():
		return errorFrame("", codeAuthOff, "authentication is off: no token is looked at")
	case err != nil:
		return errorFrame("", codeBadToken, `"token" must be a string`)
	}
	grant, refusal := tokens.Verify(s.gateway.hubs.life(), token)
	if refusal != nil {
		return errorFrame("", codeBadToken, refusal.Detail)
	}
	if c := s.permit(grant); c != nil {
		return errorFrame("", c.code, c.message)
	}
	answer := authenticatedFrame{Type: "authenticated"}
	if !grant.Expires.IsZero() {
		answer.ExpiresAt = new(grant.Expires.UnixMilli())
	}
	return encode(answer)
}

// changeStreams subscribes or unsubscribes.
func (s *session) changeStreams(in *clientFrame) {
	if !s.many {
		s.push(errorFrame("", codeSingleStream, "this socket follows the one stream of its address; connect to /ws/live to choose streams"))
		return
	}
	var id string
	if err := json.Unmarshal(in.StreamID, &id); err != nil {
		s.push(errorFrame("", codeBadStreamID, `"stream_id" must be a string`))
		return
	}
	if hasHalfPair(in.StreamID, id) {
		s.push(errorFrame("", codeBadStreamID, `"stream_id" has half of a surrogate pair`))
		return
	}
	if err := event.CheckStreamID(id); err != nil {
		s.push(errorFrame(id, codeBadStreamID, err.Error()))
		return
	}
	if in.Type == "unsubscribe" {
		s.unsubscribe(id)
		return
	}
	since, err := sinceOf(in.Since)
	if err != nil {
		s.push(errorFrame(id, codeBadSince, err.Error()))
		return
	}
	if c := s.follow(id, since); c != nil {
		s.push(errorFrame(id, c.code, c.message))
	}
}

// hasHalfPair reports whether a string of JSON has half of a surrogate pair: text has it as
// U+FFFD, which does not stand in raw, neither as such nor escaped.
func hasHalfPair(raw []byte, text string) bool {
	n := strings.Count(text, "\uFFFD")
	if n == 0 {
		return false
	}
	raw = bytes.ToLower(bytes.ReplaceAll(raw, []byte(`\\`), nil)) // what follows them is no escape
	return n > bytes.Count(raw, []byte("\uFFFD"))+bytes.Count(raw, []byte(`\ufffd`))
}

// sinceOf reads the id of a subscribe frame; none is fine.
func sinceOf(raw json.RawMessage) (*event.ID, error) {
	if len(raw) == 0 {
		return nil, nil //nolint:nilnil // no id is no error
	}
	var text string
	if err := json.Unmarshal(raw, &text); err != nil {
		return nil, fmt.Errorf(`"since" is %s; allowed is an event id, a string`, raw)
	}
	return parseSince([]string{text})
}

// unsubscribe removes a stream. Nothing of it comes after the answer.
func (s *session) unsubscribe(streamID string) {
	s.mu.Lock()
	sub := s.streams[streamID]
	delete(s.streams, streamID)
	s.mu.Unlock()
	if sub == nil {
		s.push(errorFrame(streamID, codeNotSubscribed, "the stream is not subscribed to"))
		return
	}
	sub.hub.leave(sub)
	if sub.late != "" { // nobody changes that any more
		s.leftLate = true
	}
	s.push(encode(unsubscribedFrame{Type: "unsubscribed", StreamID: streamID}))
}
