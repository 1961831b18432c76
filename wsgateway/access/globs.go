package access

// globs are many globs that a stream id is held against at once: an automaton whose states
// are the places in all of the globs, as bits. A character of an id costs a few operations
// for each 64 of these, and one for each place that has this character, whatever the globs
// are: the worst token of 8 KiB costs tens of microseconds for an id. Going back to the
// last wildcard, one glob after the other, costs half a millisecond with globs made for it.
type globs struct {
	words  int
	start  []uint64 // where globs begin
	accept []uint64 // behind their ends
	stay   []uint64 // where a run of any characters may come
	one    []uint64 // where any one character is next
	places map[rune][]place
}

// place is where a character is next: bits of a word.
type place struct {
	word int
	bits uint64
}

const wordBits = 64

func compile(patterns []glob) *globs {
	states := 0
	for _, p := range patterns {
		states += len(p) + 1
	}
	n := (states + wordBits - 1) / wordBits
	all := make([]uint64, 4*n)
	g := &globs{words: n, start: all[:n], accept: all[n : 2*n], stay: all[2*n : 3*n], one: all[3*n:], places: make(map[rune][]place)}
	at := 0
	set := func(in []uint64) { in[at/wordBits] |= 1 << (at % wordBits) }
	for _, p := range patterns {
		set(g.start)
		for _, c := range p {
			switch c {
			case anyRun: // is no place of its own
				set(g.stay)
				continue
			case anyOne:
				set(g.one)
			default:
				g.add(c, at)
			}
			at++
		}
		set(g.accept)
		at++
	}
	return g
}

// add notes that a character is next at a place, which is behind all others so far.
func (g *globs) add(c rune, at int) {
	places, bit := g.places[c], uint64(1)<<(at%wordBits)
	if last := len(places) - 1; last >= 0 && places[last].word == at/wordBits {
		places[last].bits |= bit
		return
	}
	g.places[c] = append(places, place{at / wordBits, bit})
}

// match reports whether one of the globs matches.
func (g *globs) match(id string) bool {
	if g == nil {
		return false
	}
	both := make([]uint64, 2*g.words)
	now, next := both[:g.words], both[g.words:]
	copy(now, g.start)
	for _, c := range id {
		var carry, left uint64
		for i, here := range now {
			ahead := here & g.one[i]
			next[i] = here&g.stay[i] | ahead<<1 | carry
			carry = ahead >> (wordBits - 1)
			left |= next[i]
		}
		for _, p := range g.places[c] {
			ahead := now[p.word] & p.bits
			next[p.word] |= ahead << 1
			if ahead>>(wordBits-1) != 0 { // a glob has a place behind its last character
				next[p.word+1] |= 1
			}
			left |= ahead
		}
		if left == 0 {
			return false
		}
		now, next = next, now
	}
	for i, here := range now {
		if here&g.accept[i] != 0 {
			return true
		}
	}
	return false
}
