package access

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Proxies are the addresses whose X-Forwarded-For is believed.
type Proxies []netip.Prefix

// ParseProxies reads TRUSTED_PROXIES: addresses and networks, comma separated. Bits of an
// address behind those of its network do not count. Its error names each part that is
// neither.
func ParseProxies(setting string) (Proxies, error) {
	if strings.TrimSpace(setting) == "" {
		return nil, nil
	}
	var (
		out   Proxies
		wrong []error
	)
	for part := range strings.SplitSeq(setting, ",") {
		network, err := parseNetwork(strings.TrimSpace(part))
		if err != nil {
			wrong = append(wrong, err)
		}
		out = append(out, network)
	}
	return out, errors.Join(wrong...)
}

// mappedBits are those before the IPv4 address in a v4-mapped one (RFC 4291 section
// 2.5.5.2).
const mappedBits = 96

// parseNetwork reads an address or a network. Peers with a v4-mapped address count as
// IPv4, so a v4-mapped network is one of IPv4.
func parseNetwork(text string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(text); err == nil && !strings.Contains(addr.Zone(), "/") {
		return netip.PrefixFrom(addr.Unmap(), addr.Unmap().BitLen()), nil
	}
	network, err := netip.ParsePrefix(text)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("TRUSTED_PROXIES has %q; allowed are addresses and networks such as 10.0.0.7 or 10.0.0.0/8", text)
	}
	if !network.Addr().Is4In6() {
		return network.Masked(), nil
	}
	bits := network.Bits() - mappedBits
	if bits < 0 {
		return netip.Prefix{}, fmt.Errorf("TRUSTED_PROXIES has %q; allowed are v4-mapped networks of /%d to /128, or the IPv4 network %s/%d",
			text, mappedBits, network.Addr().Unmap(), min(network.Bits(), 32))
	}
	return netip.PrefixFrom(network.Addr().Unmap(), bits).Masked(), nil
}

func (p Proxies) trusts(addr netip.Addr) bool {
	return slices.ContainsFunc(p, func(network netip.Prefix) bool { return network.Contains(addr) })
}

// All reports whether every address of IPv4 or of IPv6 is trusted, be it by several
// networks.
func (p Proxies) All() bool {
	return p.cover(netip.PrefixFrom(netip.IPv4Unspecified(), 0)) || p.cover(netip.PrefixFrom(netip.IPv6Unspecified(), 0))
}

// cover reports whether a network lies within the others. Only those that are cut by one
// of them are looked into: at most two for each of its bits.
func (p Proxies) cover(network netip.Prefix) bool {
	cut := false
	for _, trusted := range p {
		if !trusted.Overlaps(network) {
			continue
		}
		if trusted.Bits() <= network.Bits() {
			return true
		}
		cut = true
	}
	if !cut {
		return false
	}
	low := netip.PrefixFrom(network.Addr(), network.Bits()+1)
	return p.cover(low) && p.cover(upper(low))
}

// upper returns the other half of the network whose lower half is given.
func upper(low netip.Prefix) netip.Prefix {
	b := low.Addr().AsSlice()
	bit := low.Bits() - 1
	b[bit/8] |= 0x80 >> (bit % 8)
	addr, _ := netip.AddrFromSlice(b)
	return netip.PrefixFrom(addr, low.Bits())
}
