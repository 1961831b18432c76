package client

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// eventsClient keeps no connection for the next request: there is none.
var eventsClient = http.Client{Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true}}

var errSilent = errors.New("the gateway is silent")

// runEvents is an attempt over Server-Sent Events.
// https://html.spec.whatwg.org/multipage/server-sent-events.html
func (a *attempt) runEvents(ctx context.Context, header http.Header) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	silence := time.AfterFunc(a.silence, func() { stop(errSilent) })
	defer silence.Stop()

	// The other schemes of the same port: gateways are given as those of WebSockets.
	address := "http" + strings.TrimPrefix(a.client.address("/sse/live/"), "ws")
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, http.NoBody)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	if header != nil {
		req.Header = header
	}
	// A refusal is to be a status and a problem: a client that accepts only events gets 200 and none.
	req.Header.Set("Accept", "text/event-stream, application/problem+json")
	answer, err := eventsClient.Do(req)
	if err != nil {
		return fmt.Errorf("connect: %w", causeOr(ctx, err))
	}
	if answer.StatusCode != http.StatusOK {
		return a.refused(answer)
	}
	err = a.readEvents(answer.Body, func() { silence.Reset(a.silence) })
	_ = answer.Body.Close() // it is read to its end, or given up
	return causeOr(ctx, err)
}

// causeOr returns why the context has ended, if it has, else err.
func causeOr(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// readEvents takes events until the connection ends. heard is called at each sign.
func (a *attempt) readEvents(body io.Reader, heard func()) error {
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, maxFrame)
	var data []byte
	for lines.Scan() {
		heard()
		line := lines.Bytes()
		if len(line) == 0 { // the end of an event
			if data == nil {
				continue
			}
			if err := a.take(data); err != nil {
				return err
			}
			data = nil
			continue
		}
		// Type and id stand in the frame, too; a comment only says that the line lives.
		if text, ok := bytes.CutPrefix(line, []byte("data:")); ok {
			text = bytes.TrimPrefix(text, []byte{' '})
			if data != nil {
				data = append(data, '\n')
			}
			data = append(data, text...)
		}
	}
	if err := lines.Err(); err != nil {
		return err
	}
	return io.EOF
}
