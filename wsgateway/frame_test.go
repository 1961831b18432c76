package wsgateway

import (
	"testing"
)

// What is made of an event once for all clients of an encoding.
func BenchmarkFrame(b *testing.B) {
	m := fullMessage(b)
	b.Run("plain", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_ = newEvent("s", &m)
		}
	})
	f := newEvent("s", &m)
	for name, dress := range map[string]func() []byte{"deflated": f.deflate, "events": f.event} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_ = dress()
			}
			b.ReportMetric(float64(len(dress())), "B/frame")
		})
	}
}

// A client that is slow may be sent a frame that stands for others.
func BenchmarkConflated(b *testing.B) {
	m := fullMessage(b)
	e := entry{frame: newEvent("s", &m), conflated: 7}
	b.ReportAllocs()
	for b.Loop() {
		_ = e.told()
	}
}
