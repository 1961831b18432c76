//go:build front

package main

import (
	"bytes"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/telemetra/telemetra/deploy/local/localtest"
)

// contrastsOf lists visible texts whose contrast with what is behind them is less than
// WCAG 2.2 asks for: 4.5, or 3 where they are large.
const contrastsOf = `(() => {
	const paint = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
	const rgba = (color) => { paint.clearRect(0, 0, 1, 1); paint.fillStyle = color; paint.fillRect(0, 0, 1, 1); return [...paint.getImageData(0, 0, 1, 1).data]; };
	const over = (top, below) => top.slice(0, 3).map((c, i) => c * top[3] / 255 + below[i] * (1 - top[3] / 255));
	const behind = (e) => { const layers = []; for (; e; e = e.parentElement) layers.unshift(rgba(getComputedStyle(e).backgroundColor)); return layers.reduce((below, top) => over(top, below), [255, 255, 255]); };
	const light = (c) => { const [r, g, b] = c.map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
	const found = [];
	for (const e of document.querySelectorAll("body *")) {
		if (![...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()) || !e.checkVisibility() || e.closest(".hidden, .skip")) continue;
		const style = getComputedStyle(e);
		const back = behind(e instanceof SVGElement ? e.closest("figure") : e);
		const [a, b] = [light(over(rgba(e instanceof SVGElement ? style.fill : style.color), back)), light(back)].sort((x, y) => y - x);
		const size = parseFloat(style.fontSize), bold = style.fontWeight >= 700;
		const ratio = (a + 0.05) / (b + 0.05), want = size >= 24 || bold && size >= 18.66 ? 3 : 4.5;
		if (ratio < want) found.push(e.tagName + " " + e.textContent.slice(0, 30) + ": " + ratio.toFixed(2));
	}
	return [...new Set(found)];
})()`

// overflowing tells by how many pixels the page is wider than its window.
const overflowing = `document.documentElement.scrollWidth - document.documentElement.clientWidth`

// TestFrontConsoleLooks takes the pictures, with made-up traffic as in the demo: of
// desktop, phone and wall, dark and light. bin/console keeps them.
func TestFrontConsoleLooks(t *testing.T) {
	t.Parallel()
	s := startConsole(t)
	cmd := exec.CommandContext(t.Context(), program, "simulate")
	var said bytes.Buffer
	cmd.Stderr = &said
	cmd.Env = append(os.Environ(), "DATABASE_URL="+s.databaseURL, "REDIS_URL="+s.redisURL)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // how it ended is of no interest
		if t.Failed() {
			t.Logf("simulate:\n%s", said.String())
		}
	})
	localtest.Eventually(t, "an hour of history", func() bool {
		_, body := s.api.get(t, "/api/v1/streams/demo_stream/metrics?limit=90")
		return strings.Count(body, `"window_start"`) >= 60
	})
	b := openBrowser(t)
	for _, v := range []struct {
		name          string
		width, height int
		dark          bool
		stream        string
	}{
		{"desktop", 1440, 900, true, "demo_stream"},
		{"desktop-light", 1440, 900, false, "demo_stream"},
		{"phone", 390, 844, true, "demo_stream"},
		{"phone-light", 390, 844, false, "demo_stream"},
		{"phone-list", 390, 844, true, ""},
		{"wall", 3840, 2160, true, "demo_stream"},
	} {
		t.Run(v.name, func(t *testing.T) {
			p := b.page(t, v.width, v.height, v.dark)
			if v.stream == "" {
				p.navigate(t, s.address)
			} else {
				s.open(t, p, v.stream)
				p.waitFor(t, "moments", `document.querySelectorAll("#moments li").length >= 3`)
				p.waitFor(t, "an hour", `document.querySelector("[data-chart=rate] .line")?.getBBox().width > 0.9 * (document.querySelector("[data-chart=rate] svg").viewBox.baseVal.width - 56)`)
			}
			p.waitFor(t, "sparklines", `document.querySelectorAll("#list path[d^=M]").length >= 10`)
			p.waitFor(t, "a lag", `document.querySelector("#lag").innerText !== "–" && document.querySelector("#listener").innerText !== "–"`)
			if v.name == "desktop" { // the README's: with the lag of a page that is there, and not of one that loads
				p.waitFor(t, "a page that is at rest", `performance.now() > 12_000`)
			}
			p.screenshot(t, v.name)
			if poor := eval[[]string](t, p, contrastsOf); len(poor) > 0 {
				t.Errorf("too little contrast: %q", poor)
			}
			if wider := eval[float64](t, p, overflowing); wider > 0 {
				t.Errorf("the page is %v px wider than its window", wider)
			}
			p.reduceMotion(t)
			p.reload(t)
			p.waitFor(t, "the page", `document.querySelectorAll("#list li").length >= 10`)
			if n := eval[int](t, p, `document.getAnimations().length`); n > 0 {
				t.Errorf("%d things move", n)
			}
		})
	}
	t.Run("keyboard", func(t *testing.T) { checkKeyboard(t, s, b.page(t, 1440, 900, false)) })
	t.Run("names and roles", func(t *testing.T) { checkNames(t, s, b.page(t, 1440, 900, false)) })
}

// checkKeyboard goes through the page by Tab: everything is reached, and one sees where one is.
func checkKeyboard(t *testing.T, s *consoleStack, p *page) {
	t.Helper()
	s.open(t, p, "demo_stream")
	p.waitFor(t, "the list", `document.querySelectorAll("#list li").length >= 10`)
	var reached []string
	for range 40 {
		p.press(t, "\t")
		reached = append(reached, eval[string](t, p, `(() => {
			const e = document.activeElement, style = getComputedStyle(e);
			return (e.id || e.className || e.tagName) + (e !== document.body && !(style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0) ? " without an outline" : "");
		})()`))
		if slices.Contains(reached, "SUMMARY") {
			break
		}
	}
	for _, want := range []string{"skip", "brand", "search", "A", "SUMMARY"} {
		if !slices.Contains(reached, want) {
			t.Errorf("Tab does not lead to %s: %q", want, reached)
		}
	}
	if i := slices.IndexFunc(reached, func(r string) bool { return strings.Contains(r, "without") }); i >= 0 {
		t.Errorf("one does not see where the focus is: %q", reached[i])
	}
	p.press(t, "\r")
	p.waitFor(t, "the table", `document.querySelectorAll("#table tbody tr").length > 50`)
}

// checkNames looks for what a screen reader needs.
func checkNames(t *testing.T, s *consoleStack, p *page) {
	t.Helper()
	s.open(t, p, "demo_stream")
	nameless := eval[[]string](t, p, `[...document.querySelectorAll("a, button, input, [role=img], nav, [tabindex='0']")]
		.filter((e) => e.checkVisibility() && !(e.innerText?.trim() || e.ariaLabel || e.labels?.length)).map((e) => e.outerHTML.slice(0, 80))`)
	if len(nameless) > 0 {
		t.Errorf("a screen reader has no name for %q", nameless)
	}
	landmarks := eval[[]string](t, p, `[...document.querySelectorAll("header, nav, main, h1, [role=status]")].filter((e) => e.checkVisibility()).map((e) => e.tagName)`)
	for _, want := range []string{"HEADER", "NAV", "MAIN", "H1", "P"} {
		if !slices.Contains(landmarks, want) {
			t.Errorf("there is no %s: %q", want, landmarks)
		}
	}
	p.waitFor(t, "the label of a chart", `document.querySelector("[data-chart=viewers] svg").ariaLabel.startsWith("Viewers of the last hour: now ")`)
}
