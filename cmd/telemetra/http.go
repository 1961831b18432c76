package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	stdlog "log"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/julienschmidt/httprouter"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/rs/zerolog"

	"github.com/telemetra/telemetra/httpapi/problem"
	"github.com/telemetra/telemetra/httpapi/router"
	"github.com/telemetra/telemetra/wsgateway/access"
)

type httpConfig struct {
	Host string `env:"HOST" default:"0.0.0.0" help:"Address to listen on."`
	Port int    `env:"PORT" default:"8000" help:"Port to listen on; 0 takes a free one."`

	accessConfig `embed:""`
}

// accessConfig says how clients may connect, and who may read. Every command that serves
// takes it.
type accessConfig struct {
	TLSCert string        `name:"tls-cert" env:"TLS_CERT" help:"File of the certificate chain; with it, TLS is spoken."`
	TLSKey  string        `name:"tls-key" env:"TLS_KEY" help:"File of the certificate's key."`
	Access  access.Config `embed:""`
}

// hostName is a name that may stand for an address of this machine.
var hostName = regexp.MustCompile(`^[0-9A-Za-z._-]*$`)

// validate names the settings that cannot work on any machine; whether one can be
// listened on shows when it is.
func (c *httpConfig) validate() error {
	errs := []error{c.accessConfig.validate()}
	if _, err := netip.ParseAddr(c.Host); err != nil && !hostName.MatchString(c.Host) {
		errs = append(errs, fmt.Errorf("HOST is %q; allowed are addresses of this machine, such as 127.0.0.1, 0.0.0.0 or ::, and their names, without PORT", c.Host))
	}
	if c.Port < 0 || c.Port > 65535 {
		errs = append(errs, fmt.Errorf("PORT is %d; allowed are 0 to 65535", c.Port))
	}
	return errors.Join(errs...)
}

func (c *accessConfig) validate() error {
	if (c.TLSCert == "") != (c.TLSKey == "") {
		return errors.Join(errors.New("TLS_CERT and TLS_KEY must be set together"), c.Access.Validate())
	}
	return c.Access.Validate()
}

// certificate reads the files of TLS_CERT and TLS_KEY; nil without them.
func (c *accessConfig) certificate() (*tls.Certificate, error) {
	if c.TLSCert == "" || c.TLSKey == "" {
		return nil, nil //nolint:nilnil // no certificate is no error
	}
	pair, err := tls.LoadX509KeyPair(c.TLSCert, c.TLSKey)
	if err != nil {
		return nil, fmt.Errorf("TLS_CERT and TLS_KEY: %w", err)
	}
	return &pair, nil
}

// Bounds against clients that are slow or mean.
const (
	// readTimeout is for the header and for all: there are no bodies, and with one deadline
	// for both net/http sets one less for each request.
	readTimeout     = 5 * time.Second
	writeTimeout    = 30 * time.Second
	idleTimeout     = 2 * time.Minute
	maxHeaderBytes  = 16 << 10
	shutdownTimeout = 5 * time.Second
)

// httpServer is the one HTTP server of a process.
type httpServer struct {
	// Router gets the routes of the services.
	Router *router.Router

	listener net.Listener
	server   *http.Server
	checks   []readiness
	warnings []func() string
	stopping atomic.Bool
}

// readiness is one reason why a process may not be ready.
type readiness struct {
	name  string
	check func() error
}

// newHTTPServer binds the address; Run serves.
func newHTTPServer(ctx context.Context, c *httpConfig, log zerolog.Logger, registry *prometheus.Registry) (*httpServer, error) {
	origins, err := c.Access.Origins()
	if err != nil {
		return nil, err
	}
	proxies, err := c.Access.Proxies()
	if err != nil {
		return nil, err
	}
	cert, err := c.certificate()
	if err != nil {
		return nil, err
	}
	address := net.JoinHostPort(c.Host, strconv.Itoa(c.Port))
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen on HOST and PORT: %w", err)
	}
	var secure *tls.Config
	if cert != nil {
		secure = &tls.Config{Certificates: []tls.Certificate{*cert}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
	}
	s := &httpServer{Router: router.New(log, registry, origins.CORS), listener: router.Listen(l, secure)}
	s.Router.ClientIP = proxies.ClientIP
	s.server = &http.Server{
		Handler:           s.Router,
		ReadHeaderTimeout: readTimeout, ReadTimeout: readTimeout, WriteTimeout: writeTimeout,
		IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeaderBytes,
		ConnState: router.NewConnections(openFiles(), access.Network, registry).Changed,
		ErrorLog:  stdlog.New(&serverLog{log: log.With().Str("component", "http").Logger()}, "", 0),
	}
	s.Router.GET("/health", s.serveHealth)
	s.Router.GET("/readyz", s.serveReady)
	s.Router.GET("/metrics", handle(promhttp.HandlerFor(registry, promhttp.HandlerOpts{Registry: registry})))
	return s, nil
}

// openFiles is how many files the process may have open.
func openFiles() uint64 {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		const usual = 1024
		return usual
	}
	return uint64(limit.Cur)
}

// serverLog logs the lines of net/http: most are about broken handshakes. That no connection can be
// accepted is a warning, every ten seconds at most.
type serverLog struct {
	log zerolog.Logger

	mu   sync.Mutex
	last time.Time // when operators were told
}

// Write is called for each line.
func (s *serverLog) Write(line []byte) (int, error) {
	text := strings.TrimSpace(string(line))
	level := zerolog.DebugLevel
	if strings.Contains(text, "Accept error") {
		const again = 10 * time.Second
		s.mu.Lock()
		if time.Since(s.last) > again {
			s.last, level = time.Now(), zerolog.WarnLevel
		}
		s.mu.Unlock()
	}
	s.log.WithLevel(level).Msg(text)
	return len(line), nil
}

// handle makes a handler a route of its own.
func handle(h http.Handler) httprouter.Handle {
	return func(w http.ResponseWriter, r *http.Request, _ httprouter.Params) { h.ServeHTTP(w, r) }
}

// ready adds a reason why the process may not be ready.
func (s *httpServer) ready(name string, check func() error) {
	s.checks = append(s.checks, readiness{name, check})
}

// warn adds something that operators should know of a process that is ready all the
// same; f returns "" when there is nothing.
func (s *httpServer) warn(f func() string) { s.warnings = append(s.warnings, f) }

// Addr is where it listens.
func (s *httpServer) Addr() string { return s.listener.Addr().String() }

// Run serves until the context ends, and lets requests that run finish.
func (s *httpServer) Run(ctx context.Context) error {
	failed := make(chan error, 1)
	go func() { failed <- s.server.Serve(s.listener) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	s.stopping.Store(true)
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	err := s.server.Shutdown(bounded)
	if served := <-failed; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

// Close closes the address if Run never did.
func (s *httpServer) Close() error {
	if err := s.listener.Close(); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

func (s *httpServer) serveHealth(w http.ResponseWriter, _ *http.Request, _ httprouter.Params) {
	writeJSON(w, map[string]string{"status": "ok"})
}

func (s *httpServer) serveReady(w http.ResponseWriter, _ *http.Request, _ httprouter.Params) {
	if why := s.notReady(); why != "" {
		problem.Write(w, http.StatusServiceUnavailable, why)
		return
	}
	writeJSON(w, struct {
		Status   string   `json:"status"`
		Warnings []string `json:"warnings,omitempty"`
	}{"ready", s.warns()})
}

// notReady is why a load balancer should send nobody, or "".
func (s *httpServer) notReady() string {
	if s.stopping.Load() {
		return "draining"
	}
	for _, c := range s.checks {
		if err := c.check(); err != nil {
			return c.name + ": " + err.Error()
		}
	}
	return ""
}

// warns are the warnings that hold.
func (s *httpServer) warns() (texts []string) {
	for _, warning := range s.warnings {
		if text := warning(); text != "" {
			texts = append(texts, text)
		}
	}
	return texts
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(v) // the client has gone
}
