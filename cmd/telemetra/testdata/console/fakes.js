// What the modules get in place of the browser's own, and how the tests judge.

/** equal throws unless got is as wanted, also within. */
export function equal(got, want, what = "") {
	const [g, w] = [got, want].map((v) => JSON.stringify(v, (_, value) => (Number.isNaN(value) ? "NaN" : value)));
	if (g !== w) throw new Error(`${what && `${what}: `}got ${g}, want ${w}`);
}

/** near throws unless a number is within a tenth of another. */
export function near(got, want, what = "") {
	if (!(Math.abs(got - want) <= 0.1)) throw new Error(`${what && `${what}: `}got ${got}, want ${want}`);
}

const { port1, port2 } = new MessageChannel();

/** settle lets everything happen that waits for no time. */
export const settle = () =>
	new Promise((done) => {
		port1.onmessage = done;
		port2.postMessage(null);
	});

/** Time passes when a test says so, and chance is what it says. The clock starts at a round minute. */
export const clock = {
	now: Date.UTC(2026, 0, 15, 12),
	random: 0.5,
	timers: new Map(), // by id

	async pass(ms) {
		const until = this.now + ms;
		for (;;) {
			await settle();
			const [id, timer] = [...this.timers].reduce((a, b) => (b[1].at < a[1].at ? b : a), [0, { at: Infinity }]);
			if (timer.at > until) break;
			this.now = Math.max(this.now, timer.at);
			if (timer.every) timer.at += timer.every;
			else this.timers.delete(id);
			timer.run();
		}
		this.now = until;
	},
};

let lastTimer = 0;
function start(run, after, every) {
	clock.timers.set(++lastTimer, { run, at: clock.now + after, every });
	return lastTimer;
}
Date.now = () => clock.now;
Math.random = () => clock.random;
globalThis.setTimeout = (run, ms = 0) => start(run, ms, 0);
globalThis.setInterval = (run, ms) => start(run, ms, ms);
globalThis.clearTimeout = globalThis.clearInterval = (id) => clock.timers.delete(id);
globalThis.requestAnimationFrame = (run) => start(run, 16, 0);

/** Socket is a WebSocket whose other end is the test. */
export class Socket {
	static all = [];
	static get last() {
		return Socket.all.at(-1);
	}

	sent = [];
	state = "connecting";

	constructor(url, protocols) {
		Object.assign(this, { url: String(url), protocols });
		Socket.all.push(this);
	}

	send(text) {
		if (this.state === "connecting") throw new DOMException("still connecting", "InvalidStateError");
		if (this.state === "open") this.sent.push(JSON.parse(text));
	}

	close() {
		this.state = "closed";
	}

	open() {
		this.state = "open";
		this.onopen?.({});
	}

	bring(...frames) {
		for (const frame of frames) this.onmessage?.({ data: JSON.stringify(frame) });
	}

	end(code = 1006) {
		this.state = "closed";
		this.onclose?.({ code });
	}

	/** What it was asked, such as "subscribe a". */
	get asked() {
		return this.sent.map(({ type, stream_id, since }) => [type, stream_id, since].filter(Boolean).join(" "));
	}
}
globalThis.WebSocket = Socket;

/** answer gives fetch its answers: from(path, headers) gives {status, data, headers}, or nothing where no server is. */
export function answer(from) {
	globalThis.fetch = async (url, { headers = {} } = {}) => {
		const { pathname, search } = new URL(url, location.href);
		const given = await from(pathname + search, headers);
		if (!given) throw new TypeError("Failed to fetch");
		const { status = 200, data = {}, headers: theirs } = given;
		return { ok: status < 300, status, headers: new Headers(theirs), json: async () => data };
	};
}
