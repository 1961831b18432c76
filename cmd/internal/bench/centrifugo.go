package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/telemetra/telemetra/deploy/local"
)

// centrifugoLive is where a client of Centrifugo follows the stream. Of its WebSockets the
// unidirectional one asks the least of it: a client says in the address what it follows,
// answers nothing, and each event is a frame with the shortest envelope.
var centrifugoLive = "/connection/uni_websocket?cf_connect=" + url.QueryEscape(`{"subs":{"`+socketStream+`":{}}}`)

// centrifugoConfig is a Centrifugo on the Redis that the gateway has, so that both
// get events the same way. It has no limits, no history and no log of what it does, and
// the buffers that cost it the least memory, which cost it no CPU time. What protects it
// from slow clients is as it comes, and so is that of the gateway.
func centrifugoConfig(port int, redis string) ([]byte, error) {
	type object map[string]any
	return json.Marshal(object{
		"http_server":   object{"address": "127.0.0.1", "port": strconv.Itoa(port)},
		"log":           object{"level": "error"},
		"engine":        object{"type": "redis", "redis": object{"address": []string{redis}}},
		"client":        object{"insecure": true, "ping_interval": "1h"},                                 // no pings meanwhile, as of the gateway
		"uni_websocket": object{"enabled": true, "use_write_buffer_pool": true, "read_buffer_size": 512}, // bytes, as those of the gateway
		"http_api":      object{"insecure": true},
		"usage_stats":   object{"disabled": true},
		// To read what memory it holds.
		"debug":      object{"enabled": true},
		"prometheus": object{"enabled": true},
	})
}

// startCentrifugo runs a Centrifugo.
func (b *bench) startCentrifugo(ctx context.Context, program string) (*process, error) {
	port, err := local.FreePort()
	if err != nil {
		return nil, err
	}
	config, err := centrifugoConfig(port, b.redis.URL())
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "telemetra-bench-*")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }() // it is read at the start
	file := filepath.Join(dir, "config.json")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		return nil, err
	}
	address := local.Address(port)
	p, err := local.StartProcess(ctx, local.ProcessConfig{
		Program: program, Args: []string{"--config=" + file},
		Ready: func(ctx context.Context) error {
			conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
			if err != nil {
				return err
			}
			return conn.Close()
		},
	})
	if err != nil {
		return nil, err
	}
	p.Addr = address
	return &process{p, "centrifugo"}, nil
}

// publisher publishes the same JSON again and again by the HTTP API of Centrifugo.
type publisher struct {
	client http.Client
	url    string
	body   []byte
}

// newPublisher publishes to a channel.
func newPublisher(address, channel string, data []byte) (*publisher, error) {
	body, err := json.Marshal(struct {
		Channel string          `json:"channel"`
		Data    json.RawMessage `json:"data"`
	}{channel, data})
	return &publisher{client: http.Client{Transport: &http.Transport{IdleConnTimeout: time.Second}}, url: "http://" + address + "/api/publish", body: body}, err
}

// publish waits for the answer. That of an error has the status 200, too.
func (p *publisher) publish(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url, bytes.NewReader(p.body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := p.client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }() // it is read to its end
	answer, err := io.ReadAll(res.Body)
	if err == nil && (res.StatusCode != http.StatusOK || bytes.Contains(answer, []byte(`"error"`))) {
		err = fmt.Errorf("the publication is answered with %s: %s", res.Status, answer)
	}
	return err
}
