package wsgateway

import (
	_ "embed"
	"net/http"

	"github.com/julienschmidt/httprouter"

	"github.com/telemetra/telemetra/httpapi/router"
)

// asyncAPI describes the frames of the gateway; see https://www.asyncapi.com.
//
//go:embed asyncapi.yaml
var asyncAPI []byte

// RegisterDocs adds the description of the gateway's frames.
func RegisterDocs(r *router.Router) {
	r.GET("/asyncapi.yaml", func(w http.ResponseWriter, _ *http.Request, _ httprouter.Params) {
		w.Header().Set("Content-Type", "application/yaml")
		w.Header().Set("Cache-Control", "no-cache")
		_, _ = w.Write(asyncAPI) // the client has gone
	})
}
