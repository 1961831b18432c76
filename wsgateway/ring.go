package wsgateway

// Bounds of what a hub keeps of the past for clients that come back.
const (
	mostRing      = 256
	mostRingBytes = 1 << 20
)

// ring keeps the newest events of a stream as they went out, without a gap.
type ring struct {
	frames []*frame
	first  uint64 // offset of frames[0]
	bytes  int
}

// add keeps an event. One that is not the next makes the ring start over.
func (r *ring) add(offset uint64, f *frame) {
	if offset != r.first+uint64(len(r.frames)) {
		*r = ring{first: offset}
	}
	r.frames = append(r.frames, f)
	r.bytes += len(f.wire)
	drop := 0
	for len(r.frames)-drop > mostRing || (r.bytes > mostRingBytes && len(r.frames)-drop > 1) {
		r.bytes -= len(r.frames[drop].wire)
		r.frames[drop] = nil
		drop++
	}
	r.frames = r.frames[drop:]
	r.first += uint64(drop)
}

// after returns the events above an offset up to the newest, or false when it
// lacks one of them.
func (r *ring) after(offset, newest uint64) ([]*frame, bool) {
	switch {
	case offset == newest:
		return nil, true
	case offset > newest, len(r.frames) == 0, offset+1 < r.first, r.first+uint64(len(r.frames)) != newest+1:
		return nil, false
	}
	return r.frames[offset+1-r.first:], true
}
