package local

import (
	"io"
	"net"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// echoed is a connection through a proxy to a server that echoes, and a channel that
// is closed when the server has seen its end.
func echoed(t *testing.T) (p *Proxy, client *net.TCPConn, ended <-chan struct{}) {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if c, err := l.Accept(); err == nil {
			_, _ = io.Copy(c, c)
			_ = c.Close()
		}
	}()
	if p, err = StartProxy(l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = l.Close()
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		<-done
	})
	client = connect(t, p)
	say(t, client)
	if _, err := io.ReadFull(client, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	return p, client, done
}

func connect(t *testing.T, p *Proxy) *net.TCPConn {
	t.Helper()
	c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c.(*net.TCPConn)
}

func say(t *testing.T, c net.Conn) {
	t.Helper()
	if _, err := io.WriteString(c, "hello"); err != nil {
		t.Fatal(err)
	}
}

// released fails unless the proxy lets go of a connection whose client has ended it.
func released(t *testing.T, c *net.TCPConn) {
	t.Helper()
	say(t, c)
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(c); err != nil || len(got) > 0 {
		t.Errorf("got %q, %v, want the end", got, err)
	}
}

func TestProxyLetsGoOfFrozenConnections(t *testing.T) {
	t.Parallel()
	p, client, ended := echoed(t)
	p.Freeze()
	p.Heal() // changes nothing for them
	released(t, client)
	<-ended
}

func TestProxyLetsGoOfWhatABlackHoleSwallows(t *testing.T) {
	t.Parallel()
	p, client, ended := echoed(t)
	p.BlackHole()
	released(t, client)
	<-ended
	released(t, connect(t, p)) // one that never had a server
}

// A black hole takes any amount, and gives none of it back.
func TestHealingClosesWhatABlackHoleSwallowed(t *testing.T) {
	t.Parallel()
	p, client, ended := echoed(t)
	p.BlackHole()
	if _, err := client.Write(make([]byte, 32<<20)); err != nil {
		t.Fatal(err)
	}
	p.Heal()
	if n, _ := io.Copy(io.Discard, client); n > 0 { // it may be reset
		t.Errorf("got %d bytes", n)
	}
	<-ended
}

// full is the listener of a process that has no files left, until it is closed.
type full struct {
	net.Listener
	tries int
}

func (f *full) Accept() (net.Conn, error) {
	if f.tries--; f.tries < 0 {
		return nil, net.ErrClosed
	}
	return nil, syscall.EMFILE
}

func TestProxyPausesWithoutFiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		(&Proxy{listener: &full{tries: 100}}).accept()
		if took := time.Since(began); took != 100*acceptPause {
			t.Errorf("100 tries took %s", took)
		}
	})
}
