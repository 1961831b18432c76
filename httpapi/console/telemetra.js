/**
 * The browser client of Telemetra: follows any number of streams over one WebSocket, comes back by
 * itself, and goes on behind the last event of each, so that nothing is missed.
 *
 *     import { connect } from "https://live.example.com/console/telemetra.js";
 *
 *     const client = connect({
 *       onStatus: (status) => console.log(status.state, status.reason),
 *     });
 *     client.subscribe("demo_stream", {
 *       onEvent(event) {
 *         if (event.type === "metrics") console.log(event.data.chat_rate, "messages a second");
 *       },
 *     });
 *
 * It imports nothing and needs no document. A page of another origin needs it in CORS_ORIGINS of
 * the server, to import this and to connect.
 *
 * connect takes, and each may be missing,
 *   url          of the gateways, with /ws/live; else on the host of this module
 *   token        where authentication is on: one, or a function that gives one, or a promise of
 *                one, and is asked before each attempt
 *   onStatus     told each change of client.status: {state, reason, retryAt}. state: connecting,
 *                live; degraded: events are delayed; waiting: for the next attempt, at retryAt (as
 *                Date.now() counts); refused: no token, or one that does not do; closed: by
 *                client.close(). reason: in words, or ""
 *   onError      told {code, message} of what is refused and belongs to no stream
 * client.subscribe takes the id of a stream, and
 *   since        an event id to go on behind, such as the X-Event-Id of a read; without it the state
 *                comes first: events with state: true
 *   onEvent      told each event in order, as the gateway's frame: {type, id, stream_id, timestamp,
 *                data, …}, and lag: ms since the row was written, unless it is of a state
 *   onConnected  told {resumed, reason, id} when the stream begins, comes back or starts over; not
 *                resumed: the state follows, and what was before it may be missing
 *   onError      told {code, message} when the stream is not sent; the next connection asks again
 * and gives {streamId, since, close()}, since being the id of the last event.
 */
export const connect = (options) => new Client(options);

const connectWithin = 10_000; // ms for a handshake
const fullWithin = 5000; // ms until a gateway with too many streams is asked again, and at most twice that
const pingEvery = 15_000; // ms; a connection that brings nothing between two is dead

class Client {
	status = { state: "connecting", reason: "", retryAt: 0 };

	#options;
	#url;
	#backoff = new Backoff();
	#ahead = 0; // by how many ms the server's clock is: right within half of #trip
	#trip = Infinity;
	#streams = new Map(); // by id
	#socket = null;
	#attempt = 0; // what earlier ones bring late is ignored
	#openedAt = 0; // 0: not open
	#begunAt = 0; // when the first stream began
	#heardAt = 0;
	#askedAt = 0; // when the last ping was sent
	#delayed = ""; // why all events are
	#after = null; // ms until the next attempt, if the gateway has said so
	#timer = 0; // of the next attempt, or of the handshake
	#pulse = 0;

	constructor(options = {}) {
		this.#options = options;
		this.#url = new URL(options.url ?? "/ws/live", import.meta.url);
		this.#url.protocol = this.#url.protocol.replace("http", "ws");
		addEventListener("online", this.#online);
		queueMicrotask(() => this.#connect()); // onStatus is called later
	}

	subscribe(streamId, handlers) {
		const stream = this.#streams.get(streamId) ?? { leaving: 0 };
		if (stream.subscription) throw new Error(`${streamId} is subscribed to`);
		const subscription = { streamId, since: handlers.since ?? "", close: () => this.#unsubscribe(subscription) };
		Object.assign(stream, { subscription, handlers, refused: false });
		this.#streams.set(streamId, stream);
		if (this.#openedAt) this.#ask(stream);
		return subscription;
	}

	reconnect() {
		if (!this.#openedAt) this.#connect();
	}

	close() {
		removeEventListener("online", this.#online);
		this.#drop();
		this.#streams.clear();
		this.#become("closed");
	}

	// Others in the house are online again at the same time.
	#online = () => {
		if (this.status.state === "waiting") this.#wait(Math.random() * 1000, this.status.reason);
	};

	#become(state, reason = "", retryAt = 0) {
		this.status = { state, reason, retryAt };
		call(this.#options.onStatus, this.status);
	}

	async #connect() {
		if (this.status.state === "closed") return;
		this.#drop();
		const attempt = this.#attempt;
		this.#timer = setTimeout(() => this.#lost("the gateway does not answer"), connectWithin);
		this.#become("connecting");
		let { token } = this.#options;
		try {
			if (typeof token === "function") token = await token();
			if (attempt !== this.#attempt) return;
			this.#socket = new WebSocket(this.#url, token ? ["bearer", token] : []);
		} catch (error) {
			if (attempt === this.#attempt) this.#lost(error?.message ?? String(error));
			return;
		}
		this.#socket.onopen = () => this.#open();
		this.#socket.onmessage = ({ data }) => this.#hear(data);
		this.#socket.onclose = ({ code }) => {
			if (this.#openedAt) this.#lost(closeReasons[code] ?? "the connection broke");
			else this.#diagnose(attempt, token);
		};
	}

	#open() {
		clearTimeout(this.#timer);
		this.#openedAt = this.#heardAt = Date.now();
		this.#begunAt = this.#askedAt = 0;
		this.#after = null;
		this.#trip = Infinity; // clocks drift: each connection measures anew
		this.#pulse = setInterval(() => this.#beat(), pingEvery);
		for (const [id, stream] of this.#streams) {
			stream.leaving = 0;
			stream.delayed = "";
			if (stream.subscription) this.#ask(stream);
			else this.#streams.delete(id);
		}
		this.#delayed = "";
		this.#become("live");
	}

	// A browser does not show the gateway's pings, so it sends its own.
	#beat() {
		if (this.#heardAt < this.#askedAt) {
			this.#lost("the gateway has fallen silent");
			return;
		}
		this.#askedAt = Date.now();
		this.#send({ type: "ping", timestamp: this.#askedAt });
	}

	// A browser does not tell why there is no socket; a request does.
	async #diagnose(attempt, token) {
		const { reason, refused, after } = await ask(this.#url, token);
		if (attempt !== this.#attempt) return;
		this.#after = after;
		if (!refused || typeof this.#options.token === "function") {
			this.#lost(reason); // the next token may be good
			return;
		}
		this.#drop();
		this.#become("refused", reason);
	}

	#lost(reason) {
		if (this.#openedAt && this.#begunAt) this.#backoff.lasted(Date.now() - this.#begunAt);
		const after = this.#after ?? this.#backoff.next();
		this.#after = null;
		this.#drop();
		this.#wait(after, reason);
	}

	#wait(after, reason) {
		clearTimeout(this.#timer);
		this.#timer = setTimeout(() => this.#connect(), after);
		this.#become("waiting", reason, Date.now() + after);
	}

	#drop() {
		this.#attempt++;
		clearTimeout(this.#timer);
		clearInterval(this.#pulse);
		for (const { again } of this.#streams.values()) clearTimeout(again);
		this.#openedAt = 0;
		if (!this.#socket) return;
		this.#socket.onopen = this.#socket.onmessage = this.#socket.onclose = null;
		this.#socket.close();
		this.#socket = null;
	}

	#send(frame) {
		this.#socket.send(JSON.stringify(frame));
	}

	#ask(stream) {
		const { streamId, since } = stream.subscription;
		stream.refused = false;
		stream.askedAt = Date.now();
		this.#send({ type: "subscribe", stream_id: streamId, since: since || undefined });
	}

	#unsubscribe(subscription) {
		const stream = this.#streams.get(subscription.streamId);
		if (stream?.subscription !== subscription) return;
		stream.subscription = null;
		clearTimeout(stream.again);
		if (this.#openedAt && !stream.refused) {
			stream.leaving++; // until the answer, what comes is for nobody
			this.#send({ type: "unsubscribe", stream_id: subscription.streamId });
		} else if (!stream.leaving) {
			this.#streams.delete(subscription.streamId);
		}
	}

	#hear(text) {
		this.#heardAt = Date.now();
		const frame = JSON.parse(text);
		const stream = this.#streams.get(frame.stream_id);
		switch (frame.type) {
			case "status":
				this.#hearStatus(frame.data.reason ?? "", frame.stream_id, stream);
				break;
			case "reconnect":
				this.#after = frame.after_ms;
				break;
			case "error":
				if (frame.data.code === "not_subscribed") this.#left(frame.stream_id, stream);
				else this.#hearError(frame.data, stream);
				break;
			case "unsubscribed":
				this.#left(frame.stream_id, stream);
				break;
			default:
				if (stream?.subscription && !stream.leaving) this.#hearStream(frame, stream);
		}
	}

	// Of one stream, or of all.
	#hearStatus(reason, streamId, stream) {
		if (stream) stream.delayed = reason;
		else if (!streamId) this.#delayed = reason;
		const why = this.#delayed || [...this.#streams.values()].find((s) => s.delayed)?.delayed || "";
		this.#become(why ? "degraded" : "live", why);
	}

	#left(streamId, stream) {
		if (!stream) return;
		if (stream.delayed) this.#hearStatus("", streamId, stream);
		if (--stream.leaving === 0 && !stream.subscription) this.#streams.delete(streamId);
	}

	#hearStream(frame, stream) {
		const { subscription, handlers } = stream;
		if (frame.type === "connected") {
			this.#begunAt ||= this.#heardAt;
			this.#setClock(frame.timestamp, stream.askedAt);
			stream.askedAt = 0;
			if (!frame.resumed) subscription.since = ""; // there is none before the end of the state
			call(handlers.onConnected, { resumed: frame.resumed, reason: frame.reason ?? "", id: frame.id ?? "" });
		} else {
			if (!frame.state) frame.lag = Math.max(this.#heardAt + this.#ahead - frame.timestamp, 0);
			call(handlers.onEvent, frame);
		}
		if (frame.id) subscription.since = frame.id; // handled: it need not come again
	}

	#setClock(theirs, askedAt) {
		const trip = this.#heardAt - askedAt;
		if (!askedAt || trip > this.#trip) return;
		this.#trip = trip;
		this.#ahead = theirs - (askedAt + this.#heardAt) / 2;
	}

	#hearError(error, stream) {
		const mine = stream?.subscription && !stream.leaving;
		if (mine) stream.refused = true;
		if (mine && error.code === "too_many_streams") {
			stream.again = setTimeout(() => this.#ask(stream), fullWithin * (1 + Math.random()));
		}
		call((mine ? stream.handlers : this.#options).onError, error);
	}
}

const closeReasons = {
	1001: "the gateway goes away",
	1008: "the token has expired, or too much was sent",
	1013: "this page was too slow",
};

async function ask(socketURL, token) {
	const url = new URL(`${socketURL}/health`.replace("ws", "http"));
	try {
		const headers = token ? { Authorization: `Bearer ${token}` } : {};
		const response = await fetch(url, { headers, cache: "no-store", signal: AbortSignal.timeout(connectWithin) });
		const { status } = response;
		if (response.ok) return { reason: "a limit is reached, or WebSockets do not get through" };
		const { detail = `the gateway answers with ${status}` } = await response.json().catch(() => ({}));
		const seconds = Number(response.headers.get("Retry-After"));
		return {
			reason: status === 404 ? "there is no gateway at this address" : detail,
			refused: status === 401 || status === 403,
			after: seconds > 0 ? (seconds + Math.random()) * 1000 : null,
		};
	} catch {
		const why = url.origin === location.origin ? "" : ", or does not allow this origin";
		return { reason: navigator.onLine ? `the gateway cannot be reached${why}` : "this device is offline" };
	}
}

/** call keeps what a handler throws from ending the connection. */
function call(handler, argument) {
	try {
		handler?.(argument);
	} catch (error) {
		reportError(error);
	}
}

/** Backoff is a random part of twice the time for which nothing was of use: pages that were cut off
 * together do not come back together. */
export class Backoff {
	#since = 0; // of the first failure in a row
	#bound = 0; // of the last pause

	constructor(least = 200, most = 20_000) {
		Object.assign(this, { least, most }); // ms, of the bound
	}

	/** The pause before the next attempt, in ms. */
	next(now = Date.now()) {
		this.#since ||= now;
		this.#bound = Math.min(Math.max(2 * (now - this.#since), this.least), this.most);
		return Math.random() * this.#bound;
	}

	/** A connection was open for so many ms: few are of no use. */
	lasted(ms) {
		if (ms > Math.min(this.#bound, 1000)) this.#since = 0;
		else if (this.#since) this.#since += ms;
	}
}
