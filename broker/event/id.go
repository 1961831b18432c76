// Package event is the product's vocabulary: what a row of Postgres is called
// on its way to a client, how it is written as a frame, and how the frame's
// header is read back. It imports nothing of the project, so that the
// listener, the gateway, the REST reads and a client library can share it.
package event

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// ErrBadID is returned for an event id that is not "<epoch>-<offset>".
var ErrBadID = errors.New(`event id must be "<epoch>-<offset>", for instance k3f9-41`)

// maxEpochLen bounds the epoch of a foreign id; ours have 10 characters.
const maxEpochLen = 32

// ID names one event of one stream: within an epoch the offsets of a stream
// count up by one without a gap. Offset 0 is the place before the first event.
type ID struct {
	Epoch  string
	Offset uint64
}

// String writes the id as clients see it.
func (id ID) String() string {
	return id.Epoch + "-" + strconv.FormatUint(id.Offset, 10)
}

// ParseID reads an id that a client sent. It accepts exactly what String
// writes: lower-case letters and digits, a dash, a number without leading zero.
func ParseID(s string) (ID, error) {
	epoch, digits, ok := strings.Cut(s, "-")
	if !ok || !ValidEpoch(epoch) || len(digits) == 0 || len(digits) > 20 || (digits[0] == '0' && len(digits) > 1) {
		return ID{}, ErrBadID
	}
	for i := range len(digits) {
		if digits[i] < '0' || digits[i] > '9' {
			return ID{}, ErrBadID
		}
	}
	offset, err := strconv.ParseUint(digits, 10, 64)
	if err != nil {
		return ID{}, ErrBadID
	}
	return ID{Epoch: epoch, Offset: offset}, nil
}

// ValidEpoch tells whether s can be an epoch's name.
func ValidEpoch(s string) bool {
	if s == "" || len(s) > maxEpochLen {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return true
}

// MaxStreamIDLen is the longest stream id in characters (not bytes).
const MaxStreamIDLen = 255

// CheckStreamID tells why s cannot name a stream: it must be 1 to 255
// characters of valid UTF-8 without control characters.
func CheckStreamID(s string) error {
	switch n := utf8.RuneCountInString(s); {
	case n == 0:
		return errors.New("stream id is empty; allowed are 1 to 255 characters")
	case n > MaxStreamIDLen:
		return fmt.Errorf("stream id has %d characters; allowed are 1 to %d", n, MaxStreamIDLen)
	case !utf8.ValidString(s):
		return errors.New("stream id is not valid UTF-8")
	case strings.ContainsFunc(s, unicode.IsControl):
		return errors.New("stream id contains a control character")
	}
	return nil
}
