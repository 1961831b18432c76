package status

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rivo/uniseg"
)

// View says how a report is written.
type View struct {
	Colour bool
	// Width and Height are those of the terminal; 0: there is no limit.
	Width, Height int
}

// Text writes a report for people, each line within the width. Where there is not
// enough height, tables end early and say so.
func Text(r *Report, v View) string {
	head := headOf(r, v.Width)
	tables := []*table{listenersOf(r), gatewaysOf(r), apisOf(r), streamsOf(r)}
	for _, t := range tables {
		if !r.ProcessesKnown {
			t.none = "not known"
		}
		if r.silenced() {
			t.none = "not known: " + r.Redis.Condition.String()
		}
	}
	if v.Height > 0 {
		shorten(tables, v.Height-len(head))
	}
	lines := head
	for _, t := range tables {
		lines = append(lines, nil)
		lines = append(lines, t.lines(v.Width)...)
	}
	if v.Height > 0 && len(lines) > v.Height {
		lines = lines[:v.Height]
	}
	var b strings.Builder
	for _, l := range lines {
		l.write(&b, v.Width, v.Colour)
		b.WriteByte('\n')
	}
	return b.String()
}

var urgency = map[style]int{yellow: 2, dim: 1} // of rows: not well, gone

// shorten takes rows from the longest tables until all fit into a height.
func shorten(tables []*table, height int) {
	const least = 2
	for {
		total, longest := 0, tables[0]
		for _, t := range tables {
			total += 1 + t.height()
			if len(t.rows) > len(longest.rows) {
				longest = t
			}
		}
		if total <= height || len(longest.rows) <= least {
			return
		}
		if longest.left == 0 { // what needs somebody is to stay
			slices.SortStableFunc(longest.rows, func(a, b row) int { return cmp.Compare(urgency[b.style], urgency[a.style]) })
		}
		longest.rows = longest.rows[:len(longest.rows)-1]
		longest.left++
	}
}

var stateStyles = map[State]style{OK: green, Degraded: yellow, Down: red}

// headOf is what stands above the tables.
func headOf(r *Report, width int) []line {
	lines := []line{
		{{"telemetra is ", bold}, {string(r.State), stateStyles[r.State]}, {"  " + r.Time.Format(time.DateTime+" -07:00"), dim}},
	}
	note := func(mark string, look style, text string) {
		lines = append(lines, wrapped(piece{mark, look}, strings.Fields(text), " ", width)...)
	}
	for _, reason := range r.Reasons {
		note("  ! ", stateStyles[r.State], reason)
	}
	for _, w := range r.Warnings {
		note("  warning ", yellow, those(w.Processes, "", "")+": "+w.Text)
	}
	for _, m := range r.Missing {
		note("  not known ", dim, m)
	}
	server := func(kind, address string, words []string) {
		lines = append(lines, wrapped(piece{fmt.Sprintf("%-10s", kind), bold}, append([]string{address}, words...), ", ", width)...)
	}
	lines = append(lines, nil)
	server("Postgres", r.Postgres.Address, postgresWords(&r.Postgres))
	if r.Replica != nil {
		server("Replica", r.Replica.Address, replicaWords(r.Replica))
	}
	server("Redis", r.Redis.Address, redisWords(&r.Redis))
	return lines
}

// wrapped writes words after a mark, on as many lines as they need.
func wrapped(mark piece, words []string, between string, width int) (lines []line) {
	text := ""
	for _, w := range words {
		if text != "" && width > 0 && uniseg.StringWidth(mark.text+text+between+w+between) > width {
			lines = append(lines, line{mark, {text + between, plain}})
			mark, text = piece{strings.Repeat(" ", uniseg.StringWidth(mark.text)), plain}, ""
		}
		if text != "" {
			text += between
		}
		text += w
	}
	return append(lines, line{mark, {text, plain}})
}

func postgresWords(p *Postgres) []string {
	if !p.Reachable {
		return []string{"away"} // why is a reason
	}
	role := "primary"
	if !p.Primary {
		role = "standby"
	}
	return []string{
		release(p.Version), role, fmt.Sprintf("%d of %d connections (%d ours)", p.Connections, p.Most, p.Ours),
		"oldest transaction " + short(p.Oldest), "notifications " + percent(p.Queue),
	}
}

// release is a version without what a distribution has added.
func release(version string) string {
	first, _, _ := strings.Cut(version, " ")
	return first
}

func replicaWords(p *Replica) []string {
	if !p.Reachable {
		return []string{"away"}
	}
	role := "standby"
	if !p.Standby {
		role = "primary"
	}
	words := []string{release(p.Version), role}
	if p.Behind != nil {
		words = append(words, size(*p.Behind)+" behind")
	}
	return words
}

func redisWords(r *Redis) []string {
	condition := string(r.Condition)
	if condition == "" {
		condition = "condition not known"
	}
	words := []string{condition}
	if r.Version != "" { // what stands in for a Redis, in the demo, tells nothing
		used := size(*r.Used)
		if *r.Most > 0 {
			used += " of " + size(*r.Most)
		}
		words = []string{r.Version, r.Role, condition, used, strconv.FormatInt(*r.Ops, 10) + " ops/s"}
	}
	switch {
	case r.Epoch == "":
	case r.EpochAge == nil:
		words = append(words, "epoch "+r.Epoch)
	default:
		words = append(words, "epoch "+r.Epoch+" for "+short(*r.EpochAge))
	}
	return words
}

// common are the first cells of each process, and how its row looks.
func common(p *Process, mark string) (first []string, look style) {
	first = []string{mark + name(p.Host, p.PID), p.Version, short(p.Up)}
	switch {
	case p.Gone:
		return append(first, "gone "+short(p.Silent)), dim
	case p.expired:
		return append(first, "not known"), dim
	case p.Ready:
		return append(first, "ready"), plain
	case p.Why == draining:
		return append(first, draining), plain
	}
	return append(first, "not ready"), yellow
}

// shared are the columns of common.
func shared(kind string) []column {
	return []column{{title: kind, least: 12}, {title: "VERSION", least: 6, spare: 2}, {title: "UP", right: true, spare: 1}, {title: "STATE"}}
}

func listenersOf(r *Report) *table {
	t := &table{columns: append(shared("  LISTENER"), number("LAG"), number("POSITION"), number("BACKLOG"), number("EVENTS/S"), spare("CONFLICTS/S", 3), number("PUBLISHED"))}
	for i := range r.Listeners {
		l := &r.Listeners[i]
		mark := "  "
		if l.Last && len(r.Listeners) > 1 {
			mark = "* " // who has published last
		}
		cells, look := common(&l.Process, mark)
		published := "never"
		if l.Published != nil {
			published = short(*l.Published) + " ago"
		}
		if l.expired {
			t.add(look, append(cells, "", "", "", "", "", published)...)
			continue
		}
		t.add(look, append(cells, short(l.Lag), short(l.PositionAge), strconv.FormatInt(l.Backlog, 10),
			rateOf(l.Events), rateOf(l.Conflicts), published)...)
	}
	return t
}

func gatewaysOf(r *Report) *table {
	t := &table{columns: append(shared("  GATEWAY"), number("CONNECTIONS"), number("STREAMS"), number("FRAMES/S"), number("LAG P50"), number("P99"), spare("CONFLATED/S", 4), spare("TOO SLOW", 5))}
	numbers := func(n *GatewayTotal, streams string) []string {
		return []string{
			strconv.Itoa(n.Connections), streams, rateOf(n.Frames), lagOf(n.P50), lagOf(n.P99),
			rateOf(n.Conflated), strconv.FormatUint(n.SlowCloses, 10),
		}
	}
	there := 0
	for i := range r.Gateways {
		g := &r.Gateways[i]
		cells, look := common(&g.Process, "  ")
		if g.expired {
			t.add(look, cells...)
			continue
		}
		if there++; g.Degraded != "" && look == plain {
			cells[len(cells)-1], look = "degraded", yellow
		}
		t.add(look, append(cells, numbers(&g.GatewayTotal, strconv.Itoa(g.Streams))...)...)
	}
	if there > 1 {
		t.total = append([]string{fmt.Sprintf("  all %d", there), "", "", ""}, numbers(&r.Total, "")...)
	}
	return t
}

func apisOf(r *Report) *table {
	t := &table{columns: append(shared("  API"), number("READS/S"))}
	for _, from := range sources {
		t.columns = append(t.columns, number(strings.ToUpper(from)))
	}
	t.columns[len(t.columns)-1].title = "NONE"
	t.columns = append(t.columns, column{title: "FROM"})
	for i := range r.APIs {
		a := &r.APIs[i]
		cells, look := common(&a.Process, "  ")
		if a.expired {
			t.add(look, cells...)
			continue
		}
		cells = append(cells, rateOf(a.Reads))
		for _, from := range sources {
			share := unknown
			if a.Shares != nil {
				share = percent(a.Shares[from])
			}
			cells = append(cells, share)
		}
		t.add(look, append(cells, a.Rung)...)
	}
	return t
}

func streamsOf(r *Report) *table {
	t := &table{columns: []column{{title: "  STREAM", least: 12}, number("EVENTS/S"), number("CONNECTIONS"), number("NEWEST EVENT")}}
	for i := range r.Streams {
		s := &r.Streams[i]
		newest := unknown
		if s.Age != nil {
			newest = short(*s.Age) + " ago"
		}
		t.add(plain, "  "+clean(s.ID), rateOf(s.Events), strconv.Itoa(s.Connections), newest)
	}
	return t
}
