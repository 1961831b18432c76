package doctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// otherFiles is what a process has open beside sockets of clients and the pool:
// Redis, requests of REST, the program itself.
const otherFiles = 500

// openFiles looks at the limit of this process. Go raises the soft limit to the hard
// one when a program starts, so the hard one counts.
func (d *doctor) openFiles(context.Context) verdict {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return unknown(err.Error())
	}
	return judgeFiles(uint64(limit.Max), d.config.Sockets, int(d.config.Postgres.PoolMax))
}

func judgeFiles(hard uint64, sockets, pool int) verdict {
	need := uint64(sockets + pool + otherFiles) //nolint:gosec // none is negative
	found := fmt.Sprintf("up to %d files here", hard)
	switch {
	case hard < need && sockets == 0:
		return warning(found+", which leaves none for sockets", "set LimitNOFILE=65536 in the unit of systemd, or run before the start: ulimit -n 65536")
	case hard < need:
		return warning(fmt.Sprintf("%s, and WS_MAX_CONNECTIONS=%d needs %d", found, sockets, need),
			fmt.Sprintf("set LimitNOFILE=%[1]d in the unit of systemd, or run before the start: ulimit -n %[1]d; or lower WS_MAX_CONNECTIONS", need))
	case sockets == 0:
		return ok("%s, and no limit of sockets", found)
	}
	return ok("%s, enough for %d sockets", found, sockets)
}

// renewed is how long before its end a certificate should have been replaced. Programs
// that do so begin a month before.
const renewed = 14 * 24 * time.Hour

// certificate looks at the files; a process reads them when it starts.
func (d *doctor) certificate(context.Context) verdict {
	const renew = "renew the certificate and restart gateways and api, which read it when they start"
	pair, err := tls.LoadX509KeyPair(d.config.TLSCert, d.config.TLSKey)
	if err != nil {
		return failed(err.Error(), "correct TLS_CERT and TLS_KEY: the files of a certificate chain and of the key of its first certificate, in PEM")
	}
	var from, until time.Time // of the whole chain
	for i, der := range pair.Certificate {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return failed(fmt.Sprintf("certificate %d of TLS_CERT: %v", i+1, err), renew)
		}
		if c.NotBefore.After(from) {
			from = c.NotBefore
		}
		if i == 0 || c.NotAfter.Before(until) {
			until = c.NotAfter
		}
	}
	const day = "2006-01-02 15:04 MST"
	switch left := time.Until(until); {
	case left <= 0:
		return failed("expired at "+until.Format(day)+": no client connects", renew)
	case time.Until(from) > 0:
		return failed("not valid before "+from.Format(day), "correct the clock of this machine, or take another certificate")
	case left < renewed:
		return warning("expires at "+until.Format(day), renew)
	}
	return ok("valid until %s", until.Format(day))
}

func (d *doctor) tokens(context.Context) verdict {
	if d.config.OpenReads {
		return warning("reads are open: every client can read every stream without a token",
			"set AUTH_JWT_SECRET or AUTH_JWKS_URL for gateways and api, unless everybody may read; see Who may read in the README")
	}
	return ok("reads want one")
}

func (d *doctor) proxies(context.Context) verdict {
	if d.config.AllProxies {
		return warning("TRUSTED_PROXIES has every address: each client can make up its own by X-Forwarded-For, and escape the limits for one address",
			"name the addresses of your load balancers only")
	}
	return ok("%d addresses and networks", d.config.Proxies)
}

func (d *doctor) tokenKeys(ctx context.Context) verdict {
	usable, unusable, err := d.config.FetchKeys(ctx)
	switch {
	case err != nil:
		return failed("the keys of AUTH_JWKS_URL cannot be fetched, so a gateway that starts now refuses everybody: "+err.Error(),
			"make the address reachable from the machines of gateways and api, or correct AUTH_JWKS_URL")
	case usable == 0:
		return failed(fmt.Sprintf("AUTH_JWKS_URL has no key that can serve (%d of other kinds)", unusable), "let the issuer publish keys for RS256, ES256 or EdDSA, or correct AUTH_JWKS_URL")
	}
	return ok("%d can serve, %d cannot", usable, unusable)
}

// reachable bounds the wait for one origin; all are tried at the same time.
const reachable = 3 * time.Second

// origins looks for mistakes in CORS_ORIGINS: a name that does not exist, or where
// nothing listens. Who is behind it is a matter of browsers, which may be in another
// network, so it is a warning; and a page of localhost is on the user's machine.
func (d *doctor) origins(ctx context.Context) verdict {
	var (
		wg     sync.WaitGroup
		faults = make([]string, len(d.config.Origins))
	)
	for i, origin := range d.config.Origins {
		wg.Go(func() {
			if err := d.reach(ctx, origin); err != nil {
				faults[i] = fmt.Sprintf("%s: %v", origin, err)
			}
		})
	}
	wg.Wait()
	n := len(faults)
	if faults = slices.DeleteFunc(faults, func(f string) bool { return f == "" }); len(faults) > 0 {
		return warning("from here nothing answers at "+strings.Join(faults, "; "), "correct the origin in CORS_ORIGINS, as the browser's address line shows it; if only browsers can reach it, all is well")
	}
	return ok("%d, all can be reached from here", n)
}

// reach connects to an origin, unless it is the machine of whoever looks at it.
func (d *doctor) reach(ctx context.Context, origin string) error {
	u, err := url.Parse(origin)
	if err != nil {
		return err
	}
	host, port := u.Hostname(), u.Port()
	if ip := net.ParseIP(host); host == "localhost" || strings.HasSuffix(host, ".localhost") || ip != nil && ip.IsLoopback() {
		return nil
	}
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	ctx, cancel := context.WithTimeout(ctx, reachable)
	defer cancel()
	conn, err := d.dial(ctx, "tcp", net.JoinHostPort(host, port))
	if err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			return fmt.Errorf("no answer within %s", reachable)
		}
		return err
	}
	return conn.Close()
}
