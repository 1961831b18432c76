// Package console is the live console: a page that shows the streams of this
// deployment as they happen, embedded into the binary.
//
// The page is served at "/" to whoever asks for HTML, and what it loads below
// "/console/", by every gateway and every api. Everything is served from here:
// no file names another origin, and the page has no inline code or style, so that
// its policy can forbid both. There is no build step: the files are what the
// browser gets, and together they stay below 64 KiB.
//
//	index.html    the page, with templates for what there is many of
//	style.css     how it looks, dark and light, from phone to wall
//	telemetra.js  the client for browsers: connects, comes back, goes on; of use to any page
//	api.js        reads of the REST API
//	model.js      what is known of a stream, from reads and from events
//	follow.js     keeps a model up to date: reads, then events from behind them
//	charts.js     the charts of a stream
//	list.js       the list of streams
//	view.js       the chosen stream
//	format.js     how numbers and times are written
//	app.js        puts it together: which streams are followed, what is shown
//
// Texts of streams reach the document as text only (textContent, never markup); the
// policy's Trusted Types let nothing else pass. The tests of the page are in
// cmd/telemetra, where a browser opens it.
package console
