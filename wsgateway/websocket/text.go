package websocket

import "unicode/utf8"

var errNotUTF8 = &Error{InvalidPayload, "text is not UTF-8"}

// wholeCharacters checks a text that is not complete from an offset on, and returns how
// many bytes of it are whole characters: what follows may become one.
func wholeCharacters(text []byte, from int) (to int, ok bool) {
	to = len(text)
	for i := max(to-utf8.UTFMax+1, from); i < to; i++ {
		if !utf8.FullRune(text[i:]) && utf8.RuneStart(text[i]) {
			to = i
			break
		}
	}
	return to, utf8.Valid(text[from:to])
}
