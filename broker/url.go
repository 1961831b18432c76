package broker

import (
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"
)

const (
	urlForms   = "allowed are redis[s]://[user:password@]host[:6379][/db] and unix://[user:password@]/path[?db=n]"
	percentHow = "write each / ? # @ % of it percent-encoded (%2F %3F %23 %40 %25)"
)

// parseURL reads a URL of Redis. An error names the part that is wrong, and nothing of
// the URL but its scheme: a password that is not encoded may stand anywhere in it.
func parseURL(variable, text string) (*redis.Options, error) {
	o, err := parseRedisURL(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w; %s", variable, err, urlForms)
	}
	return o, nil
}

func parseRedisURL(text string) (*redis.Options, error) {
	scheme, rest, ok := strings.Cut(text, "://")
	if !ok || !isScheme(scheme) {
		return nil, errors.New("it has no scheme")
	}
	switch scheme {
	case "redis", "rediss", "unix":
	case "redis-sentinel", "rediss-sentinel", "redis-cluster", "rediss-cluster":
		return nil, fmt.Errorf("the scheme %s is not served by this version", scheme)
	default:
		return nil, fmt.Errorf("the scheme is %q", scheme)
	}
	if strings.ContainsAny(rest, " \t\r\n") {
		return nil, errors.New("it has a blank in it")
	}
	o := &redis.Options{}
	authority, path, query, err := split(rest)
	if err != nil {
		return nil, err
	}
	host := authority
	if at := strings.LastIndexByte(authority, '@'); at >= 0 {
		host = authority[at+1:]
		if o.Username, o.Password, err = parseUser(authority[:at]); err != nil {
			return nil, err
		}
	}
	db, err := parseQuery(query)
	if err != nil {
		return nil, err
	}
	if scheme == "unix" {
		return o, parseSocket(o, host, path, db)
	}
	return o, parseServer(o, scheme, host, path, db)
}

func isScheme(text string) bool {
	return text != "" && strings.Trim(text, "abcdefghijklmnopqrstuvwxyz0123456789+.-") == ""
}

// split cuts what stands behind the scheme as RFC 3986 does. An @ behind the host is the
// end of a password that is not encoded.
func split(rest string) (authority, path, query string, err error) {
	authority = rest
	if end := strings.IndexAny(rest, "/?#"); end >= 0 {
		authority, path = rest[:end], rest[end:]
	}
	if strings.ContainsRune(path, '@') {
		return "", "", "", errors.New("the user information is wrong: the password has a character that ends it; " + percentHow)
	}
	path, _, fragment := strings.Cut(path, "#")
	if fragment {
		return "", "", "", errors.New("it has a # in it; in a password, " + percentHow)
	}
	path, query, _ = strings.Cut(path, "?")
	return authority, path, query, nil
}

func parseUser(info string) (user, password string, err error) {
	user, password, ok := strings.Cut(info, ":")
	if !ok {
		return "", "", errors.New("the user information has no password: it is user:password@, or :password@ without a user")
	}
	if strings.ContainsRune(info, '@') {
		return "", "", errors.New("the user information is wrong: it has an @ in it; " + percentHow)
	}
	user, err1 := url.PathUnescape(user)
	password, err2 := url.PathUnescape(password)
	if err1 != nil || err2 != nil {
		return "", "", errors.New("the user information is wrong: a % in it begins no percent-encoded character; " + percentHow)
	}
	if password == "" {
		return "", "", errors.New("the password in the user information is empty")
	}
	return user, password, nil
}

// parseQuery reads the number of the database; "": none is named.
func parseQuery(query string) (db string, err error) {
	values, err := url.ParseQuery(query)
	if err != nil {
		return "", errors.New("the query cannot be read; allowed in it is db=n, and in a password, " + percentHow)
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if name != "db" || len(values[name]) != 1 {
			return "", errors.New("the query has an unknown or repeated parameter; allowed in it is db=n, and in a password, " + percentHow)
		}
	}
	return values.Get("db"), nil
}

func parseServer(o *redis.Options, scheme, host, path, db string) (err error) {
	const defaultPort = "6379"
	name, port := host, defaultPort
	switch {
	case host == "", host[0] == ':' && !strings.Contains(host[1:], ":"):
		return errors.New("the host is missing")
	case strings.HasPrefix(host, "["):
		end := strings.IndexByte(host, ']')
		if end < 0 || net.ParseIP(host[1:end]) == nil {
			return errors.New("the host in brackets is no IPv6 address")
		}
		name, port = host[1:end], strings.TrimPrefix(host[end+1:], ":")
		if host[end+1:] == "" {
			port = defaultPort
		}
	case strings.Count(host, ":") > 1:
		return errors.New("the host has several colons: an IPv6 address stands in brackets")
	case strings.Contains(host, ":"):
		name, port, _ = strings.Cut(host, ":")
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return errors.New("the port is no number from 1 to 65535; in a password, " + percentHow)
	}
	if strings.ContainsAny(name, `%,\"<>^{|}`) {
		return errors.New("the host has a character that no host has")
	}
	number := strings.TrimPrefix(path, "/")
	if number != "" && db != "" {
		return errors.New("the db is named twice, in path and query")
	}
	if o.DB, err = parseDB(number + db); err != nil {
		return err
	}
	o.Network, o.Addr = "tcp", net.JoinHostPort(name, port)
	if scheme == "rediss" {
		o.TLSConfig = &tls.Config{ServerName: name, MinVersion: tls.VersionTLS12}
	}
	return nil
}

func parseSocket(o *redis.Options, host, path, db string) (err error) {
	if host != "" {
		return errors.New("the host of unix:// is not empty: the path of the socket begins with /")
	}
	if path, err = url.PathUnescape(path); err != nil || len(path) < 2 {
		return errors.New("the path of the socket is missing or cannot be read")
	}
	if o.DB, err = parseDB(db); err != nil {
		return err
	}
	o.Network, o.Addr = "unix", path
	return nil
}

func parseDB(digits string) (int, error) {
	if digits == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(digits, 10, 31)
	if err != nil {
		return 0, errors.New("the db is no number from 0 on; in a password, " + percentHow)
	}
	return int(n), nil
}
