package console

import (
	"mime"
	"net/http"
	"strconv"
	"strings"
)

// Root answers with page who asks for HTML, and everybody else with other.
func Root(page, other http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Add("Vary", "Accept")
		if namesHTML(r.Header["Accept"]) {
			page.ServeHTTP(w, r)
			return
		}
		other.ServeHTTP(w, r)
	})
}

// namesHTML tells whether Accept names text/html; RFC 9110, 12.5.1. Ranges such as
// */* do not: scripts send them, and want what scripts can read.
func namesHTML(lines []string) bool {
	for _, line := range lines {
		for line != "" {
			var element string
			element, line = cutElement(line)
			name, parameters, err := mime.ParseMediaType(element)
			if err != nil || name != "text/html" {
				continue
			}
			q, weighted := parameters["q"]
			weight, err := strconv.ParseFloat(q, 64)
			if !weighted || err == nil && weight > 0 && weight <= 1 {
				return true
			}
		}
	}
	return false
}

// cutElement cuts the first element off a list. A comma between quotes belongs to it.
func cutElement(line string) (element, rest string) {
	quoted := false
	for i := 0; i < len(line); i++ {
		switch {
		case line[i] == '"':
			quoted = !quoted
		case line[i] == '\\' && quoted:
			i++
		case line[i] == ',' && !quoted:
			return strings.TrimSpace(line[:i]), line[i+1:]
		}
	}
	return strings.TrimSpace(line), ""
}
