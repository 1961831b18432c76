package access

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
)

// Origins are the origins whose pages may read.
type Origins struct {
	any   bool
	named map[string]origin   // by their text
	under map[origin]struct{} // each for the names below its host
}

// parseOrigins reads CORS_ORIGINS: origins, comma separated. Its error names each entry
// that can never match.
func parseOrigins(setting string) (*Origins, error) {
	o := &Origins{named: make(map[string]origin), under: make(map[origin]struct{})}
	if strings.TrimSpace(setting) == "" {
		return o, nil
	}
	var wrong []error
	for entry := range strings.SplitSeq(setting, ",") {
		entry = strings.TrimSpace(entry)
		if bad := o.add(entry); bad != nil {
			wrong = append(wrong, fmt.Errorf("CORS_ORIGINS has %q; allowed are *, and origins as browsers send them, such as https://app.example.com: %s", withoutUser(entry), bad))
		}
	}
	return o, errors.Join(wrong...)
}

// add adds an entry of CORS_ORIGINS.
func (o *Origins) add(entry string) *badOrigin {
	switch {
	case entry == "*":
		o.any = true
		return nil
	case entry == "":
		return &badOrigin{fault: "the entry is empty"}
	case strings.EqualFold(entry, "null"):
		return &badOrigin{fault: "browsers send null for any file and any sandboxed frame, so that it would let in every page"}
	case entry != strings.Trim(entry, quotes):
		return &badOrigin{"it stands in quotes", guess(strings.Trim(entry, quotes))}
	}
	scheme, domain, wild := strings.Cut(entry, "://*.")
	if !wild {
		named, bad := parseOrigin(entry)
		if bad == nil {
			o.named[named.String()] = named
		}
		return bad
	}
	above, bad := parseOrigin(scheme + "://" + domain)
	switch {
	case bad != nil && bad.instead != "":
		return &badOrigin{bad.fault, strings.Replace(bad.instead, "://", "://*.", 1)}
	case bad != nil:
		return bad
	case !above.isWeb() || above.isAddress():
		return &badOrigin{fault: "a wildcard stands for the first labels of the name of a server, as in https://*.example.com"}
	}
	o.under[above] = struct{}{}
	return nil
}

// quotes are what a setting is taken out of by a shell, and by nothing else.
const quotes = `"'` + "`"

// withoutUser masks user and password of an entry that is shown.
func withoutUser(entry string) string {
	scheme, rest, ok := strings.Cut(entry, "://")
	if !ok {
		scheme, rest = "", entry
	} else {
		scheme += "://"
	}
	if at := strings.LastIndexByte(rest, '@'); at >= 0 {
		return scheme + "xxxxx" + rest[at:]
	}
	return entry
}

// Named are the origins of servers that are allowed by name, sorted.
func (o *Origins) Named() (texts []string) {
	for _, text := range slices.Sorted(maps.Keys(o.named)) {
		if o.named[text].isWeb() {
			texts = append(texts, text)
		}
	}
	return texts
}

// Allow reports whether a page of this origin may read, and whether with the user's
// credentials: those go to origins that are named, never to all.
func (o *Origins) Allow(text string) (may, credentials bool) {
	if text == "" {
		return o.any, false
	}
	_, named := o.named[text]
	if !named && len(o.named)+len(o.under) > 0 {
		page, bad := parseOrigin(text)
		named = bad == nil && o.has(page)
	}
	return named || o.any, named
}

// has reports whether an origin is named, or one below a name with a wildcard.
func (o *Origins) has(page origin) bool {
	if _, ok := o.named[page.String()]; ok {
		return true
	}
	for host := page.host; len(o.under) > 0; {
		_, above, more := strings.Cut(host, ".")
		if !more {
			return false
		}
		host = above
		if _, ok := o.under[origin{page.scheme, host, page.port}]; ok {
			return true
		}
	}
	return false
}

// sameOrigin reports whether a page comes from the very host that it asks. Its scheme
// says which port is meant where Host has none: TLS may end before this process.
func sameOrigin(r *http.Request, text string) bool {
	page, bad := parseOrigin(text)
	if bad != nil || !page.isWeb() {
		return false
	}
	here, bad := parseOrigin(page.scheme + "://" + r.Host)
	return bad == nil && here == page
}
