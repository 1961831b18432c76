// Package client follows a stream of Telemetra through any number of reconnections:
// it goes on after the last event that it has seen, at the gateway's pace when it is
// asked to, else with backoff and jitter.
//
//	c := client.Client{Gateways: []string{"wss://live.example.com"}, StreamID: "demo_stream"}
//	err := c.Run(ctx, func(f client.Frame) {
//		if f.Type == "metrics" {
//			…
//		}
//	})
package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/telemetra/telemetra/broker/event"
)

// Frame is what a gateway has sent.
type Frame struct {
	Type      string `json:"type"` // connected, metrics, moment, stream, viewers, status, …
	ID        string `json:"id"`   // event id; "" where there is nothing to go on from
	StreamID  string `json:"stream_id"`
	Timestamp int64  `json:"timestamp"` // milliseconds since 1970
	State     bool   `json:"state"`     // how things stood, as opposed to what happens
	Conflated int    `json:"conflated"` // how many metrics frames this one stands for beside itself
	// Resumed and Reason are of a connected frame: when it is not resumed, forget what
	// there was; the state follows.
	Resumed bool   `json:"resumed"`
	Reason  string `json:"reason"`
	// Truncated is of a connected frame, too: the state that follows lacks moments, for it
	// would be too large.
	Truncated bool  `json:"truncated"`
	AfterMS   int64 `json:"after_ms"` // of a reconnect frame
	// Data is the row, as the frame has it.
	Data json.RawMessage `json:"data"`
}

// Client follows one stream. Its zero value needs Gateways and StreamID.
type Client struct {
	// Gateways are the addresses, such as ws://127.0.0.1:8000, of the scheme ws or wss;
	// each attempt takes the next one.
	Gateways []string
	StreamID string
	// Events asks for Server-Sent Events instead of a WebSocket.
	Events bool
	// Since is the event id to go on after; "": begin with the state.
	Since string
	// Header goes with each handshake.
	Header http.Header
	// Token is asked for a token before each handshake, for tokens that do not last; may
	// be nil. That there is none counts as a failed attempt.
	Token func(ctx context.Context) (string, error)
	// LeastBackoff and MostBackoff bound the bound of the pause before an attempt: it is
	// a random part of twice the time for which none was of use. Default 200 ms and 20 s.
	LeastBackoff, MostBackoff time.Duration
	// Silence is how long a connection may bring nothing, pings included, before it
	// counts as lost. Default 75 s, which is two and a half of the gateway's intervals.
	Silence time.Duration
	// Failed is told why a connection was lost or could not be made; may be nil.
	Failed func(err error)

	attempts int
}

// RefusedError means that trying again is of no use.
type RefusedError struct {
	Status int
	Detail string
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("refused with %d: %s", e.Status, e.Detail)
}

// maxFrame is more than a gateway sends.
const maxFrame = 2 * event.MaxFrame

// Run follows the stream until the context ends, or a gateway refuses for good. All
// calls of handle come from one goroutine, and hold up the connection; frames are
// handle's to keep.
func (c *Client) Run(ctx context.Context, handle func(Frame)) error {
	if len(c.Gateways) == 0 {
		return errors.New("no gateway is given")
	}
	for _, g := range c.Gateways {
		if !strings.HasPrefix(g, "ws://") && !strings.HasPrefix(g, "wss://") {
			return fmt.Errorf("gateway %q: allowed are addresses that begin with ws:// or wss://", g)
		}
	}
	b := backoff{least: orDefault(c.LeastBackoff, 200*time.Millisecond), most: orDefault(c.MostBackoff, 20*time.Second)}
	for {
		a := &attempt{client: c, handle: handle, silence: orDefault(c.Silence, 75*time.Second)}
		err := a.run(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // that is why it has ended
		}
		if _, ok := errors.AsType[*RefusedError](err); ok {
			return err
		}
		if c.Failed != nil {
			c.Failed(err)
		}
		if !a.began.IsZero() {
			b.lasted(time.Since(a.began))
		}
		pause := b.next()
		if a.after != nil {
			pause = *a.after // the gateway spreads its clients by itself
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
	}
}

func orDefault(d, other time.Duration) time.Duration {
	if d == 0 {
		return other
	}
	return d
}

// address is that of the next attempt, under the path of a transport.
func (c *Client) address(path string) string {
	gateway := c.Gateways[c.attempts%len(c.Gateways)]
	c.attempts++
	address := strings.TrimSuffix(gateway, "/") + path + url.PathEscape(c.StreamID)
	if c.Since != "" {
		address += "?since=" + url.QueryEscape(c.Since)
	}
	return address
}

// attempt is one connection.
type attempt struct {
	client  *Client
	handle  func(Frame)
	silence time.Duration

	began time.Time      // when connected has come, if it has
	after *time.Duration // when to try again, if the gateway has said so
}

func (a *attempt) run(ctx context.Context) error {
	header := a.client.Header.Clone()
	if a.client.Token != nil {
		token, err := a.client.Token(ctx)
		if err != nil {
			return fmt.Errorf("get a token: %w", err)
		}
		if header == nil {
			header = make(http.Header)
		}
		header.Set("Authorization", "Bearer "+token)
	}
	if a.client.Events {
		return a.runEvents(ctx, header)
	}
	return a.runSocket(ctx, header)
}

// refused reads why there is no socket. What may change is an error to try again
// after.
func (a *attempt) refused(answer *http.Response) error {
	const most = 4 << 10
	text, _ := io.ReadAll(io.LimitReader(answer.Body, most)) // what came of it is better than nothing
	_ = answer.Body.Close()
	var problem struct{ Detail string }
	if json.Unmarshal(text, &problem) != nil || problem.Detail == "" {
		problem.Detail = http.StatusText(answer.StatusCode)
	}
	if !a.mayChange(answer.StatusCode) {
		return &RefusedError{answer.StatusCode, problem.Detail}
	}
	if seconds, err := strconv.Atoi(answer.Header.Get("Retry-After")); err == nil && seconds >= 0 {
		after := time.Duration(seconds)*time.Second + jitter(time.Second)
		a.after = &after
	}
	return fmt.Errorf("gateway answered with %d: %s", answer.StatusCode, problem.Detail)
}

// mayChange tells whether another attempt may have another answer.
func (a *attempt) mayChange(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return true
	case http.StatusUnauthorized:
		return a.client.Token != nil // the next one may be good
	}
	return status >= http.StatusInternalServerError // proxies have more than have names, such as 520
}

// take handles a frame.
func (a *attempt) take(text []byte) error {
	var f Frame
	if err := json.Unmarshal(text, &f); err != nil {
		return fmt.Errorf("not a frame of Telemetra: %w", err)
	}
	switch f.Type {
	case "connected":
		a.began = time.Now()
		if !f.Resumed {
			a.client.Since = "" // until the end of the state there is nothing to go on from
		}
	case "reconnect":
		after := time.Duration(f.AfterMS) * time.Millisecond
		a.after = &after
	}
	a.handle(f)
	if _, err := event.ParseID(f.ID); err == nil {
		a.client.Since = f.ID // handled: it need not come again
	}
	return nil
}
