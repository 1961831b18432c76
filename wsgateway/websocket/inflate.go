package websocket

import (
	"bytes"
	"errors"
	"io"
	"sync"

	"github.com/klauspost/compress/flate"
)

// tail is what a sender leaves out behind a compressed message, and a last block that
// lets the decompressor see the end; RFC 7692, 7.2.2.
const tail = "\x00\x00\xff\xff" + "\x01\x00\x00\xff\xff"

// inflater is one of a few: they are used only while bytes are at hand.
type inflater struct {
	flate io.ReadCloser
	from  bytes.Reader
}

var inflaters = sync.Pool{New: func() any { return &inflater{flate: flate.NewReader(nil)} }}

// inflate decompresses a message of at most limit bytes. What follows a block that the
// sender has marked as the last one does not count.
func inflate(compressed []byte, limit int, isText bool) ([]byte, error) {
	z, _ := inflaters.Get().(*inflater)
	defer inflaters.Put(z)
	z.from.Reset(append(compressed, tail...))
	defer z.from.Reset(nil)
	resetter, _ := z.flate.(flate.Resetter)
	if err := resetter.Reset(&z.from, nil); err != nil {
		return nil, err
	}
	out := make([]byte, 0, min(2*len(compressed), limit)+1)
	for valid := 0; ; {
		if len(out) == cap(out) {
			out = append(out, 0)[:len(out)]
		}
		n, err := z.flate.Read(out[len(out):min(cap(out), limit+1)])
		out = out[:len(out)+n]
		if len(out) > limit {
			return nil, &Error{TooLarge, "message is too large"}
		}
		if isText {
			var ok bool
			if valid, ok = wholeCharacters(out, valid); !ok {
				return nil, errNotUTF8
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			if isText && valid < len(out) {
				return nil, errNotUTF8
			}
			return out, nil
		case err != nil:
			return nil, &Error{InvalidPayload, "message is not compressed data"}
		}
	}
}
