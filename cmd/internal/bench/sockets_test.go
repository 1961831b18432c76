package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/telemetra/telemetra/deploy/local/localtest"
)

// wire is a text frame as a server sends it.
func wire(payload string) []byte {
	header := []byte{0x81, byte(len(payload))}
	if len(payload) > 125 {
		header = []byte{0x81, 126, byte(len(payload) >> 8), byte(len(payload))}
	}
	return append(header, payload...)
}

// A floor writes its frame to every socket at each trigger, and sockets count
// what they get.
func TestFloorWritesFrames(t *testing.T) {
	frame := wire(`{"type":"metrics","id":"k3f9-41","data":"` + strings.Repeat("x", 300) + `"}`)
	file := filepath.Join(t.TempDir(), "frame")
	if err := os.WriteFile(file, frame, 0o600); err != nil {
		t.Fatal(err)
	}
	const n, triggers = 3, 2
	in, out := io.Pipe()
	ended := make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), localtest.HangTimeout)
	defer cancel()
	go func() { ended <- FloorFrames(ctx, file, n, out) }()
	var started struct{ Address string }
	if err := json.NewDecoder(in).Decode(&started); err != nil {
		t.Fatal(err)
	}
	trigger, err := dial(ctx, started.Address, "")
	if err != nil {
		t.Fatal(err)
	}
	var ss sockets
	defer ss.close()
	if err := ss.connect(ctx, started.Address, "", n); err != nil {
		t.Fatal(err)
	}
	if _, err := trigger.conn.Write(make([]byte, triggers)); err != nil {
		t.Fatal(err)
	}
	if err := ss.need(ctx, "frames", live, triggers, localtest.HangTimeout); err != nil {
		t.Error(err)
	}
	if come, err := ss.await(ctx, live, triggers+1, 0); err != nil || come != triggers*n {
		t.Errorf("%d frames have come, %v; want %d", come, err, triggers*n)
	}
	if err := trigger.conn.Close(); err != nil {
		t.Error(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// A socket tells frames apart, however they are cut, and answers a ping.
func TestSocketCounts(t *testing.T) {
	server, client := net.Pipe()
	s := &socket{conn: client, in: bufio.NewReaderSize(client, mostFrame)}
	done := make(chan struct{})
	go func() { defer close(done); s.read() }()
	var sent []byte
	for _, frame := range [][]byte{
		wire(`{"type":"connected"}`),
		wire(`{"type":"metrics","state":true}`),
		wire(`{"type":"metrics","id":"k3f9-1","data":"` + strings.Repeat("x", 1000) + `"}`),
		wire(`{"type":"status","data":{"status":"degraded","reason":"events are late"}}`),
		{0x89, 0},
	} {
		sent = append(sent, frame...)
	}
	for len(sent) > 0 {
		n := min(7, len(sent))
		if _, err := server.Write(sent[:n]); err != nil {
			t.Fatal(err)
		}
		sent = sent[n:]
	}
	pong := make([]byte, 6)
	if _, err := io.ReadFull(server, pong); err != nil || pong[0] != 0x8a || pong[1] != 0x80 {
		t.Errorf("a ping is answered with %x, %v", pong, err)
	}
	if err := server.Close(); err != nil {
		t.Error(err)
	}
	<-done
	for k := range s.got {
		if got := s.got[k].Load(); got != 1 {
			t.Errorf("%d frames of kind %d, want 1", got, k)
		}
	}
}
