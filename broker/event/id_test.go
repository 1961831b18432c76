package event

import (
	"errors"
	"math"
	"strings"
	"testing"
)

func TestIDReadsWhatItWrites(t *testing.T) {
	for _, id := range []ID{
		{"k3f9", 41},
		{"a", 0},
		{"0", math.MaxUint64},
		{strings.Repeat("z", maxEpochLen), 1},
	} {
		got, err := ParseID(id.String())
		if err != nil || got != id {
			t.Errorf("%s came back as %v, %v", id, got, err)
		}
	}
}

func TestParseIDRefuses(t *testing.T) {
	for _, s := range []string{
		"", "-", "k3f9", "k3f9-", "-41", "k3f9-041", "k3f9-00", "k3f9--1", "k3f9-+1", "k3f9-1 ", " k3f9-1", "K3f9-1", "k3_9-1",
		"k3f9-1-2", "k3f9-18446744073709551616", "k3f9-99999999999999999999", "k3f9-1e3", "k3f9-０", "é-1", "k3f9-1\n",
		strings.Repeat("z", maxEpochLen+1) + "-1",
	} {
		if id, err := ParseID(s); !errors.Is(err, ErrBadID) {
			t.Errorf("%q: got %v, %v", s, id, err)
		}
	}
}

func FuzzParseID(f *testing.F) {
	for _, s := range []string{"k3f9-41", "a-0", "a-01", "-", "a-18446744073709551615", "a-18446744073709551616", "\xff-1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, err := ParseID(s)
		if err != nil {
			if !errors.Is(err, ErrBadID) || id != (ID{}) {
				t.Errorf("%q: got %v, %v", s, id, err)
			}
			return
		}
		if got := id.String(); got != s {
			t.Errorf("%q is written as %q", s, got)
		}
		if !ValidEpoch(id.Epoch) {
			t.Errorf("%q has epoch %q", s, id.Epoch)
		}
	})
}

func TestCheckStreamID(t *testing.T) {
	for _, c := range []struct {
		name, id string
		ok       bool
	}{
		{"one character", "a", true},
		{"255 of one byte", strings.Repeat("a", 255), true},
		{"255 of four bytes", strings.Repeat("😀", 255), true},
		{"slash, space, percent", "a/b c%2F", true},
		{"a replacement character", "a\ufffd", true},
		{"line separator", "a\u2028", true},
		{"dots", "..", true},
		{"empty", "", false},
		{"256 characters", strings.Repeat("a", 256), false},
		{"NUL", "a\x00", false},
		{"tab", "\t", false},
		{"DEL", "a\x7f", false},
		{"C1", "a\u009f", false},
		{"invalid byte", "\xff", false},
		{"cut character", "a\xe2\x82", false},
		{"surrogate", "\xed\xa0\x80", false},
		{"overlong", "\xc0\xaf", false},
	} {
		if err := CheckStreamID(c.id); (err == nil) != c.ok {
			t.Errorf("%s: got %v", c.name, err)
		}
	}
}

func BenchmarkID(b *testing.B) {
	id := ID{Epoch: "k3f9cd2345", Offset: 123456}
	b.Run("format", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_ = id.String()
		}
	})
	b.Run("parse", func(b *testing.B) {
		text := id.String()
		b.ReportAllocs()
		for b.Loop() {
			if _, err := ParseID(text); err != nil {
				b.Fatal(err)
			}
		}
	})
}
