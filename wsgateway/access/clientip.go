package access

import (
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// ClientIP is the address that a request comes from: the peer's, or, when that is a
// trusted proxy, the last one in X-Forwarded-For that is not. What stands before it
// may be made up. An element that names no address ends the way back: the proxy that
// has written it stands for its clients. The zero address means that the peer has none,
// as over a socket of the file system; nothing that it says is believed.
func (p Proxies) ClientIP(r *http.Request) netip.Addr {
	addr, ok := parseHop(r.RemoteAddr)
	if !ok || !p.trusts(addr) {
		return addr
	}
	for _, line := range slices.Backward(r.Header.Values("X-Forwarded-For")) {
		for rest, more := line, true; more; {
			var hop string
			rest, hop, more = cutLast(rest, ",")
			if !more {
				hop = rest
			}
			if hop = strings.Trim(hop, " \t"); hop == "" { // RFC 9110 section 5.6.1.2
				continue
			}
			next, ok := parseHop(hop)
			if !ok {
				return addr
			}
			if addr = next; !p.trusts(addr) {
				return addr
			}
		}
	}
	return addr
}

// parseHop reads an address as peers are named, and as proxies write it: alone, with a
// port, in brackets, in quotes, with a zone, v4-mapped. The same client is the same
// address, however it is written.
func parseHop(text string) (addr netip.Addr, ok bool) {
	if len(text) > 1 && text[0] == '"' && text[len(text)-1] == '"' {
		text = text[1 : len(text)-1]
	}
	addr, err := netip.ParseAddr(text)
	if err != nil {
		host, port := text, ""
		if inner, found := strings.CutPrefix(text, "["); found {
			host, port, found = strings.Cut(inner, "]")
			if !found || !strings.Contains(host, ":") {
				return netip.Addr{}, false
			}
		} else if at := strings.IndexByte(text, ':'); at >= 0 {
			host, port = text[:at], text[at:]
		}
		if port != "" && !isPort(port) {
			return netip.Addr{}, false
		}
		if addr, err = netip.ParseAddr(host); err != nil {
			return netip.Addr{}, false
		}
	}
	return addr.Unmap().WithZone(""), true
}

// isPort takes a port with its colon.
func isPort(text string) bool {
	if text[0] != ':' {
		return false
	}
	_, err := strconv.ParseUint(text[1:], 10, 16)
	return err == nil
}
