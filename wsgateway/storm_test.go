package wsgateway

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/lxzan/gws"

	"github.com/telemetra/telemetra/broker/event"
	"github.com/telemetra/telemetra/deploy/local/localtest"
)

// Clients that all come at once while events flow get the state and all that comes
// behind it, each of them, and Postgres is asked once.
func TestStorm(t *testing.T) {
	const clients, events = 400, 300
	w := newWorld(t)
	w.moments("s", 1, 1)
	row := w.moment("s", 1)
	w.rows.set(func() { w.rows.rows["s"] = []event.Change{row} })
	var all sync.WaitGroup
	failed := make(chan error, clients)
	for i := range clients {
		all.Go(func() {
			time.Sleep(time.Duration(i) * time.Millisecond) //nolint:forbidigo // they come while the events flow
			if err := w.seeAll(events); err != nil {
				failed <- fmt.Errorf("client %d: %w", i, err)
			}
		})
	}
	// The rows stand still, so the head that the state is read behind must, too.
	localtest.Eventually(t, "the reading of the state", func() bool { return w.rows.count() > 0 })
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for n := int64(2); n <= events; n++ {
		<-tick.C
		w.moments("s", n, n)
	}
	all.Wait()
	close(failed)
	for err := range failed {
		t.Error(err)
	}
	if n := w.rows.count(); n != 1 {
		t.Errorf("the state was read %d times", n)
	}
}

// seeAll reads a socket until the last moment, and tells what is missing.
func (w *world) seeAll(last uint64) error {
	conn, in, err := w.shakeHands(streamPath("s"), "")
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	var at uint64
	for stateful := false; at < last; {
		if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
			return err
		}
		op, payload, err := readFrame(in)
		if err != nil {
			return err
		}
		var f got
		if gws.Opcode(op) == gws.OpcodePing {
			continue
		}
		if err := json.Unmarshal(payload, &f); err != nil {
			return err
		}
		if f.Type == "connected" && f.Reason != "new" {
			return errors.New(string(payload))
		}
		stateful = stateful || f.State
		if f.ID == "" {
			continue
		}
		id, err := event.ParseID(f.ID)
		if err != nil {
			return err
		}
		if at > 0 && (f.State || id.Offset != at+1) || at == 0 && !f.State {
			return fmt.Errorf("%s after offset %d", payload, at)
		}
		if id.Offset > 1 && f.Data.ID != fmt.Sprint("m", id.Offset) {
			return fmt.Errorf("%s is not what was published", payload)
		}
		at = id.Offset
	}
	return nil
}
