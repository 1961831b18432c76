package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"

	"github.com/julienschmidt/httprouter"
)

// floorETag is the validator of what a floor serves.
const floorETag = `W/"floor"`

// FloorReads serves the body that it reads from a file at every path of a
// stream's metrics, by nothing but net/http and httprouter: what a read is
// measured against. It prints its address, and ends with the context.
func FloorReads(ctx context.Context, bodyFile string, out io.Writer) error {
	body, err := os.ReadFile(bodyFile)
	if err != nil {
		return err
	}
	length := strconv.Itoa(len(body))
	routes := httprouter.New()
	routes.GET("/api/v1/streams/:stream_id/metrics", func(w http.ResponseWriter, r *http.Request, _ httprouter.Params) {
		h := w.Header()
		h.Set("ETag", floorETag)
		if r.Header.Get("If-None-Match") == floorETag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		h.Set("Content-Type", "application/json")
		h.Set("Content-Length", length)
		_, _ = w.Write(body) // the client has gone
	})
	l, err := listen(ctx, out)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: routes} //nolint:gosec // a floor has no timeouts either
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// FloorFrames writes the bytes that it reads from a file to a number of sockets,
// one after the other, for each byte that comes over a connection which is there
// before them: what a delivery is measured against. It prints its address, and
// ends with the context or with that first connection.
func FloorFrames(ctx context.Context, frameFile string, sockets int, out io.Writer) error {
	frame, err := os.ReadFile(frameFile)
	if err != nil {
		return err
	}
	l, err := listen(ctx, out)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	conns := make([]net.Conn, 1+sockets)
	defer func() {
		for _, c := range conns {
			if c != nil {
				_ = c.Close() // nobody waits for it
			}
		}
	}()
	for i := range conns {
		if conns[i], err = l.Accept(); err != nil {
			return err
		}
	}
	trigger, conns := conns[0], conns[1:]
	defer context.AfterFunc(ctx, func() { _ = trigger.Close() })()
	for one := make([]byte, 1); ; {
		if _, err := trigger.Read(one); errors.Is(err, io.EOF) || ctx.Err() != nil {
			return nil
		} else if err != nil {
			return err
		}
		for _, c := range conns {
			if _, err := c.Write(frame); err != nil {
				return err
			}
		}
	}
}

// listen takes a free port, and prints it as a telemetra does.
func listen(ctx context.Context, out io.Writer) (net.Listener, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	if _, err := fmt.Fprintf(out, `{"message":"started","address":%q}`+"\n", l.Addr()); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}
