package wsgateway

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"github.com/lxzan/gws"
	"pgregory.net/rapid"
)

// Frames of all sizes pass as they are, however they are cut, and the first that
// must not be there ends the reading.
func TestStrict(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var all []byte
		bad := false
		for range rapid.IntRange(0, 8).Draw(t, "frames") {
			opcode := rapid.SampledFrom([]gws.Opcode{gws.OpcodeText, gws.OpcodeContinuation, gws.OpcodePing, gws.OpcodeBinary}).Draw(t, "opcode")
			size := rapid.SampledFrom([]int{0, 1, 125, 126, 300, 70_000}).Draw(t, "size")
			bits := rapid.SampledFrom([]byte{0, 0, 0, rsv1, rsv2, rsv3, rsv1 | rsv3}).Draw(t, "bits")
			f := appendText(nil, 0, bytes.Repeat([]byte{0xff}, size)) // a payload that looks like wrong headers
			f[0] = fin | bits | byte(opcode)
			if rapid.Bool().Draw(t, "masked") {
				at := len(f) - size
				f = append(append(append([]byte{}, f[:at]...), 1, 2, 3, 4), f[at:]...)
				f[1] |= maskBit
			}
			all = append(all, f...)
			bad = bad || bits&(rsv2|rsv3) != 0 || bits != 0 && (opcode == gws.OpcodeContinuation || opcode == gws.OpcodePing)
		}
		calls := 0
		var from io.Reader = bytes.NewReader(all)
		if rapid.Bool().Draw(t, "bytewise") {
			from = iotest.OneByteReader(from)
		}
		got, err := io.ReadAll(&strict{from: from, wrong: func() { calls++ }})
		switch {
		case bad && (!errors.Is(err, errReserved) || calls != 1):
			t.Fatalf("%v, told %d times", err, calls)
		case !bad && (err != nil || !bytes.Equal(got, all) || calls != 0):
			t.Fatalf("%v, %d of %d bytes", err, len(got), len(all))
		}
	})
}
