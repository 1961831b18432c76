import { Model, position } from "/console/model.js";
import { clock, equal, near } from "./fakes.js";

const minute = 60_000;
const hour = 60 * minute;
const at = (minutes) => clock.now + minutes * minute;

/** row is a window as events have it, window one as reads do. */
const row = (minutes, more) => ({ window_start: at(minutes), window_end: at(minutes + 1), chat_rate: 1, viewer_count: 10, top_emotes: [], ...more });
const text = (ms) => new Date(ms).toISOString();
const windowRow = (minutes, more) => row(minutes, { window_start: text(at(minutes)), window_end: text(at(minutes + 1)), ...more });
const windowEvent = (id, minutes, more) => ({ type: "metrics", id, timestamp: clock.now, data: row(minutes, more) });
const momentRow = (moment_id, more) => ({ moment_id, timestamp: text(clock.now), moment_type: "chat_spike", z_score: 6, threshold: 3, ...more });
const momentEvent = (id, moment_id, more) => ({ type: "moment", id, timestamp: clock.now, data: { moment_id, timestamp: clock.now, severity: 0.9, ...more } });

const rates = (model) => model.series.map((w) => w.rate);

export async function positionsAreRead() {
	equal(position("a-b-12"), { epoch: "a-b", offset: 12 });
	equal([position(""), position(undefined), position("nonsense")], [null, null, null]);
}

export async function lateReadOverwritesNoNewerWindow() {
	const model = new Model("a");
	model.takeEvent(windowEvent("e-10", -1, { chat_rate: 10 }));
	model.takeWindows([windowRow(-1, { chat_rate: 9 }), windowRow(-2, { chat_rate: 8 })], "e-9");
	equal(rates(model), [8, 10], "an older read");
	model.takeWindows([windowRow(-1, { chat_rate: 11 })], "e-10");
	equal(rates(model), [8, 11], "one that is as new");
	model.takeEvent(windowEvent("e-12", -1, { chat_rate: 12 }));
	model.takeWindows([windowRow(-1, { chat_rate: 1 })], "f-1");
	equal(rates(model), [8, 1], "one of another epoch");
	model.takeEvent(windowEvent("f-2", -1, { chat_rate: 2 }));
	model.takeWindows([windowRow(-1, { chat_rate: 3 })], "");
	equal(rates(model), [8, 3], "one of no known age");
}

export async function lateReadOverwritesNoNewerMoment() {
	const model = new Model("a");
	const described = () => model.momentList().map((m) => m.description);
	model.takeEvent(momentEvent("e-10", "m", { description: "event" }));
	model.takeMoments([momentRow("m", { description: "older" })], "e-9");
	equal(described(), ["event"]);
	model.takeMoments([momentRow("m", { description: "as new" })], "e-10");
	equal(described(), ["as new"]);
}

export async function eventTellsOfAMomentOnce() {
	const model = new Model("a");
	equal(model.takeEvent(momentEvent("e-1", "m"))?.id, "m");
	equal(model.takeEvent(momentEvent("e-2", "m")), undefined);
	equal(model.takeEvent(windowEvent("e-3", 0)), undefined);
}

export async function severityOfReadsIsWorkedOut() {
	const model = new Model("a");
	const moments = { a: { z_score: 6 }, b: { z_score: -6 }, c: { z_score: 6, threshold: null }, d: { z_score: 2, threshold: 2 }, e: { z_score: null }, f: { severity: 0.25 } };
	model.takeMoments(Object.entries(moments).map(([id, more]) => momentRow(id, more)), "e-1");
	const severities = Object.keys(moments).map((id) => model.moments.get(id).severity);
	[6 / 9, 6 / 9, 6 / 9, 0.5, null, 0.25].forEach((want, i) => (want === null ? equal(severities[i], null) : near(100 * severities[i], 100 * want)));
}

export async function emotesAreCountedAndTheMostUsedAreFirst() {
	const model = new Model("a");
	const emotes = (counts) => ({ top_emotes: Object.entries(counts).map(([name, count]) => ({ name, count })) });
	model.takeWindows([windowRow(-1, emotes({ LUL: 1, GG: 3 })), windowRow(-2, emotes({ LUL: 4, Hm: 2 })), windowRow(-10, emotes({ Hm: 100 }))], "e-1");
	equal(model.emotes(at(-2)), [["LUL", 5], ["GG", 3], ["Hm", 2]]);
}

export async function windowsAreKeptForAnHourAndABit() {
	const model = new Model("a");
	model.takeWindows([windowRow(-60), windowRow(-66), windowRow(-67), windowRow(0)], "e-1");
	equal(model.series.map((w) => (w.start - clock.now) / minute), [-66, -60, 0]);
	model.takeEvent(windowEvent("e-2", 10));
	equal(model.series.map((w) => (w.start - clock.now) / minute), [0, 10]);
	equal(model.windows.size, 2);
}

export async function windowWrittenAgainReplacesItself() {
	const model = new Model("a");
	model.takeEvent(windowEvent("e-1", 0, { chat_rate: 1 }));
	model.takeEvent(windowEvent("e-2", -1, { chat_rate: 2 }));
	model.takeEvent(windowEvent("e-3", 0, { chat_rate: 3 }));
	equal(rates(model), [2, 3], "oldest first");
}

export async function viewersAreThoseOfTheNewestWindow() {
	const model = new Model("a");
	model.takeEvent(windowEvent("e-1", 0, { viewer_count: 20 }));
	model.takeEvent(windowEvent("e-2", -1, { viewer_count: 10 }));
	equal(model.viewers, 20, "not of one that came late");
	model.takeEvent({ type: "viewers", id: "e-3", timestamp: clock.now, data: { viewer_count: 30 } });
	model.takeEvent(windowEvent("e-4", 1, { viewer_count: null }));
	equal(model.viewers, 30);
}

export async function twoHundredMomentsAreKept() {
	const model = new Model("a");
	const ids = Array.from({ length: 203 }, (_, i) => `m${i}`);
	for (const [i, id] of ids.entries()) model.takeEvent(momentEvent(`e-${i}`, id, { timestamp: clock.now + i }));
	equal(model.momentList().map((m) => m.id), ids.slice(3).reverse(), "the newest, newest first");
	model.takeEvent(momentEvent("e-300", "old", { timestamp: clock.now - hour }));
	equal([model.moments.size, model.moments.has("old")], [200, false]);
}

export async function spanIsTheHourUpToNow() {
	const model = new Model("a");
	equal(model.span(clock.now), { from: clock.now - hour, until: clock.now }, "nothing is known");
	model.takeEvent(windowEvent("e-1", -30));
	equal(model.span(clock.now), { from: clock.now - hour, until: clock.now });
	equal(model.span(at(-40)), { from: at(-90), until: at(-30) }, "a clock that is behind");
	equal(model.span(at(31)), { from: at(-29), until: at(31) });
	equal(model.span(at(32)), { from: at(-89), until: at(-29) }, "a window of an hour ago");
	equal(model.span(at(-24 * 60)), { from: at(-89), until: at(-29) }, "one of tomorrow");
}

export async function activityIsOfLately() {
	const model = new Model("a");
	equal(model.activity(clock.now), 0);
	model.takeEvent(windowEvent("e-1", 0, { chat_rate: 7 }));
	equal([model.activity(clock.now + 299_999), model.activity(clock.now + 300_000)], [7, 0]);
}

export async function whenTheNewestRowWasWritten() {
	const model = new Model("a");
	model.takeEvent({ ...windowEvent("e-1", 0), timestamp: at(-60), lag: 5000 });
	equal(model.writtenAt, clock.now - 5000, "by our clock, of an event");
	model.takeEvent({ ...windowEvent("e-2", 0), timestamp: at(-1), state: true });
	equal(model.writtenAt, clock.now - 5000, "not by what is older");
	model.takeStream({ last_window_end: text(at(2)) });
	equal(model.writtenAt, clock.now, "not in the future");
}

export async function streamsAreTaken() {
	const model = new Model("a");
	equal([model.empty, model.name], [true, "a"]);
	model.takeStream({ title: "Chess", is_live: true, viewer_count: 5 });
	equal([model.empty, model.name, model.live, model.viewers], [false, "Chess", true, 5]);
	model.takeEvent({ type: "stream", id: "e-1", timestamp: clock.now, data: { title: null, is_live: false, viewer_count: null } });
	equal([model.name, model.live, model.viewers], ["a", false, 5]);
}

export async function oddRowsThrowNothing() {
	const model = new Model("a");
	const nothing = { chat_count: null, unique_chatters: null, sentiment_score: null, chat_rate: null, viewer_count: null, z_score: null, is_anomaly: null };
	model.takeWindows([windowRow(0, { window_start: null }), windowRow(0, { window_start: "nonsense" })], "");
	equal(model.windows.size, 0, "windows of no time");
	model.takeWindows([windowRow(0, { ...nothing, window_end: null })], "");
	equal(model.series.map(({ start, end, rate }) => [start, end, rate]), [[clock.now, clock.now, null]]);
	model.takeEvent(windowEvent("e-1", -1, { window_end: at(-5) }));
	equal(model.series[0].end, at(-1), "an end before the start");
	model.takeEvent(windowEvent("e-2", 0, { window_start: 9e15 }));
	equal(model.series.length, 2, "a time that no clock shows");
	model.takeMoments([{ moment_id: "n", timestamp: null, z_score: null }, { moment_id: "m", timestamp: text(clock.now), z_score: null }], "");
	equal(model.momentList().map((m) => [m.id, m.time]), [["m", clock.now], ["n", NaN]], "without a time comes last");
	model.takeStream({});
	model.takeEvent({ type: "viewers", data: {} });
	model.takeEvent({ type: "of a later version", id: "e-3", timestamp: clock.now, data: {} });
	equal([model.activity(clock.now), model.emotes(0), model.span(clock.now).until], [0, [], clock.now]);
}
