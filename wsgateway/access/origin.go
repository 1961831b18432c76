package access

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/net/idna"
)

// origin is where a page comes from, in the form in which browsers send it (RFC 6454
// section 6.2 and the URL standard, https://url.spec.whatwg.org/#concept-url-origin):
// lower case, Punycode, no port where it is that of the scheme. Two origins are the same
// if they are equal.
type origin struct {
	scheme, host string
	port         string // "": that of the scheme
}

func (o origin) String() string {
	if o.port != "" {
		return o.scheme + "://" + o.host + ":" + o.port
	}
	return o.scheme + "://" + o.host
}

// isWeb reports whether the origin is one of a server, and not of an app.
func (o origin) isWeb() bool { return defaultPorts[o.scheme] != "" }

// isAddress reports whether the host is one of IPv4 or IPv6.
func (o origin) isAddress() bool {
	_, err := netip.ParseAddr(o.host)
	return err == nil || o.host[0] == '['
}

// defaultPorts are those that browsers leave out. A scheme without one is an app's,
// such as capacitor:// or chrome-extension://.
var defaultPorts = map[string]string{"http": "80", "https": "443"}

// maxOrigin bounds what is parsed: a host has up to 253 bytes, more before Punycode.
const maxOrigin = 512

// badOrigin is why no browser sends a text as an origin.
type badOrigin struct {
	fault   string
	instead string // what was probably meant, or ""
}

func (b *badOrigin) String() string {
	if b.instead == "" {
		return b.fault
	}
	return fmt.Sprintf("%s; write %s", b.fault, b.instead)
}

// parseOrigin reads an origin, or returns why it is none, which shows no user and no
// password.
func parseOrigin(text string) (origin, *badOrigin) {
	if len(text) > maxOrigin {
		return origin{}, &badOrigin{fault: fmt.Sprintf("it has more than %d bytes", maxOrigin)}
	}
	scheme, rest, ok := strings.Cut(text, "://")
	if !ok {
		return origin{}, &badOrigin{"it has no scheme", guess("https://" + text)}
	}
	o := origin{scheme: strings.ToLower(scheme)}
	if bad := checkScheme(o.scheme, rest); bad != nil {
		return origin{}, bad
	}
	authority, part := rest, ""
	if end := strings.IndexAny(rest, `/\?#`); end >= 0 {
		authority, part = rest[:end], partNames[rest[end]]
	}
	user, hostPort, hasUser := cutLast(authority, "@")
	if !hasUser {
		hostPort = user
	}
	host, port, bad := splitPort(hostPort)
	if bad == nil {
		o.host, bad = o.parseHost(host)
	}
	if bad == nil {
		o.port, bad = o.parsePort(port)
	}
	switch {
	case bad != nil:
		return origin{}, bad
	case hasUser:
		return origin{}, &badOrigin{"an origin has no user", o.String()}
	case part != "":
		return origin{}, &badOrigin{"an origin has no " + part, o.String()}
	}
	return o, nil
}

// partNames are what begins behind the host, by its first character.
var partNames = map[byte]string{'/': "path, and no slash at the end", '\\': "backslash", '?': "query", '#': "fragment"}

// guess returns a text as an origin, or "" if it is none either.
func guess(text string) string {
	o, bad := parseOrigin(text)
	if bad != nil {
		return ""
	}
	return o.String()
}

// cutLast is strings.Cut at the last separator. Without one all is before it.
func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// noOrigin are schemes whose pages have no origin of their own, or that have no pages:
// browsers send null for them, or nothing.
var noOrigin = map[string]string{
	"file": "browsers send null for files, which stands for any file and any sandboxed frame; serve the page by http",
	"data": "browsers send null for it", "about": "browsers send null for it", "javascript": "it has no pages",
	"blob": "browsers send the origin of the page that made it", "filesystem": "browsers send the origin of the page that made it",
	"ftp": "browsers show no pages of it", "ftps": "browsers show no pages of it",
	"ws": "it is of sockets, and pages have that of the page", "wss": "it is of sockets, and pages have that of the page",
}

// checkScheme takes a scheme in lower case (RFC 3986 section 3.1), and what follows it.
func checkScheme(scheme, rest string) *badOrigin {
	for i, c := range []byte(scheme) {
		letter, later := 'a' <= c && c <= 'z', '0' <= c && c <= '9' || c == '+' || c == '-' || c == '.'
		if c == '*' {
			return &badOrigin{fault: "a wildcard stands for the first labels of a host, not for a scheme"}
		}
		if !letter && (i == 0 || !later) {
			return &badOrigin{fault: "its scheme has characters that no scheme has"}
		}
	}
	why, none := noOrigin[scheme]
	switch {
	case scheme == "":
		return &badOrigin{"it has no scheme", guess("https://" + rest)}
	case !none:
		return nil
	case scheme == "ws":
		return &badOrigin{"no page has the scheme ws: " + why, guess("http://" + rest)}
	case scheme == "wss":
		return &badOrigin{"no page has the scheme wss: " + why, guess("https://" + rest)}
	}
	return &badOrigin{fault: "no page has the scheme " + scheme + ": " + why}
}

// splitPort takes host and port apart. A port that begins is one, also when it is empty.
func splitPort(hostPort string) (host, port string, bad *badOrigin) {
	if strings.HasPrefix(hostPort, "[") {
		end := strings.IndexByte(hostPort, ']')
		if end < 0 {
			return "", "", &badOrigin{fault: "its IPv6 address has no closing bracket"}
		}
		host, port = hostPort[:end+1], hostPort[end+1:]
		if port != "" && port[0] != ':' {
			return "", "", &badOrigin{fault: "behind its IPv6 address is no port"}
		}
		return host, port, nil
	}
	if strings.Count(hostPort, ":") > 1 {
		if addr, err := netip.ParseAddr(hostPort); err == nil {
			return "", "", &badOrigin{fault: fmt.Sprintf("an IPv6 address stands in brackets, as [%s]", addr.WithZone(""))}
		}
	}
	if at := strings.IndexByte(hostPort, ':'); at >= 0 {
		return hostPort[:at], hostPort[at:], nil
	}
	return hostPort, "", nil
}

// parsePort takes a port with its colon, or nothing.
func (o origin) parsePort(text string) (string, *badOrigin) {
	if text == "" {
		return "", nil
	}
	digits := text[1:]
	n, err := strconv.ParseUint(digits, 10, 16)
	if err != nil || n == 0 {
		return "", &badOrigin{fmt.Sprintf("%q is no port, which is a number from 1 to 65535", digits), o.String()}
	}
	port := strconv.FormatUint(n, 10)
	if port == defaultPorts[o.scheme] {
		return "", nil
	}
	return port, nil
}

func (o origin) parseHost(host string) (string, *badOrigin) {
	switch {
	case host == "":
		return "", &badOrigin{fault: "it has no host"}
	case strings.Contains(host, "*"):
		return "", &badOrigin{fault: "a wildcard stands for the first labels of a host, as in https://*.example.com, and for nothing else"}
	case host[0] == '[':
		return parseIPv6(host)
	case o.isWeb():
		return parseDomain(host)
	}
	for _, c := range []byte(host) { // of an app: a name that means something to it alone
		if c <= ' ' || c > '~' || strings.IndexByte(`"<>^|%[],`+"`", c) >= 0 {
			return "", &badOrigin{fault: "its host has characters that no browser sends"}
		}
	}
	return strings.ToLower(host), nil
}

// parseIPv6 writes an address in brackets as browsers do: v4-mapped ones have no dots.
func parseIPv6(host string) (string, *badOrigin) {
	addr, err := netip.ParseAddr(strings.Trim(host, "[]"))
	switch {
	case err != nil || !addr.Is6():
		return "", &badOrigin{fault: "in its brackets is no IPv6 address"}
	case addr.Zone() != "":
		return "", &badOrigin{fault: "browsers send no zone of an IPv6 address"}
	case addr.Is4In6():
		b := addr.As16()
		return fmt.Sprintf("[::ffff:%x:%x]", uint(b[12])<<8|uint(b[13]), uint(b[14])<<8|uint(b[15])), nil
	}
	return "[" + addr.String() + "]", nil
}

// lookup is how browsers turn a name into ASCII (UTS 46, not transitional), except that
// they let labels be longer than a name server can have them.
var lookup = idna.New(idna.MapForLookup(), idna.Transitional(false), idna.StrictDomainName(false), idna.CheckHyphens(false), idna.BidiRule(), idna.CheckJoiners(true))

// Bounds of a name, RFC 1035 section 2.3.4.
const maxLabel, maxName = 63, 253

// parseDomain writes a name in ASCII, or an IPv4 address.
func parseDomain(host string) (string, *badOrigin) {
	name, err := lookup.ToASCII(host)
	if err == nil && name != host { // it may hold what no name does, and is found in Punycode only
		_, err = lookup.ToASCII(name)
	}
	if err != nil {
		return "", &badOrigin{fault: "its host is no name of a server"}
	}
	labels := strings.Split(strings.TrimSuffix(name, "."), ".")
	for _, label := range labels {
		if bad := checkLabel(label); bad != nil {
			return "", bad
		}
	}
	if len(name) > maxName {
		return "", &badOrigin{fault: fmt.Sprintf("its host has more than %d bytes", maxName)}
	}
	if isNumber(labels[len(labels)-1]) { // then browsers take it for an address
		addr, err := netip.ParseAddr(name)
		if err != nil {
			return "", &badOrigin{fault: "its host is no IPv4 address, of which browsers send all four numbers, as 192.0.2.7"}
		}
		return addr.String(), nil
	}
	return name, nil
}

func checkLabel(label string) *badOrigin {
	switch {
	case label == "":
		return &badOrigin{fault: "its host has an empty label"}
	case len(label) > maxLabel:
		return &badOrigin{fault: fmt.Sprintf("its host has a label of more than %d bytes", maxLabel)}
	}
	if foreign := strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_"); foreign != "" {
		return &badOrigin{fault: fmt.Sprintf("its host has %q, which no name of a server has", foreign[0])}
	}
	return nil
}

// isNumber reports whether a label is one of an IPv4 address to browsers:
// https://url.spec.whatwg.org/#ends-in-a-number-checker
func isNumber(label string) bool {
	if strings.Trim(label, "0123456789") == "" {
		return true
	}
	hex, ok := strings.CutPrefix(label, "0x")
	return ok && strings.Trim(hex, "0123456789abcdef") == ""
}
