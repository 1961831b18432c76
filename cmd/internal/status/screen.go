package status

import (
	"io"
	"strings"
)

// What a screen tells the terminal, by ECMA-48 and, for the alternate screen, as xterm
// does. The cursor stays visible: who stops the process with Ctrl-Z finds his shell usable.
const (
	enterAlternate = "\x1b[?1049h"
	leaveAlternate = "\x1b[?1049l"
	home           = "\x1b[H"
	eraseLine      = "\x1b[K"
	eraseBelow     = "\x1b[J"
)

// Screen shows one text after the other at the same place, and leaves what was there
// before as it was.
type Screen struct {
	out     io.Writer
	entered bool
}

// NewScreen prepares a screen; Show enters it.
func NewScreen(out io.Writer) *Screen { return &Screen{out: out} }

// Show replaces what is shown, in one write: nothing flickers.
func (s *Screen) Show(text string) error {
	var b strings.Builder
	if !s.entered {
		s.entered = true
		b.WriteString(enterAlternate)
	}
	b.WriteString(home)
	text = strings.TrimSuffix(text, "\n") // a line more would scroll
	for i, l := range strings.Split(text, "\n") {
		if i > 0 {
			b.WriteString("\r\n")
		}
		// Erased first: behind the last column of a full line there is nothing to erase.
		b.WriteString(eraseLine + l)
	}
	b.WriteString(eraseBelow)
	_, err := io.WriteString(s.out, b.String())
	return err
}

// Close leaves the screen.
func (s *Screen) Close() error {
	if !s.entered {
		return nil
	}
	s.entered = false
	_, err := io.WriteString(s.out, leaveAlternate)
	return err
}
