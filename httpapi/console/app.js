// The console: which streams are followed, and what is shown.

import { ReadError, Reads } from "./api.js";
import { Follower } from "./follow.js";
import { count, duration, name } from "./format.js";
import { StreamList, address, set } from "./list.js";
import { Model } from "./model.js";
import { connect } from "./telemetra.js";
import { StreamView } from "./view.js";

const mostListed = 500;
const drawEvery = 200; // ms
const lagOver = 10_000; // ms of which the lag is the median
const tokenKey = "telemetra.token";

const $ = (selector) => document.querySelector(selector);
const models = new Map(); // by id
const followers = new Map(); // by id
let mostFollowed = 100; // on one socket, until the gateway says otherwise
let chosen = ""; // the id of the stream that is shown
let listed = { loaded: false, failed: null, total: 0 };
let lags = []; // {at, lag}
let awayAt = 0; // since when no events come in time; 0: they do
let backAt = 0; // when they came again

const token = sessionStorage.getItem(tokenKey) ?? undefined;
const reads = new Reads({ token, onRung: showRung });
const list = new StreamList(drawNow);
const view = new StreamView();
const client = connect({ token, onStatus });

// Which streams there are, and which are followed.

function modelOf(id) {
	if (!models.has(id)) models.set(id, new Model(id));
	return models.get(id);
}

function follow(id, deep) {
	unfollow(id);
	const follower = new Follower({ client, reads, model: modelOf(id), deep, told: (event, moment) => heard(id, event, moment) });
	followers.set(id, follower);
	follower.start();
}

function unfollow(id) {
	followers.get(id)?.stop();
	followers.delete(id);
}

function heard(id, event, moment) {
	if (event?.lag >= 0 && !document.hidden) lags.push({ at: Date.now(), lag: event.lag });
	if (moment && !event.state && id === chosen) set($("#announcer"), `${name(moment.type)}: ${moment.description}`);
	if (followers.get(id)?.refused?.code === "too_many_subscriptions") {
		mostFollowed = followers.size - 1;
		unfollow(id);
		if (id === chosen) choose(id);
	}
	draw();
}

function choose(id) {
	chosen = id;
	if (id && !followers.get(id)?.deep) {
		if (followers.size >= mostFollowed) unfollow([...followers.keys()].at(-1));
		follow(id, true);
	}
	draw();
}

function route() {
	const [, encoded = ""] = /^#\/streams\/(.+)$/.exec(location.hash) ?? [];
	try {
		choose(decodeURIComponent(encoded));
	} catch {
		choose(encoded); // it is not encoded as it should be: then that is its name
	}
	scrollTo(0, 0);
}

async function readList() {
	try {
		const { data: streams, total } = await reads.get(`/api/v1/streams?limit=${mostListed}`);
		listed = { loaded: true, failed: null, total };
		for (const row of streams) {
			const follower = followers.get(row.stream_id);
			if (!follower?.loaded || awayAt) modelOf(row.stream_id).takeStream(row); // else events say it sooner
		}
		const live = new Set(streams.map((row) => row.stream_id)).add(chosen);
		for (const id of models.keys()) {
			if (live.has(id)) continue;
			unfollow(id);
			models.delete(id);
		}
	} catch (error) {
		if (!(error instanceof ReadError)) throw error;
		listed = { ...listed, loaded: true, failed: error };
	}
	draw();
	const byViewers = [...models.values()].sort((a, b) => (b.viewers || 0) - (a.viewers || 0));
	if (!location.hash && byViewers.length > 0 && !matchMedia("(max-width: 800px)").matches) {
		history.replaceState(null, "", address(byViewers[0].id));
		route();
	}
	for (const { id } of byViewers) if (!followers.has(id) && followers.size < mostFollowed) follow(id, false);
}

// How everything is.

function onStatus({ state }) {
	if (state === "live") {
		if (awayAt) backAt = Date.now();
		awayAt = 0;
	} else if (state !== "connecting") {
		awayAt ||= Date.now();
	}
	if (state === "waiting") for (const follower of followers.values()) follower.resumed = false;
	draw();
}

async function readHealth() {
	const answer = await reads.get("/api/v1/health").catch(() => null);
	const { status, lag_seconds: lag, reason } = answer?.data.listener ?? {};
	set($("#listener"), reason ?? duration(1000 * (lag ?? NaN)));
	$("#listener").dataset.level = status && status !== "ok" ? "bad" : "";
}

function showRung(rung, age) {
	set($("#rung"), { bypass: "Postgres", stale: `${duration(1000 * age)} old copy`, none: "nothing" }[rung] ?? "cache");
	$("#rung").dataset.level = { bypass: "warn", stale: "bad", none: "bad" }[rung] ?? "";
}

/** What is wrong for longer than a moment, and what that means. */
function notice(now) {
	const { state, reason } = client.status;
	if (awayAt && now - awayAt > 1500 && state !== "refused") {
		const what = state === "degraded" ? "Events are delayed" : "No events";
		return `${what}: ${reason || "connecting"}. Nothing is lost. ${listed.failed ? "Reads fail, too" : "Meanwhile figures are read every 5 s"}.`;
	}
	if (listed.failed?.status === 404) return "A gateway alone has no list and no history: open this page at the load balancer.";
	return listed.failed && listed.failed.status !== 401 ? `Reads fail: ${listed.failed.message}.` : "";
}

/** What is shown in place of a stream: [state, title, text], or null. */
function placeholder(model) {
	const follower = followers.get(chosen);
	const failed = follower?.failed ?? listed.failed;
	if (client.status.state === "refused" || failed?.status === 401) {
		const why = token ? `The server says: ${failed?.message ?? client.status.reason}. ` : "";
		return ["unauthorised", "A token is needed", `${why}It is kept until this tab is closed.`];
	}
	if (failed?.status === 403) return ["forbidden", "Not allowed", `${failed.message}. Choose another stream, or use another token.`];
	if (model && !model.empty) return null;
	if (chosen ? !follower.loaded : !listed.loaded) return ["loading", "Loading…", "The last hour is being read."];
	if (failed && failed.status !== 404) return ["unreachable", "No answer", `${failed.message}. It is tried again.`];
	if (chosen) return ["unknown", "No such stream yet", `Nothing is known of “${chosen}”. If that is its id, wait: its first row will appear here.`];
	if (models.size > 0) return ["none", "Choose a stream", ""];
	return ["empty", "No stream is live", "Streams appear here once rows are written. For made-up ones run: telemetra simulate"];
}

// Drawing: soon after a change, and each second, as time passes.

let drawnAt = 0;
let planned = 0;

function draw() {
	planned ||= setTimeout(() => requestAnimationFrame(drawNow), Math.max(drawnAt + drawEvery - Date.now(), 0));
}

function drawNow() {
	const now = Date.now();
	drawnAt = now;
	planned = 0;
	drawConnection(now);
	drawList(now);
	set($("#notice"), notice(now));
	const model = models.get(chosen);
	const instead = placeholder(model);
	document.title = model ? `${model.name} · Telemetra` : "Telemetra";
	document.body.classList.toggle("chosen", chosen !== "");
	$("#state").hidden = !instead;
	$("#stream").hidden = Boolean(instead);
	if (!document.activeElement.checkVisibility()) $("#main").focus();
	if (!instead) {
		view.draw(model, now);
		return;
	}
	const [state, title, text] = instead;
	$("#state").dataset.state = state;
	set($("#state h1"), title);
	set($("#state p"), text);
	$("#state form").hidden = state !== "unauthorised" && state !== "forbidden";
}

function drawConnection(now) {
	const { state, reason, retryAt } = client.status;
	const back = followers.get(chosen)?.resumed ? "Live again, nothing was missed" : "Live again";
	const left = Math.ceil((retryAt - now) / 1000);
	set($("#connection span"), {
		connecting: awayAt ? "Connecting again…" : "Connecting…",
		live: now - backAt < 5000 ? back : "Live",
		degraded: `Delayed: ${reason}`,
		waiting: `Lost: ${reason}. Trying again`,
		refused: "Not allowed",
	}[state]);
	set($("#connection small"), left > 0 ? `in ${left} s` : "");
	$("#connection").dataset.state = state;
	$("#connection button").hidden = !(left > 1);
	lags = lags.filter(({ at }) => now - at < lagOver);
	const sorted = lags.map(({ lag }) => lag).sort((a, b) => a - b);
	if (sorted.length > 0 || awayAt) set($("#lag"), duration(sorted[sorted.length >> 1]));
}

function drawList(now) {
	const live = [...models.values()].filter((m) => m.live);
	const shown = list.draw(live, chosen, now);
	const all = listed.total <= mostListed;
	set($("#count"), count(all ? live.length : listed.total));
	const more = all ? "" : `These are the newest ${mostListed}. `;
	set($("#list-note"), shown > 0 && all ? "" : `${more}Any stream opens by its id: type it and press Enter.`);
}

$("#table").addEventListener("toggle", draw);
$("#connection button").addEventListener("click", () => client.reconnect());
$("#state form").addEventListener("submit", (event) => {
	event.preventDefault();
	sessionStorage.setItem(tokenKey, $("#state input").value.trim().replace(/^bearer |[^!-~]/gi, ""));
	location.reload();
});
$(".skip").addEventListener("click", (event) => {
	event.preventDefault();
	$("#main").focus();
});
addEventListener("hashchange", route);

function repeat(every, work) {
	work();
	setInterval(() => document.hidden || work(), every);
}

route();
repeat(5000, readList);
repeat(5000, readHealth);
repeat(5000, () => awayAt && followers.get(chosen)?.read());
repeat(1000, draw);
