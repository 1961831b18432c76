package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"
)

// healthcheckCmd asks the process on this machine how it is, for images without a
// shell or curl. It finds it by the variables that the process itself takes.
type healthcheckCmd struct {
	Host    string        `env:"HOST" default:"0.0.0.0" help:"Address on which the process listens; all addresses means the loopback."`
	Port    int           `env:"PORT" default:"8000" help:"Port on which the process listens."`
	TLSCert string        `name:"tls-cert" env:"TLS_CERT" help:"File of the process' certificate chain; when it is set, TLS is spoken."`
	Path    string        `default:"/readyz" enum:"/readyz,/health" help:"What to ask for: whether it is ready for traffic, or only whether it lives (${enum})."`
	Timeout time.Duration `default:"3s" help:"How long to wait for the answer."`
}

// Run asks. The error, and with it the exit code 1, says why it is not well.
func (c *healthcheckCmd) Run(ctx context.Context, out output) error {
	switch {
	case c.Port < 1 || c.Port > 65535:
		return fmt.Errorf("PORT is %d; allowed are 1 to 65535", c.Port)
	case c.Timeout <= 0:
		return fmt.Errorf("--timeout is %s; allowed is more than 0", c.Timeout)
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	status, body, err := c.ask(ctx)
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		var said struct{ Detail string }
		if json.Unmarshal(body, &said) != nil || said.Detail == "" {
			said.Detail = http.StatusText(status)
		}
		return fmt.Errorf("%s: %d: %s", c.Path, status, said.Detail)
	}
	_, err = fmt.Fprintf(out, "%s\n", body)
	return err
}

func (c *healthcheckCmd) ask(ctx context.Context) (status int, body []byte, err error) {
	transport := &http.Transport{
		DisableKeepAlives: true,
		// The name of the certificate is that of the public address. This is the loopback,
		// or an address of this machine, and nothing secret is said.
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // as above
	}
	client := http.Client{
		Transport:     transport, // none of a proxy
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url(), http.NoBody)
	if err != nil {
		return 0, nil, err
	}
	res, err := client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = res.Body.Close() }() // what counts has been read
	const enough = 4 << 10
	body, err = io.ReadAll(io.LimitReader(res.Body, enough))
	return res.StatusCode, bytes.TrimSpace(body), err
}

// url is where the process answers on this machine.
func (c *healthcheckCmd) url() string {
	scheme, host := "http", c.Host
	if c.TLSCert != "" {
		scheme = "https"
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1" // also for ::, which takes both families
	}
	return scheme + "://" + net.JoinHostPort(host, strconv.Itoa(c.Port)) + c.Path
}
