// Package console is the live console: a page that shows the streams of this
// deployment as they happen, embedded into the binary.
//
// The page is served at "/" to whoever asks for HTML, and what it loads below
// "/console/", by every gateway and every api. Everything is served from here:
// no file names another origin, and the page has no inline code or style, so that
// its policy can forbid both. There is no build step: the files are what the
// browser gets, and together they stay below 60 KiB.
package console
