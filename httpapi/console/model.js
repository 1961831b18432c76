// What the page knows of a stream.

const hour = 3_600_000; // ms
const kept = 1.1 * hour; // of windows
const mostMoments = 200;
const usualThreshold = 3; // of a moment that brings none

/** position reads an event id; null when it is none. */
export function position(id) {
	const at = id?.lastIndexOf("-") ?? -1;
	return at < 0 ? null : { epoch: id.slice(0, at), offset: Number(id.slice(at + 1)) };
}

/** Whether what came with an event is newer than a read. */
const newer = (event, read) => Boolean(event && read) && event.epoch === read.epoch && event.offset > read.offset;

/** Reads have times as text, events as ms. NaN: none, or none that a clock can show. */
const time = (t) => new Date(t ?? NaN).getTime();

export class Model {
	title = "";
	live = null; // whether it is; null: not known
	viewers = NaN;
	writtenAt = 0; // when its newest row was written, in ms; 0: not known
	windows = new Map(); // by start in ms
	moments = new Map(); // by id
	#series = null;

	constructor(id) {
		this.id = id;
	}

	get name() {
		return this.title || this.id;
	}

	/** The windows, oldest first. */
	get series() {
		this.#series ??= [...this.windows.values()].sort((a, b) => a.start - b.start);
		return this.#series;
	}

	get newest() {
		return this.series.at(-1);
	}

	/** Whether nothing is known but the id. */
	get empty() {
		return this.live === null && this.windows.size === 0 && this.moments.size === 0 && this.writtenAt === 0;
	}

	/** Messages a second; 0 when nothing was written lately. */
	activity(now) {
		return now - this.writtenAt < 300_000 ? this.newest?.rate || 0 : 0;
	}

	/** The hour to show: up to now, or to the newest window where that is of another day. */
	span(now) {
		const { start, end } = this.newest ?? { start: now, end: now };
		const until = Math.abs(now - end) > hour ? end : Math.max(now, start); // clocks differ
		return { from: until - hour, until };
	}

	/** Emotes since a time, the most used first: [name, count]. */
	emotes(from) {
		const counts = new Map();
		for (const w of this.series) {
			if (w.start >= from) for (const { name, count } of w.emotes) counts.set(name, (counts.get(name) ?? 0) + count);
		}
		return [...counts].sort((a, b) => b[1] - a[1]);
	}

	/** The moments, newest first. */
	momentList() {
		return [...this.moments.values()].sort((a, b) => (b.time || 0) - (a.time || 0) || (a.id < b.id ? 1 : -1));
	}

	/** Takes an event; gives the moment that it brings, if that is new. */
	takeEvent({ type, id, data, timestamp, lag }) {
		this.#wrote(lag === undefined ? timestamp : Date.now() - lag); // by our clock
		if (type === "stream") this.takeStream(data);
		if (type === "viewers") this.viewers = data.viewer_count ?? this.viewers;
		if (type === "metrics") {
			this.#takeWindow(data, position(id));
			if (data.window_start === this.newest?.start) this.viewers = data.viewer_count ?? this.viewers;
		}
		if (type === "moment") return this.#takeMoment(data, position(id));
	}

	/** Takes a stream of a read or an event. */
	takeStream(data) {
		this.title = data.title ?? "";
		this.live = data.is_live !== false;
		this.viewers = data.viewer_count ?? this.viewers;
		this.#wrote(Math.min(time(data.last_window_end), Date.now()));
	}

	/** Takes windows of a read that is as new as the event; moments likewise. */
	takeWindows(rows, eventId) {
		const read = position(eventId);
		for (const row of rows) if (!newer(this.windows.get(time(row.window_start))?.at, read)) this.#takeWindow(row, read);
	}

	takeMoments(rows, eventId) {
		const read = position(eventId);
		for (const row of rows) if (!newer(this.moments.get(row.moment_id)?.at, read)) this.#takeMoment(row, read);
	}

	#wrote(at) {
		if (at > this.writtenAt) this.writtenAt = at;
	}

	#takeWindow(row, at) {
		const start = time(row.window_start);
		if (Number.isNaN(start)) return;
		this.windows.set(start, {
			start,
			end: Math.max(time(row.window_end) || start, start),
			messages: row.chat_count,
			chatters: row.unique_chatters,
			emotes: row.top_emotes,
			sentiment: row.sentiment_score,
			rate: row.chat_rate,
			viewers: row.viewer_count,
			z: row.z_score,
			anomaly: row.is_anomaly,
			at,
		});
		this.#series = null;
		for (const from = this.newest.start - kept; this.series[0].start < from; ) this.windows.delete(this.series.shift().start);
	}

	#takeMoment(row, at) {
		const id = row.moment_id;
		const known = this.moments.has(id);
		this.moments.set(id, {
			id,
			time: time(row.timestamp),
			type: row.moment_type ?? "",
			description: row.description ?? "",
			metric: row.metric_name ?? "",
			value: row.metric_value,
			z: row.z_score,
			severity: row.severity ?? severity(row),
			at,
		});
		if (this.moments.size > mostMoments) this.moments.delete(this.momentList().at(-1).id);
		return known ? undefined : this.moments.get(id);
	}
}

/** How unusual a moment is, 0 to 1: events say it, reads do not. */
function severity({ z_score: z, threshold }) {
	if (z === null) return null;
	return Math.abs(z) / (Math.abs(z) + (threshold > 0 ? threshold : usualThreshold));
}
