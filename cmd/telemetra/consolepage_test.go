package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"

	"github.com/telemetra/telemetra/deploy/local/localtest"
	"github.com/telemetra/telemetra/sql"
)

// consoleStack is what an operator runs: a listener, an api and a gateway, and a balancer
// before the two.
type consoleStack struct {
	databaseURL, redisURL  string
	db                     *pgx.Conn // of who writes rows
	listener, api, gateway *telemetra
	address                string // of the page

	// start starts another process, which lasts until the end of the test.
	start func(command string) *telemetra
}

func startConsole(t *testing.T, flags ...string) *consoleStack {
	t.Helper()
	s := &consoleStack{databaseURL: localtest.Postgres(t, sql.Migrate), redisURL: localtest.Redis(t).URL()}
	s.db = connect(t, s.databaseURL)
	s.start = func(command string) *telemetra {
		return startTelemetra(t, s.databaseURL, s.redisURL, command, flags...)
	}
	s.listener, s.api, s.gateway = s.start("listener"), s.start("api"), s.start("gateway")
	for _, p := range []*telemetra{s.listener, s.api, s.gateway} {
		p.awaitReady(t)
	}
	s.address = "http://" + loadBalancer(t, func() string { return s.api.addr }, func() string { return s.gateway.addr }) + "/"
	return s
}

// open opens the page with a stream, and waits until events come.
func (s *consoleStack) open(t *testing.T, p *page, streamID string) {
	t.Helper()
	p.navigate(t, s.address+"#/streams/"+streamID)
	p.waitFor(t, "live", `document.querySelector("#connection").dataset.state === "live"`)
	p.waitFor(t, "the stream", `!document.querySelector("#stream").hidden`)
}

// write commits a statement.
func (s *consoleStack) write(t *testing.T, statement string, args ...any) {
	t.Helper()
	if _, err := s.db.Exec(t.Context(), statement, args...); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

// stream writes a stream with a window for each of the last ten minutes.
func (s *consoleStack) stream(t *testing.T, id, title string) {
	t.Helper()
	s.write(t, `INSERT INTO streams (stream_id, title) VALUES ($1, $2)`, id, title)
	s.write(t, `INSERT INTO chat_summary_minute (stream_id, window_start, window_end, chat_count, unique_chatters, top_emotes, avg_sentiment, chat_rate, avg_viewers, z_score, is_anomaly)
		SELECT $1, m, m + interval '1 minute', 120, 60, '{LUL,LUL,GG}', 0.2, 2 + extract(minute FROM m) / 60, 500, 0.5, false
		FROM generate_series(date_trunc('minute', now()) - interval '9 minutes', date_trunc('minute', now()), interval '1 minute') m`, id)
}

// window writes the newest window of a stream again.
func (s *consoleStack) window(t *testing.T, id string, rate float64) {
	t.Helper()
	s.write(t, `INSERT INTO chat_summary_minute (stream_id, window_start, window_end, chat_count, chat_rate, avg_sentiment, avg_viewers, z_score, is_anomaly)
		SELECT stream_id, max(window_start), max(window_end), 4000, $2, -0.6, 1234, 7, true FROM chat_summary_minute WHERE stream_id = $1 GROUP BY 1`, id, rate)
}

func (s *consoleStack) moment(t *testing.T, id, streamID, description string) {
	t.Helper()
	s.write(t, `INSERT INTO moments (moment_id, stream_id, "timestamp", moment_type, description, metric_name, metric_value, threshold, z_score)
		VALUES ($1, $2, clock_timestamp(), 'chat_spike', $3, 'chat_rate', 77.7, 3, 7)`, id, streamID, description)
}

// shows waits until an element has a text.
func (p *page) shows(t *testing.T, selector, text string) {
	t.Helper()
	p.waitFor(t, selector+" shows "+text, fmt.Sprintf(`[...document.querySelectorAll(%q)].some((e) => e.innerText.replace(/\s+/g, " ").includes(%q))`, selector, text))
}

// state waits until the page shows something else than a stream.
func (p *page) state(t *testing.T, state, text string) {
	t.Helper()
	p.waitFor(t, "the state "+state, fmt.Sprintf(`!document.querySelector("#state").hidden && document.querySelector("#state").dataset.state === %q`, state))
	p.shows(t, "#state", text)
}

// lossy allows what a browser says when servers are gone.
func (p *page) lossy() {
	p.allow(`WebSocket connection to .* failed`)
	p.allow(`Failed to load resource: the server responded with a status of 50[234]`)
	p.allow(`Failed to load resource: net::ERR_`)
}

// notKnown allows what a browser says of reads about streams that there are not.
func (p *page) notKnown() {
	p.allow(`Failed to load resource: the server responded with a status of 404`)
}

// TestConsoleShowsRows is what the page does with rows as they are committed.
func TestConsoleShowsRows(t *testing.T) {
	t.Parallel()
	s := startConsole(t)
	p := openBrowser(t).page(t, 1440, 900, true)

	t.Run("no stream", func(t *testing.T) {
		p.navigate(t, s.address)
		p.state(t, "empty", "telemetra simulate")
	})
	s.stream(t, "a", "Chess at noon")
	s.open(t, p, "a")
	p.waitFor(t, "history", `document.querySelectorAll("figure .line").length === 3`)

	t.Run("a row within a second", func(t *testing.T) {
		eval[bool](t, p, `(window.seen = new Promise((done) => {
			const rate = document.querySelector("#rate b");
			new MutationObserver(() => rate.innerText === "77.7" && done(Date.now())).observe(rate, { childList: true, characterData: true, subtree: true });
		}), true)`)
		s.window(t, "a", 77.7)
		committed := time.Now()
		seen := time.UnixMilli(eval[int64](t, p, `window.seen`))
		t.Logf("shown %s after its commit", seen.Sub(committed).Round(time.Millisecond))
		if seen.Sub(committed) > time.Second {
			t.Errorf("the row was shown %s after its commit", seen.Sub(committed))
		}
		p.shows(t, "#viewers b", "1,234")
		p.shows(t, "#sentiment", "-0.60 negative")
		p.shows(t, "#lag", "ms")
		p.waitFor(t, "the anomaly in the list", `!document.querySelector('#list a[href="#/streams/a"] .flag').hidden`)
		p.waitFor(t, "the anomaly on the chart", `document.querySelectorAll("figure .anomaly").length === 1`)
	})
	t.Run("a moment on the chart", func(t *testing.T) {
		s.moment(t, "m1", "a", "Chat went wild")
		p.waitFor(t, "its mark", `document.querySelectorAll('figure [data-moment="m1"]').length === 3`)
		p.waitFor(t, "its head, where it belongs", `document.querySelector('[data-chart="rate"] [data-moment="m1"] path') && !document.querySelector('[data-chart="viewers"] [data-moment="m1"] path')`)
		p.shows(t, "#moments li", "Chat went wild")
		p.shows(t, "#moments li", "severity 70 %")
		p.shows(t, "#announcer", "Chat spike: Chat went wild")
	})
	t.Run("no text is markup", func(t *testing.T) {
		const evil = `<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>&amp;`
		s.write(t, `UPDATE streams SET title = $2 WHERE stream_id = $1`, "a", evil)
		s.moment(t, "m<b>2", "a", evil)
		s.write(t, `INSERT INTO chat_summary_minute (stream_id, window_start, window_end, top_emotes, chat_rate)
			SELECT 'a', max(window_start), max(window_end), ARRAY[$1::text], 3 FROM chat_summary_minute WHERE stream_id = 'a'`, evil)
		for _, place := range []string{"#title", "#list .name", "#moments p", "#emotes li"} {
			p.shows(t, place, evil)
		}
		if n := eval[int](t, p, `document.querySelectorAll("img:not(header img), script:not(head script)").length + (window.hacked ?? 0)`); n != 0 {
			t.Errorf("%d elements were made of text", n)
		}
		if title := eval[string](t, p, `document.title`); !strings.HasPrefix(title, evil) {
			t.Errorf("the document's title is %q", title)
		}
	})
}

// TestConsoleList is what the list does as streams come and go.
func TestConsoleList(t *testing.T) {
	t.Parallel()
	s := startConsole(t)
	s.stream(t, "a", "Chess at noon")
	s.stream(t, "b/ü?", "Other things")
	p := openBrowser(t).page(t, 1440, 900, true)
	s.open(t, p, "a")
	t.Run("search", func(t *testing.T) {
		p.waitFor(t, "both streams", `document.querySelectorAll("#list li").length === 2`)
		p.typeInto(t, "#search", "OTHER")
		p.waitFor(t, "one stream", `document.querySelectorAll("#list li").length === 1`)
		p.press(t, "\r")
		p.waitFor(t, "its view", `location.hash === "#/streams/b%2F%C3%BC%3F" && document.querySelector("#title").innerText === "Other things"`)
		if current := eval[string](t, p, `document.querySelector('#list [aria-current="page"]').hash`); current != "#/streams/b%2F%C3%BC%3F" {
			t.Errorf("the list shows %s as the one that is looked at", current)
		}
	})
	t.Run("unknown, until its first row", func(t *testing.T) {
		p.notKnown()
		p.navigate(t, s.address+"#/streams/later")
		p.state(t, "unknown", "“later”")
		s.stream(t, "later", "Here I am")
		p.shows(t, "#title", "Here I am")
		p.waitFor(t, "all ten windows", `(document.querySelector("#table").open = true, document.querySelectorAll("#table tbody tr").length === 10)`)
	})
	t.Run("a stream that begins, and one that ends", func(t *testing.T) {
		p.navigate(t, s.address+"#/streams/a")
		s.stream(t, "new", "Brand new")
		p.shows(t, "#list li", "Brand new")
		s.write(t, `UPDATE streams SET is_live = false WHERE stream_id IN ('a', 'later')`)
		p.shows(t, "#badge", "ended")
		p.waitFor(t, "the list without them", `![...document.querySelectorAll("#list a")].some((a) => ["#/streams/a", "#/streams/later"].includes(a.hash))`)
	})
}

// momentsShown are the ids of the list of moments, newest first.
func (p *page) momentsShown(t *testing.T) []string {
	t.Helper()
	return eval[[]string](t, p, `[...document.querySelectorAll("#moments li")].map((li) => li.dataset.moment)`)
}

// TestConsoleComesBack takes away what the page needs, one after the other. It says so,
// and when it is back nothing is missing.
func TestConsoleComesBack(t *testing.T) {
	t.Parallel()
	s := startConsole(t)
	s.stream(t, "a", "Chess at noon")
	p := openBrowser(t).page(t, 1440, 900, true)
	p.lossy()
	s.open(t, p, "a")
	p.waitFor(t, "the table", `(document.querySelector("#table").open = true, document.querySelectorAll("#table tbody tr").length === 10)`)

	var want []string
	moments := func(n int) {
		for range n {
			id := fmt.Sprintf("m%02d", len(want))
			s.moment(t, id, "a", id)
			want = slices.Insert(want, 0, id)
		}
	}
	complete := func(t *testing.T) {
		t.Helper()
		p.waitFor(t, "live again", `document.querySelector("#connection").dataset.state === "live"`)
		p.waitFor(t, "the last moment", fmt.Sprintf(`document.querySelector('#moments [data-moment="%s"]') !== null`, want[0]))
		if got := p.momentsShown(t); !slices.Equal(got, want) {
			t.Errorf("moments %v, want %v", got, want)
		}
	}
	moments(3)

	t.Run("the gateway is killed", func(t *testing.T) {
		s.gateway.kill()
		p.waitFor(t, "the news", `["waiting", "connecting"].includes(document.querySelector("#connection").dataset.state)`)
		moments(5)
		s.window(t, "a", 66.6)
		p.shows(t, "#notice", "Nothing is lost")
		p.shows(t, "#rate b", "66.6") // reads go on
		p.screenshot(t, "degraded")
		moments(5)
		s.gateway = s.start("gateway")
		p.shows(t, "#connection", "Live again, nothing was missed")
		complete(t)
		moments(2)
		complete(t)
	})
	t.Run("the gateway hands over", func(t *testing.T) {
		old := s.gateway
		s.gateway = s.start("gateway")
		s.gateway.awaitReady(t)
		old.terminate(t)
		moments(3)
		p.shows(t, "#connection", "Live again, nothing was missed")
		complete(t)
	})
	t.Run("the listener is killed", func(t *testing.T) {
		s.listener.kill()
		p.shows(t, "#connection", "Delayed: no listener is running")
		p.shows(t, "#notice", "Events are delayed")
		p.shows(t, "#listener", "no listener is heard")
		moments(3)
		s.window(t, "a", 55.5)
		p.shows(t, "#rate b", "55.5") // from reads
		s.listener = s.start("listener")
		complete(t)
	})
	t.Run("the api is killed", func(t *testing.T) {
		s.api.kill()
		p.shows(t, "#notice", "Reads fail")
		moments(3)
		complete(t) // events go on
		s.api = s.start("api")
		p.waitFor(t, "no notice", `document.querySelector("#notice").innerText === ""`)
	})
	t.Run("the streams start over", func(t *testing.T) {
		// What the page has is of an epoch that is gone: it reads again.
		options, err := redis.ParseURL(s.redisURL)
		if err != nil {
			t.Fatal(err)
		}
		client := redis.NewClient(options)
		if err := errors.Join(client.FlushAll(t.Context()).Err(), client.Close()); err != nil {
			t.Fatal(err)
		}
		moments(3)
		complete(t)
		s.window(t, "a", 44.4)
		p.shows(t, "#rate b", "44.4")
	})
}

// TestConsoleAsksForToken is a deployment that wants tokens.
func TestConsoleAsksForToken(t *testing.T) {
	t.Parallel()
	s := startConsole(t, "--auth-jwt-secret="+localtest.TokenSecret)
	s.stream(t, "mine", "Mine")
	s.stream(t, "yours", "Yours")
	p := openBrowser(t).page(t, 1440, 900, false)
	p.lossy()
	p.allow(`status of 40[13]`)
	p.navigate(t, s.address)
	p.state(t, "unauthorised", "A token is needed")
	p.screenshot(t, "token")
	p.typeInto(t, "#state input", "no token")
	p.press(t, "\r")
	p.state(t, "unauthorised", "The server says: the token")
	// As it may be pasted: none of what is around it can be in a token.
	p.typeInto(t, "#state input", " Bearer “"+localtest.Token(t, time.Hour, "mine")+"”\u200b")
	p.press(t, "\r")
	p.shows(t, "#title", "Mine")
	p.waitFor(t, "live", `document.querySelector("#connection").dataset.state === "live"`)
	p.waitFor(t, "its stream alone", `document.querySelectorAll("#list li").length === 1`)
	s.window(t, "mine", 77.7)
	p.shows(t, "#rate b", "77.7")
	p.navigate(t, s.address+"#/streams/yours")
	p.state(t, "forbidden", `the token does not allow the stream "yours"`)
}

// A gateway alone has no list and no history: the page says so, and shows what comes.
func TestConsoleOfGatewayAlone(t *testing.T) {
	t.Parallel()
	s := startConsole(t)
	s.stream(t, "a", "Chess at noon")
	p := openBrowser(t).page(t, 1440, 900, false)
	p.notKnown()
	p.navigate(t, "http://"+s.gateway.addr+"/#/streams/a")
	p.shows(t, "#title", "Chess at noon")
	p.shows(t, "#notice", "A gateway alone has no list")
	s.window(t, "a", 77.7)
	p.shows(t, "#rate b", "77.7")
}
