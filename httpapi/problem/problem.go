// Package problem writes errors as RFC 9457 has them. Every error that
// Telemetra answers over HTTP has this shape.
package problem

import (
	"encoding/json"
	"net/http"
)

// ContentType is the media type of a problem.
const ContentType = "application/problem+json"

// Details is the body of a problem.
type Details struct {
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
}

// Encode returns the body of a problem. detail says what was wrong and what is
// allowed.
func Encode(status int, detail string) []byte {
	// Strings and a number are always JSON.
	b, _ := json.Marshal(Details{Title: http.StatusText(status), Status: status, Detail: detail})
	return b
}

// Write answers with a problem.
func Write(w http.ResponseWriter, status int, detail string) {
	w.Header().Set("Content-Type", ContentType)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(Encode(status, detail)) // the client has gone
}
