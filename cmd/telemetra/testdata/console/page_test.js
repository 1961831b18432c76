// The page, with rows and a gateway that are the test's.

import { Socket, answer, clock, equal, near, settle } from "./fakes.js";

const minute = 60_000;
const began = clock.now;
const text = (minutes) => new Date(began + minutes * minute).toISOString();

const $ = (selector) => document.querySelector(selector);
const shown = (selector, within = document) => [...within.querySelectorAll(selector)].map((e) => e.innerText.replace(/\s+/g, " "));
const order = () => [...document.querySelectorAll("#list a")].map((a) => a.hash.replace("#/streams/", "")).join("");
const drawing = (chart) => $(`[data-chart=${chart}] svg`);

/** windows are rows of a read, by the minute at which they start. */
const windows = (byMinute) =>
	Object.entries(byMinute).map(([start, more]) => ({
		window_start: text(Number(start)), window_end: text(Number(start) + 1), chat_count: 0, unique_chatters: 0, top_emotes: [],
		sentiment_score: 0, chat_rate: 0, viewer_count: 0, z_score: 0, is_anomaly: false, ...more,
	}));

/**
 * opened opens the page with streams by id, {title, viewers, written, windows, moments}, and a
 * gateway that goes on with each from where the page is, for so many at a time.
 */
async function opened(hash, streams, most = Infinity) {
	const row = (id) => ({ stream_id: id, title: streams[id].title ?? null, is_live: streams[id].live ?? true, viewer_count: streams[id].viewers ?? null, last_window_end: text(streams[id].written ?? 0) });
	answer((path) => {
		const [, id, list] = /^\/api\/v1\/streams\/(\w+)\/?(\w*)/.exec(path) ?? [];
		if (path.startsWith("/api/v1/health")) return { data: { listener: { status: "ok", lag_seconds: 0.004 } } };
		if (path.startsWith("/api/v1/streams?")) {
			const listed = Object.keys(streams).filter((s) => !streams[s].unlisted);
			return { data: listed.map(row), headers: { "X-Total-Count": String(listed.length), "X-Cache": "hit" } };
		}
		if (!streams[id]) return { status: 404 };
		return { data: list ? (streams[id][list === "metrics" ? "windows" : list] ?? []) : row(id), headers: { "X-Event-Id": "e-1", "X-Cache": "hit" } };
	});
	history.replaceState(null, "", hash);
	await import("/console/app.js");
	await settle();
	const followed = new Set();
	const refused = [];
	const socket = Socket.last;
	const take = ({ type, stream_id }) => {
		if (type === "unsubscribe") return followed.delete(stream_id) && { type: "unsubscribed", stream_id };
		if (type !== "subscribe") return { type: "pong" };
		if (followed.size >= most) {
			refused.push(stream_id);
			return { type: "error", stream_id, data: { code: "too_many_subscriptions", message: "no more" } };
		}
		followed.add(stream_id);
		return { type: "connected", stream_id, timestamp: clock.now - 5, resumed: true };
	};
	socket.send = (frame) => setTimeout(() => socket.bring(take(JSON.parse(frame))), 10); // 5 ms each way
	socket.open();
	await clock.pass(6100); // what is listed has been read, and drawn in order at 6 s
	return { socket, followed, refused };
}

let lastOffset = 1;
const event = (stream_id, type, data, late = 0) => ({ type, stream_id, id: `e-${++lastOffset}`, timestamp: clock.now - late, data });
const rateEvent = (id, chat_rate) => event(id, "metrics", { window_start: began, window_end: began + minute, top_emotes: [], chat_rate });

/** chess is a stream whose figures are all different. */
const chess = {
	title: "Chess", viewers: 160,
	windows: windows({
		"-3": { viewer_count: 100, chat_rate: 4, chat_count: 240, unique_chatters: 24, sentiment_score: -0.5, z_score: 0.1 },
		"-2": { viewer_count: 200, chat_rate: 8, chat_count: 480, unique_chatters: 48, sentiment_score: 0.25, z_score: 6.5, is_anomaly: true },
		"-1": { viewer_count: 150, chat_rate: 2.5, chat_count: 1234, unique_chatters: 56, sentiment_score: 0.75, z_score: -2 },
	}),
	moments: [
		{ moment_id: "m", timestamp: text(-1.5), moment_type: "chat_spike", description: "Wild", metric_name: "chat_rate", metric_value: 8, z_score: 6.5, threshold: 3 },
		{ moment_id: "n", timestamp: text(-2.5), moment_type: "viewer_drop", description: "Gone", metric_name: "viewer_count", metric_value: 100, z_score: -3, threshold: 3 },
	],
};

export async function tilesAreOfTheNewestRows() {
	await opened("#/streams/a", { a: chess });
	equal(document.title, "Chess · Telemetra");
	equal(["#title", "#stream-id", "#badge", "#fresh"].flatMap((s) => shown(s)), ["Chess", "a", "live", "newest row 5 s ago"]);
	equal(["#viewers dd", "#rate dd", "#sentiment dd"].flatMap((s) => shown(s)), ["160", "2.5 msg/s", "+0.75 positive"]);
	equal(["#connection", "#listener", "#rung"].flatMap((s) => shown(s)), ["Live", "4 ms", "cache"]);
}

export async function tableHasAllFigures() {
	await opened("#/streams/a", { a: chess });
	$("#table").open = true;
	await clock.pass(1000);
	const time = (minutes) => {
		const at = new Date(began + minutes * minute);
		return [at.getHours(), at.getMinutes()].map((n) => String(n).padStart(2, "0")).join(":");
	};
	equal(shown("#table th"), ["Window", "Viewers", "Messages/s", "Messages", "Chatters", "Sentiment", "z-score"]);
	equal([...document.querySelectorAll("#table tbody tr")].map((row) => shown("td", row)), [
		[time(-1), "150", "2.5", "1,234", "56", "+0.75", "-2.00"],
		[time(-2), "200", "8", "480", "48", "+0.25", "+6.50"],
		[time(-3), "100", "4", "240", "24", "-0.50", "+0.10"],
	]);
}

/** points are those of a path, [x, y]. */
const points = (path) => path.getAttribute("d").slice(1).split("L").map((p) => p.split(" ").map(Number));

export async function linesGoThroughTheFigures() {
	await opened("#/streams/a", { a: chess });
	for (const [chart, labels, lo, hi, values] of [
		["viewers", { 0: 0, 50: 50, 100: 100, 150: 150, 200: 200 }, 0, 230, [100, 200, 150]],
		["rate", { 0: 0, 2: 2, 4: 4, 6: 6, 8: 8 }, 0, 9.2, [4, 8, 2.5]],
		["sentiment", { "-1.00": -1, "-0.50": -0.5, "0.00": 0, "+0.50": 0.5, "+1.00": 1 }, -1, 1, [-0.5, 0.25, 0.75]],
	]) {
		const svg = drawing(chart);
		const { width, height } = svg.viewBox.baseVal;
		const y = (v) => height - 20 - ((v - lo) / (hi - lo)) * (height - 30);
		const axis = [...svg.querySelectorAll("text.y")];
		equal(axis.map((e) => e.textContent).sort(), Object.keys(labels).sort(), chart);
		for (const e of axis) near(e.getAttribute("y") - 4, y(labels[e.textContent]), `${chart}: the label ${e.textContent}`);
		const line = points(svg.querySelector(".line"));
		equal(line.length, values.length);
		line.forEach((p, i) => near(p[1], y(values[i]), `${chart}: ${values[i]}`));
		for (const i of [0, 1]) near(line[i + 1][0] - line[i][0], (width - 56) / 60, `${chart}: a minute`);
		near(line[2][0], width - 10 - (6 / 3600) * (width - 56), `${chart}: 6 s ago`);
		const tip = svg.querySelector(".tip");
		near(tip.getAttribute("cy"), line[2][1], `${chart}: the newest`);
	}
	equal(drawing("viewers").ariaLabel, "Viewers of the last hour: now 150 viewers, 100 to 200; 2 moments");
	const anomalies = [...document.querySelectorAll("#charts .anomaly")];
	equal(anomalies.map((e) => e.closest("figure").dataset.chart), ["rate"]);
	near(anomalies[0].getAttribute("cy"), points(drawing("rate").querySelector(".line"))[1][1]);
}

export async function linesAreBrokenWhereWindowsAreMissing() {
	await opened("#/streams/a", { a: { windows: windows({ "-9": {}, "-8": {}, "-4": {}, "-3": { viewer_count: null }, "-2": { viewer_count: null }, "-1": {} }) } });
	equal([...drawing("rate").querySelectorAll(".line")].map((line) => points(line).length), [2, 4], "3 min are a gap");
	equal([...drawing("viewers").querySelectorAll(".line")].map((line) => points(line).length), [2, 2], "and 2 are none");
}

export async function chartsWithoutFiguresSaySo() {
	await opened("#/streams/a", { a: { windows: windows({ "-1": { sentiment_score: null } }) } });
	equal([...drawing("sentiment").querySelectorAll("text:not(.y)")].at(-1).textContent, "Nothing in this hour");
	equal([drawing("sentiment").ariaLabel, shown("#sentiment dd")], ["Sentiment: nothing in this hour", ["–"]]);
}

export async function momentsAreListedAndMarked() {
	await opened("#/streams/a", { a: chess });
	equal([shown("#moments-count"), shown("#moments b"), shown("#moments p")], [["2"], ["Chat spike", "Viewer drop"], ["Wild", "Gone"]]);
	equal(shown("#moments .severity"), ["severity 68 %", "severity 50 %"]);
	equal(shown("#moments .why"), ["z +6.50 · chat rate 8", "z -3.00 · viewer count 100"]);
	equal([...document.querySelectorAll("#moments li")].map((li) => li.className), ["medium", "low"]);
	equal([...document.querySelectorAll("#moments .bar i")].map((bar) => Math.round(parseFloat(bar.style.width))), [68, 50]);
	for (const [id, chart] of [["m", "rate"], ["n", "viewers"]]) {
		const heads = [...document.querySelectorAll(`#charts [data-moment=${id}] path`)];
		equal(heads.map((e) => e.closest("figure").dataset.chart), [chart], "the head");
		equal(document.querySelectorAll(`#charts [data-moment=${id}] line`).length, 3);
	}
	const line = drawing("rate").querySelector("[data-moment=m] line");
	const { width } = drawing("rate").viewBox.baseVal;
	near(line.getAttribute("x1"), width - 10 - (96 / 3600) * (width - 56), "96 s ago");
}

export async function emotesAreThoseOfTheHour() {
	const emotes = (counts) => ({ top_emotes: Object.entries(counts).map(([name, count]) => ({ name, count })) });
	await opened("#/streams/a", { a: { windows: windows({ "-2": emotes({ GG: 1, LUL: 2 }), "-1": emotes({ GG: 1500 }), "-62": emotes({ Old: 9 }) }) } });
	equal(shown("#emotes li"), ["GG 1,501", "LUL 2"]);
}

export async function oldStreamsAreSaidToBeOld() {
	const streams = { a: { written: -20 }, b: { written: -5 }, c: {}, d: { written: -60 * 24 * 3 } };
	for (const s of Object.values(streams)) s.windows = windows({ [(s.written ?? 0) - 1]: { is_anomaly: true } });
	await opened("#/streams/a", streams);
	equal([shown("#fresh"), $("#fresh").dataset.fresh], [["newest row 20 min ago"], "old"]);
	const items = Object.fromEntries([...document.querySelectorAll("#list li")].map((li) => [li.querySelector("a").hash.at(-1), li]));
	const looks = (id) => [items[id].querySelector(".fresh").innerText, items[id].querySelector(".dot").dataset.fresh, items[id].querySelector(".flag").hidden];
	equal(looks("a"), ["20 min ago", "old", true]);
	equal(looks("b"), ["5 min ago", "late", true]);
	equal(looks("c"), ["5 s ago", "fresh", false]);
	equal(looks("d"), ["3 days ago", "old", true]);
}

// The list.

const three = () => ({
	a: { title: "A", viewers: 7, windows: windows({ "-1": { chat_rate: 5 } }) },
	b: { title: "B", viewers: 1200, windows: windows({ "-2": { chat_rate: 5 }, "-1": { chat_rate: 10 } }) },
	c: { title: "C", viewers: 9, windows: windows({ "-1": { chat_rate: 1 } }) },
});

export async function listHasTheFiguresOfEach() {
	await opened("#/streams/b", three());
	equal(order(), "bac");
	const b = $("#list li");
	equal([".name", ".viewers", ".rate"].flatMap((s) => shown(s, b)), ["B", "1,200", "10"]);
	equal(points(b.querySelector("path")), [[96.7, 14], [100, 2]]);
	equal([...document.querySelectorAll("#list a")].map((a) => a.ariaCurrent), ["page", null, null]);
	equal([shown("#count"), shown("#list-note")], [["3"], [""]]);
}

export async function mostActiveComeFirst() {
	const streams = three();
	Object.assign(streams, { d: { viewers: 900, written: -20, windows: windows({ "-21": { chat_rate: 99 } }) }, e: { viewers: 900 }, f: { viewers: 1000 } });
	await opened("#/", streams);
	equal(order(), "bacfde", "those that are quiet by viewers, then by id");
}

export async function listKeepsItsOrderWhileTheFocusIsInIt() {
	const { socket } = await opened("#/", three());
	equal(order(), "bac");
	$("#list a[href='#/streams/a']").focus();
	socket.bring(rateEvent("c", 50));
	await clock.pass(12_000);
	equal([order(), document.activeElement.hash], ["bac", "#/streams/a"]);
	document.activeElement.blur();
	await clock.pass(1000);
	equal(order(), "cba");
	socket.bring(rateEvent("a", 70));
	await clock.pass(2500);
	equal(order(), "cba", "no more often than each 4 s");
	await clock.pass(2000);
	equal(order(), "acb");
}

export async function mostWatchedIsChosenFirst() {
	await opened("/", three());
	equal([location.hash, shown("#title")], ["#/streams/b", ["B"]]);
}

// The connection.

export async function lagIsTheMedianOfTenSeconds() {
	const { socket } = await opened("#/streams/a", three());
	const viewers = (late) => socket.bring(event("a", "viewers", { viewer_count: 1 }, late));
	for (const late of [5000, 9000, 4000]) viewers(late);
	await clock.pass(1000);
	equal(shown("#lag"), ["5 s"]);
	await clock.pass(8000);
	viewers(10);
	viewers(20);
	await clock.pass(2000);
	equal(shown("#lag"), ["20 ms"], "what is older is not of interest");
	await clock.pass(30_000);
	equal(shown("#lag"), ["20 ms"], "it stays while nothing is written");
}

export async function retryIsCountedDown() {
	const { socket } = await opened("#/streams/a", three());
	socket.bring({ type: "reconnect", after_ms: 30_000 });
	socket.end(1001);
	await clock.pass(3000);
	equal([shown("#connection span"), shown("#connection small")], [["Lost: the gateway goes away. Trying again"], ["in 28 s"]]);
	equal(shown("#notice"), ["No events: the gateway goes away. Nothing is lost. Meanwhile figures are read every 5 s."]);
	equal([$("#connection button").hidden, Socket.last === socket], [false, true]);
	$("#connection button").click();
	await settle();
	equal(Socket.last === socket, false, "at once when asked to");
}

export async function roomIsMadeForTheChosenStream() {
	const streams = three();
	streams.z = { title: "Z", unlisted: true, windows: windows({ "-1": { chat_rate: 33 } }) };
	const { followed, socket } = await opened("#/", streams, 3);
	equal([...followed].sort(), ["a", "b", "c"]);
	const there = new Promise((done) => addEventListener("hashchange", done, { once: true }));
	location.hash = "#/streams/z";
	await there;
	await clock.pass(6000);
	equal([followed.size, followed.has("z")], [3, true]);
	socket.bring(rateEvent("z", 44));
	await clock.pass(1000);
	equal([shown("#title"), shown("#rate b")], [["Z"], ["44"]]);
}

export async function noMoreAreFollowedThanTheGatewayAllows() {
	const { followed, refused } = await opened("#/", three(), 2);
	await clock.pass(30_000);
	equal([followed.size, refused.length], [2, 1], "it is not asked again and again");
	equal(order().length, 3, "all are listed");
}
