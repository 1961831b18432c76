package main

import (
	"net/http"
	"net/http/pprof"

	"github.com/julienschmidt/httprouter"

	"github.com/telemetra/telemetra/wsgateway/access"
)

// serveProfiles opens the debugger's door. Profiles show what all clients do, and cost
// them: where tokens are wanted, one that allows every stream. It may stand in the query,
// as go tool pprof can send no header.
func (s *httpServer) serveProfiles(tokens *access.Tokens) {
	s.Router.GET("/debug/pprof/*profile", func(w http.ResponseWriter, r *http.Request, p httprouter.Params) {
		grant, refusal := tokens.AdmitSocket(r)
		if refusal == nil && !grant.All() {
			refusal = access.ForbiddenInPart()
		}
		if refusal != nil {
			refusal.Write(w)
			return
		}
		serveProfile(w, r, p.ByName("profile"))
	})
}

func serveProfile(w http.ResponseWriter, r *http.Request, profile string) {
	switch profile {
	case "/cmdline":
		pprof.Cmdline(w, r)
	case "/profile":
		pprof.Profile(w, r)
	case "/symbol":
		pprof.Symbol(w, r)
	case "/trace":
		pprof.Trace(w, r)
	default:
		pprof.Index(w, r)
	}
}
