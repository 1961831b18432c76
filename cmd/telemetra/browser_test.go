package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	devtools "github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/telemetra/telemetra/deploy/local/localtest"
)

// browserPatience is how long a page may take for what it is asked.
const browserPatience = localtest.HangTimeout

// browserNames are those that deploy/bootstrap.sh looks for.
var browserNames = []string{
	"chromium", "chromium-browser", "google-chrome", "google-chrome-stable",
	"/Applications/Chromium.app/Contents/MacOS/Chromium", "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
}

// browser is a headless Chromium. Tests that run at the same time share it; each page has a storage of its own.
type browser struct {
	ctx context.Context //nolint:containedctx // chromedp keeps the process in it
}

// shared is the browser that is open. Its first user starts it, which takes seconds of a processor, and its
// last one closes it.
var shared struct {
	mu      sync.Mutex
	users   int
	browser *browser
	close   func(testing.TB)
}

// openBrowser returns a browser for the time of the test. It reaches 127.0.0.1 and nothing else: a
// page that needs the network fails here, too.
func openBrowser(t *testing.T) *browser {
	t.Helper()
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.users == 0 {
		shared.browser, shared.close = startBrowser(t)
	}
	shared.users++
	t.Cleanup(func() {
		shared.mu.Lock()
		defer shared.mu.Unlock()
		if shared.users--; shared.users == 0 {
			shared.close(t)
		}
	})
	return shared.browser
}

// startBrowser starts a browser, which outlives the test; the last test that uses it ends it.
func startBrowser(t *testing.T) (b *browser, end func(testing.TB)) {
	t.Helper()
	path := ""
	for _, name := range browserNames {
		if found, err := exec.LookPath(name); err == nil {
			path = found
			break
		}
	}
	if path == "" {
		t.Fatal("neither Chromium nor Chrome is here; deploy/bootstrap.sh tests installs it")
	}
	home, err := os.MkdirTemp("", "telemetra-browser-*") //nolint:usetesting // it outlives the test, and sockets in it bear no long names
	if err != nil {
		t.Fatal(err)
	}
	options := append(slices.Clone(chromedp.DefaultExecAllocatorOptions[:]),
		chromedp.ExecPath(path),
		chromedp.UserDataDir(filepath.Join(home, "profile")),
		chromedp.Env("TMPDIR="+home),
		chromedp.NoSandbox, // it does not start as root with one
		chromedp.DisableGPU,
		chromedp.Flag("disable-dev-shm-usage", true),
		chromedp.Flag("disable-component-update", true),
		chromedp.Flag("no-proxy-server", true),
		chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"),
		chromedp.Flag("lang", "en-GB"),
	)
	allocator, stop := chromedp.NewExecAllocator(context.WithoutCancel(t.Context()), options...)
	ctx, cancel := chromedp.NewContext(allocator)
	end = func(tb testing.TB) {
		tb.Helper()
		// Asked to end, it takes its children along. One that is killed may leave some that
		// still write into their home.
		bounded, enough := context.WithTimeout(ctx, browserPatience)
		if err := chromedp.Cancel(bounded); err != nil {
			tb.Logf("end the browser: %v", err)
		}
		enough()
		cancel()
		stop()
		localtest.Eventually(tb, "the removal of what the browser has written", func() bool { return os.RemoveAll(home) == nil })
	}
	if err := firstRun(ctx, cancel); err != nil {
		end(t)
		t.Fatalf("start %s: %v", path, err)
	}
	return &browser{ctx: ctx}, end
}

// firstRun starts the browser or tab of a context. It lives as long as the context that
// it is started with, which can have no deadline for that reason.
func firstRun(ctx context.Context, cancel func(), actions ...chromedp.Action[chromedp.Void]) error {
	late := time.AfterFunc(browserPatience, cancel)
	err := chromedp.Do(ctx, actions...)
	if !late.Stop() {
		return errors.Join(fmt.Errorf("not within %s", browserPatience), err)
	}
	return err
}

// page is a tab with a storage of its own. It fails the test when it has faults that
// are not allowed.
type page struct {
	ctx  context.Context //nolint:containedctx // chromedp keeps the tab in it
	dark bool

	mu      sync.Mutex
	seen    []string
	allowed []*regexp.Regexp
	marks   int
	marked  chan int // marks as they come back
}

// violations makes a fault of what a page's policy forbids, also where Chromium has no
// line for it.
const violations = `addEventListener("securitypolicyviolation", e =>
	console.error("policy violated: " + e.violatedDirective + " forbids " + (e.blockedURI || "inline")))`

// page opens a tab of a size in CSS pixels whose user prefers a dark or a light page.
func (b *browser) page(t *testing.T, width, height int, dark bool) *page {
	t.Helper()
	p := &page{dark: dark, marked: make(chan int, 1000)}
	var cancel func()
	p.ctx, cancel = chromedp.NewContext(b.ctx, chromedp.WithNewBrowserContext())
	var reader sync.WaitGroup
	t.Cleanup(func() {
		for _, fault := range p.unexpected() {
			t.Errorf("a fault of the page: %s", fault)
		}
		cancel()
		reader.Wait()
	})
	if err := firstRun(p.ctx, cancel,
		chromedp.EmulateViewport(int64(width), int64(height)),
		p.prefer(false),
		chromedp.Func(func(ctx context.Context, tab *chromedp.Target) error {
			_, err := cdp.Call(ctx, tab, devtools.AddScriptToEvaluateOnNewDocument, devtools.AddScriptToEvaluateOnNewDocumentParams{Source: violations})
			return err
		}),
	); err != nil {
		t.Fatalf("open a page: %v", err)
	}
	messages := chromedp.Console(p.ctx)
	reader.Go(func() {
		for m, err := range messages {
			if err != nil {
				return // the end of the page
			}
			p.hear(&m)
		}
	})
	return p
}

// prefer sets what media queries tell of the user.
func (p *page) prefer(reducedMotion bool) chromedp.Action[chromedp.Void] {
	scheme, motion := "light", "no-preference"
	if p.dark {
		scheme = "dark"
	}
	if reducedMotion {
		motion = "reduce"
	}
	return chromedp.Func(func(ctx context.Context, tab *chromedp.Target) error {
		_, err := cdp.Call(ctx, tab, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{
			{Name: "prefers-color-scheme", Value: scheme}, {Name: "prefers-reduced-motion", Value: motion},
		}})
		return err
	})
}

// consoleMark begins a line of ours in the console: what was written before has been
// heard when it comes back.
const consoleMark = "telemetra-test-mark "

// hear keeps a message that is a fault: errors, warnings and failed assertions of the
// page, exceptions that it did not catch, and errors that Chromium tells of it, such as
// what did not load.
func (p *page) hear(m *chromedp.ConsoleMessage) {
	if after, ok := strings.CutPrefix(m.Text, consoleMark); ok {
		var n int
		if _, err := fmt.Sscan(after, &n); err == nil {
			p.marked <- n
		}
		return
	}
	switch {
	case m.IsException() || m.Type == chromedp.ConsoleError:
	case m.Source == "" && (m.Type == chromedp.ConsoleWarning || m.Type == "assert"):
	default:
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	text := m.String()
	if m.URL != "" {
		text += fmt.Sprintf(" (%s:%d)", m.URL, m.Line+1)
	}
	p.seen = append(p.seen, text)
}

// faults are what went wrong in the page so far, allowed or not, each as
// "type: text (address:line)".
func (p *page) faults() []string {
	p.mu.Lock()
	p.marks++
	mark := p.marks
	p.mu.Unlock()
	ctx, cancel := context.WithTimeout(p.ctx, browserPatience)
	defer cancel()
	if chromedp.Do(ctx, chromedp.Evaluate[chromedp.Void](fmt.Sprintf("console.debug(%q)", consoleMark+fmt.Sprint(mark)))) == nil {
		for back := 0; back < mark && ctx.Err() == nil; {
			select {
			case back = <-p.marked:
			case <-ctx.Done():
			}
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.seen)
}

// allow lets faults that match pass: before or after they come.
func (p *page) allow(pattern string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.allowed = append(p.allowed, regexp.MustCompile(pattern))
}

// unexpected are the faults that nobody has allowed.
func (p *page) unexpected() []string {
	faults := p.faults()
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.DeleteFunc(faults, func(fault string) bool {
		return slices.ContainsFunc(p.allowed, func(r *regexp.Regexp) bool { return r.MatchString(fault) })
	})
}

// do fails the test with how the page is then when an action fails.
func (p *page) do(t *testing.T, what string, actions ...chromedp.Action[chromedp.Void]) {
	t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, browserPatience)
	defer cancel()
	if err := chromedp.Do(ctx, actions...); err != nil {
		p.fail(t, fmt.Sprintf("%s: %v", what, err))
	}
}

// fail ends the test and says how the page is.
func (p *page) fail(t *testing.T, what string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, browserPatience)
	defer cancel()
	text, err := chromedp.Run(ctx, chromedp.Evaluate[string]("document.body ? document.body.innerText : ''"))
	if err != nil {
		text = err.Error()
	}
	file, err := p.capture("failed-" + t.Name())
	if err != nil {
		file = err.Error()
	}
	t.Fatalf("%s\n\nfaults:\n%s\n\nthe page, in %s:\n%s", what, strings.Join(p.faults(), "\n"), file, text)
}

// navigate opens an address and waits until it is loaded.
func (p *page) navigate(t *testing.T, address string) {
	t.Helper()
	p.do(t, "open "+address, chromedp.Navigate(address))
}

// reload loads the page again.
func (p *page) reload(t *testing.T) {
	t.Helper()
	p.do(t, "reload", chromedp.Reload())
}

// resize gives the page another size.
func (p *page) resize(t *testing.T, width, height int) {
	t.Helper()
	p.do(t, "resize", chromedp.EmulateViewport(int64(width), int64(height)))
}

// reduceMotion lets the user prefer a page that does not move.
func (p *page) reduceMotion(t *testing.T) {
	t.Helper()
	p.do(t, "prefer reduced motion", p.prefer(true))
}

// eval is the value of a JavaScript expression in the page, or of its promise. The page's
// policy does not hold for it.
func eval[T any](t *testing.T, p *page, expression string) T {
	t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, browserPatience)
	defer cancel()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
	if err != nil {
		p.fail(t, fmt.Sprintf("%s: %v", expression, err))
	}
	return v
}

// waitFor waits until an expression is true in the page, which may load anew meanwhile:
// chromedp.Poll bears neither that nor a policy without eval.
func (p *page) waitFor(t *testing.T, what, expression string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, browserPatience)
	defer cancel()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	var last error
	for {
		ok, err := chromedp.Run(ctx, chromedp.Evaluate[bool]("Promise.resolve("+expression+").then(Boolean)", chromedp.EvalAwaitPromise))
		if ok && err == nil {
			return
		}
		if err != nil && ctx.Err() == nil {
			last = err // such as that of a page that is not there yet
		}
		select {
		case <-ctx.Done():
			p.fail(t, fmt.Sprintf("not within %s: %s: %s (%v)", browserPatience, what, expression, last))
		case <-ticker.C:
		}
	}
}

// click clicks on the first element of a CSS selector, once it is visible.
func (p *page) click(t *testing.T, selector string) {
	t.Helper()
	p.do(t, "click on "+selector, chromedp.Click(chromedp.CSS(selector)))
}

// typeInto types into the first element of a CSS selector, once it is visible.
func (p *page) typeInto(t *testing.T, selector, text string) {
	t.Helper()
	p.do(t, "type into "+selector, chromedp.SendKeys(chromedp.CSS(selector), text))
}

// press presses keys one after the other, where the focus is: "/", kb.Escape.
func (p *page) press(t *testing.T, keys string, modifiers ...chromedp.Modifier) {
	t.Helper()
	p.do(t, fmt.Sprintf("press %q", keys), chromedp.KeyEvent(keys, chromedp.KeyModifiers(modifiers...)))
}

// screenshot writes what is visible to bin/console/<name>.png.
func (p *page) screenshot(t *testing.T, name string) {
	t.Helper()
	if _, err := p.capture(name); err != nil {
		t.Fatalf("screenshot %q: %v", name, err)
	}
}

func (p *page) capture(name string) (file string, err error) {
	ctx, cancel := context.WithTimeout(p.ctx, browserPatience)
	defer cancel()
	image, err := chromedp.Run(ctx, chromedp.CaptureScreenshot())
	if err != nil {
		return "", err
	}
	file, err = filepath.Abs(filepath.Join("..", "..", "bin", "console", strings.ReplaceAll(name, "/", "-")+".png"))
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return "", err
	}
	return file, os.WriteFile(file, image, 0o644)
}

// serveFiles serves files under a strict policy, without a favicon.
func serveFiles(t *testing.T, files map[string]string) (address string) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		file, ok := files[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Security-Policy", "default-src 'self'; img-src 'self' data:")
		kind := "text/html"
		if strings.HasSuffix(r.URL.Path, ".js") {
			kind = "text/javascript"
		}
		w.Header().Set("Content-Type", kind+"; charset=utf-8")
		_, _ = w.Write([]byte(file))
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// TestBrowserNames are those that the set-up looks for.
func TestBrowserNames(t *testing.T) {
	list := find(t, "../../deploy/bootstrap.sh", `(?s)have_chromium\(\).*?for name in (.*?); do`)
	var got []string
	for _, m := range regexp.MustCompile(`"([^"]+)"|([^\s"\\]+)`).FindAllStringSubmatch(list, -1) {
		got = append(got, m[1]+m[2])
	}
	if !slices.Equal(got, browserNames) {
		t.Errorf("deploy/bootstrap.sh looks for %q, the tests for %q", got, browserNames)
	}
}

func TestBrowserFindsFaults(t *testing.T) {
	t.Parallel()
	address := serveFiles(t, map[string]string{
		"/": `<!doctype html><title>faults</title><link rel="icon" href="data:,"><script src="/faults.js" defer></script>
			<script>document.title = "the policy does not hold"</script><img src="/missing.png"><img src="http://192.0.2.1/abroad.png">`,
		"/faults.js": `console.log("no fault"); console.info("nor this");
			console.error("an error", {code: 7}); console.warn("a warning"); console.assert(1 === 2, "an assertion");
			Promise.reject(new Error("nobody has caught it"));
			new WebSocket("ws://" + location.host + "/no-socket");
			setTimeout(() => { document.body.dataset.done = "yes"; throw new TypeError("thrown") });`,
	})
	b := openBrowser(t)
	p := b.page(t, 800, 600, false)
	p.navigate(t, address)
	p.waitFor(t, "the page has run", `document.body.dataset.done === "yes"`)
	wanted := []string{
		"^error: an error .*7", "^warning: a warning", "^assert: .*an assertion",
		"^exception: .*thrown .*faults.js:5", "^exception: .*nobody has caught it",
		"^error: policy violated: script-src-elem forbids inline", "^error: policy violated: img-src forbids http://192.0.2.1/",
		"^error: .*404.*missing.png", "^error: .*WebSocket",
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("faults:\n%s", strings.Join(p.faults(), "\n"))
		}
	})
	for _, want := range wanted {
		localtest.Eventually(t, "a fault as "+want, func() bool {
			return slices.ContainsFunc(p.unexpected(), regexp.MustCompile(want).MatchString)
		})
	}
	if all := strings.Join(p.faults(), "\n"); strings.Contains(all, "no fault") || strings.Contains(all, "nor this") {
		t.Errorf("faults that are none:\n%s", all)
	}
	p.allow("^error: an error")
	if left, all := p.unexpected(), p.faults(); len(left) != len(all)-1 {
		t.Errorf("%d of %d faults are not allowed, want all but one", len(left), len(all))
	}
	if title := eval[string](t, p, "document.title"); title != "faults" {
		t.Errorf("the title is %q", title)
	}
	p.allow("^(error|warning|assert|exception): ")
}

// A page without a fault has none, and is of the size and of the user that it was opened for.
func TestBrowserPage(t *testing.T) {
	t.Parallel()
	address := serveFiles(t, map[string]string{
		"/": `<!doctype html><title>clean</title><link rel="icon" href="data:,"><script src="/clean.js" defer></script>
			<button>press</button><input>`,
		"/clean.js": `console.log("started"); const out = document.body.dataset;
			document.querySelector("button").onclick = () => { out.clicks = (out.clicks ?? 0) + 1; };
			addEventListener("keydown", e => { out.key = e.key; });
			localStorage.visits = Number(localStorage.visits ?? 0) + 1;`,
	})
	b := openBrowser(t)
	for _, dark := range []bool{false, true} {
		p := b.page(t, 390, 700, dark)
		p.navigate(t, address)
		type window struct {
			Width, Height int
			Dark, Still   bool
			Visits        string
		}
		const look = `({Width: innerWidth, Height: innerHeight, Dark: matchMedia("(prefers-color-scheme: dark)").matches,
			Still: matchMedia("(prefers-reduced-motion: reduce)").matches, Visits: localStorage.visits})`
		if got, want := eval[window](t, p, look), (window{390, 700, dark, false, "1"}); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
		p.reduceMotion(t)
		p.resize(t, 800, 600)
		p.reload(t)
		if got, want := eval[window](t, p, "Promise.resolve("+look+")"), (window{800, 600, dark, true, "2"}); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
		p.click(t, "button")
		p.waitFor(t, "a click", `document.body.dataset.clicks`)
		p.typeInto(t, "input", "demo")
		p.waitFor(t, "the text", `document.querySelector("input").value === "demo"`)
		p.press(t, kb.Escape)
		p.waitFor(t, "the key", `document.body.dataset.key === "Escape"`)
		p.screenshot(t, "harness")
		if faults := p.faults(); len(faults) > 0 {
			t.Errorf("faults of a clean page: %q", faults)
		}
	}
}
