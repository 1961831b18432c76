import { ReadError, streamPath } from "./api.js";
import { position } from "./model.js";

const shallow = 30; // windows: a sparkline
const deep = 90; // an hour of windows of a minute, and some to spare
const deepest = 1000;
const hour = 3_600_000; // ms
const patience = 2000; // ms
const againAfter = 5000; // ms, where a read has failed
const mostTries = 4; // to close a gap

/**
 * Follower keeps a model up to date: reads first, then events from behind the one that the reads
 * are as new as, so that nothing is missed. Where the gateway cannot go on from there and begins
 * with a state, it reads again.
 */
export class Follower {
	failed = null; // why there is no history: a ReadError
	loaded = false; // whether the first reads have ended
	refused = null; // why the gateway does not send the stream: {code, message}
	resumed = false; // whether nothing was missed when the stream last came back

	#client;
	#reads;
	#told;
	#subscription = null;
	#since = ""; // the event that the reads are as new as
	#begins = ""; // the event that the state is as new as; "" while it comes
	#gap = false; // between the two
	#tries = mostTries;
	#timer = 0;
	#stopped = false;

	/** deep: with the whole hour and the moments. told(event, moment): called after each change. */
	constructor({ client, reads, model, deep, told }) {
		Object.assign(this, { model, deep });
		this.#client = client;
		this.#reads = reads;
		this.#told = told;
	}

	/** Reads, then follows; without waiting for ever. */
	async start() {
		await Promise.race([this.read(), new Promise((done) => setTimeout(done, patience))]);
		if (!this.#stopped) this.#subscribe();
	}

	stop() {
		this.#stopped = true;
		clearTimeout(this.#timer);
		this.#subscription?.close();
	}

	/** Reads what there is: also of use while no events come. */
	async read() {
		clearTimeout(this.#timer);
		try {
			const answers = await (this.deep ? this.#readAll() : Promise.all([this.#readWindows(shallow)]));
			this.failed = null;
			this.#since = earliest(answers);
		} catch (error) {
			if (!(error instanceof ReadError)) throw error;
			this.failed = error;
			if (error.status === 0 || error.status >= 500) this.#later(againAfter);
		}
		if (this.#stopped) return;
		this.loaded = true;
		if (!this.failed) this.#closeGap();
		this.#told();
	}

	#later(ms) {
		clearTimeout(this.#timer);
		if (!this.#stopped) this.#timer = setTimeout(() => this.read(), ms);
	}

	async #readAll() {
		const { model } = this;
		const path = streamPath(model.id);
		const [windows, moments, stream] = await Promise.all([
			this.#readWindows(deep),
			this.#reads.get(`${path}/moments?limit=200`),
			this.#reads.get(path, null),
		]);
		model.takeMoments(moments.data, moments.eventId);
		if (stream.data) model.takeStream(stream.data);
		return [windows, moments, stream];
	}

	async #readWindows(limit) {
		const path = `${streamPath(this.model.id)}/metrics?limit=`;
		let answer = await this.#reads.get(path + limit, []);
		const [newest, oldest] = [0, -1].map((i) => Date.parse(answer.data.at(i)?.window_start));
		if (limit === deep && answer.data.length === limit && newest - oldest < hour) {
			answer = await this.#reads.get(path + deepest); // windows that are short, or overlap
		}
		this.model.takeWindows(answer.data, answer.eventId);
		return answer;
	}

	#subscribe() {
		this.#subscription = this.#client.subscribe(this.model.id, {
			since: this.#since,
			onConnected: ({ resumed, id }) => {
				this.refused = null;
				this.resumed = resumed;
				this.#gap = !resumed;
				this.#begins = id;
				if (resumed) this.#tries = mostTries;
				else if (this.#tries-- > 0) this.#later(Math.random() * (this.deep ? 500 : 5000)); // all pages are told together
			},
			onEvent: (event) => {
				this.#begins ||= event.id ?? "";
				this.#told(event, this.model.takeEvent(event));
			},
			onError: (error) => {
				this.refused = error;
				this.#told();
			},
		});
	}

	// What happened between the reads and the state came in no event.
	#closeGap() {
		if (!this.#gap) return;
		const [read, state] = [position(this.#since), position(this.#begins)];
		const same = read && (!state || read.epoch === state.epoch);
		if (same && state && read.offset >= state.offset) {
			this.#gap = false;
			this.#tries = mostTries;
		} else if (same && this.#tries > 0) {
			this.#subscription.close();
			this.#subscribe();
		} else if (this.#tries-- > 0) {
			this.#later(1000); // a read from before the state's epoch, or of no known age
		}
	}
}

/** The id that all answers are as new as; "" when there is none. */
function earliest(answers) {
	const ids = answers.map((a) => a.eventId).sort((a, b) => position(a)?.offset - position(b)?.offset);
	const one = ids.every((id) => id && position(id).epoch === position(ids[0]).epoch);
	return one ? (ids[0] ?? "") : "";
}
