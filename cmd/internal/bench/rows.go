package bench

import (
	"fmt"
	"time"

	"github.com/telemetra/telemetra/sql"
)

// streamRows are streams for loads that need no certain number of them.
func streamRows() []sql.StreamRow { return manyStreams(10) }

// manyStreams are streams that are always the same.
func manyStreams(n int) []sql.StreamRow {
	rows := make([]sql.StreamRow, n)
	for i := range rows {
		rows[i] = sql.StreamRow{StreamID: fmt.Sprintf("bench_%d", i+1), Title: "bench", IsLive: true, At: time.Now()}
	}
	return rows
}

// summary is a typical row; its chat_count is its number.
func summary(streamID string, number int) sql.SummaryRow {
	at := time.Now().Truncate(time.Minute)
	return sql.SummaryRow{
		StreamID: streamID, WindowStart: at, WindowEnd: at.Add(time.Minute),
		ChatCount: int32(number), UniqueChatters: 57, TopEmotes: []string{"Kappa", "Kappa", "LUL", "PogChamp"}, //nolint:gosec // far below
		AvgSentiment: 0.25, ChatRate: 3.5, AvgViewers: 1234.5, ZScore: 0.4,
	}
}

// summary is a row with a window of its own: of one window, a client that is slow
// may get the newest frame only, and a write that is overtaken by a newer one of
// another connection is no event.
func (b *bench) summary(streamID string, number int) sql.SummaryRow {
	row := summary(streamID, number)
	row.WindowStart = b.began.Add(time.Duration(number) * time.Minute)
	row.WindowEnd = row.WindowStart.Add(time.Minute)
	return row
}
