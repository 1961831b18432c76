package access

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// Proxies are the addresses whose X-Forwarded-For is believed.
type Proxies []netip.Prefix

// ParseProxies reads TRUSTED_PROXIES: addresses and networks, comma separated.
func ParseProxies(setting string) (Proxies, error) {
	if strings.TrimSpace(setting) == "" {
		return nil, nil
	}
	var out Proxies
	for part := range strings.SplitSeq(setting, ",") {
		part = strings.TrimSpace(part)
		if addr, err := netip.ParseAddr(part); err == nil {
			out = append(out, netip.PrefixFrom(addr.Unmap(), addr.Unmap().BitLen()))
			continue
		}
		prefix, err := netip.ParsePrefix(part)
		if err != nil {
			return nil, fmt.Errorf("TRUSTED_PROXIES has %q; allowed are addresses and networks such as 10.0.0.7 or 10.0.0.0/8", part)
		}
		out = append(out, prefix.Masked())
	}
	return out, nil
}

func (p Proxies) trusts(addr netip.Addr) bool {
	return slices.ContainsFunc(p, func(network netip.Prefix) bool { return network.Contains(addr) })
}

// ClientIP is the address that a request comes from: the peer's, or, when that is a
// trusted proxy, the last one in X-Forwarded-For that is not. What stands before it
// may be made up. The zero address means that the peer has none, as over a socket
// of the file system.
func (p Proxies) ClientIP(r *http.Request) netip.Addr {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return netip.Addr{}
	}
	addr = addr.Unmap().WithZone("")
	if !p.trusts(addr) {
		return addr
	}
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for _, hop := range slices.Backward(hops) {
		next, err := netip.ParseAddr(strings.TrimSpace(hop))
		if err != nil {
			return addr // a proxy of ours wrote what nobody can read
		}
		if addr = next.Unmap().WithZone(""); !p.trusts(addr) {
			return addr
		}
	}
	return addr
}
