import { connect } from "/console/telemetra.js";
import { Socket, answer, clock, equal, settle } from "./fakes.js";

answer(() => null);

/** started is a client that connects, and keeps what it is told. */
async function started(options = {}) {
	const states = [];
	const errors = [];
	const client = connect({ onStatus: ({ state }) => states.push(state), onError: ({ code }) => errors.push(code), ...options });
	await settle();
	return Object.assign(client, { states, errors });
}

/** handlers keep what they are told. */
function handlers(more) {
	const told = { events: [], begun: [], errors: [], lags: [] };
	return {
		...told,
		onEvent: (event) => {
			told.events.push(event.data ?? event.id);
			told.lags.push(event.lag);
		},
		onConnected: ({ resumed }) => told.begun.push(resumed),
		onError: ({ code }) => told.errors.push(code),
		...more,
	};
}

const connected = (stream_id, more) => ({ type: "connected", stream_id, timestamp: clock.now, resumed: false, reason: "new", ...more });
const event = (stream_id, id, more) => ({ type: "metrics", stream_id, id, timestamp: clock.now, data: id, ...more });
const state = (stream_id, data, id) => ({ ...event(stream_id, id), data, state: true });
const refusal = (stream_id, code) => ({ type: "error", stream_id, data: { code, message: code } });

const pause = (client) => client.status.retryAt - clock.now;

/** over is whether nothing is left: neither a timer nor a socket. */
function over(client) {
	equal(client.status.state, "closed");
	equal(clock.timers.size, 0, "timers");
	equal(Socket.all.filter((s) => s.state !== "closed").length, 0, "sockets");
}

// The connection.

export async function comesBackSoonWhenOnline() {
	answer(() => ({ status: 503, headers: { "Retry-After": "600" } }));
	const client = await started();
	Socket.last.end();
	await settle();
	equal(pause(client), 600_500);
	dispatchEvent(new Event("online"));
	equal(pause(client), 500, "a random part of a second");
	await clock.pass(500);
	equal(Socket.all.length, 2);
	Socket.last.open();
	dispatchEvent(new Event("online"));
	equal([client.status.state, Socket.last.state], ["live", "open"]);
	client.close();
	dispatchEvent(new Event("online"));
	over(client);
}

export async function silenceEndsTheConnection() {
	const client = await started();
	const socket = Socket.last;
	socket.open();
	await clock.pass(15_000);
	equal(socket.sent, [{ type: "ping", timestamp: clock.now }]);
	await clock.pass(1000);
	socket.bring({ type: "pong" });
	await clock.pass(28_999);
	equal([client.status.state, socket.asked], ["live", ["ping", "ping"]]);
	await clock.pass(1);
	equal([client.status.state, client.status.reason, socket.state], ["waiting", "the gateway has fallen silent", "closed"]);
}

export async function handshakeIsGivenTenSeconds() {
	const client = await started();
	await clock.pass(9999);
	equal(client.status.state, "connecting");
	await clock.pass(1);
	equal([client.status.state, client.status.reason, Socket.last.state], ["waiting", "the gateway does not answer", "closed"]);
	await clock.pass(pause(client));
	Socket.last.open();
	await clock.pass(12_000);
	equal([client.status.state, Socket.all.length], ["live", 2]);
}

export async function tokenIsGivenTenSeconds() {
	const client = await started({ token: () => new Promise(() => {}) });
	await clock.pass(10_000);
	equal([client.status.state, Socket.all.length], ["waiting", 0]);
}

export async function refusedTokenIsFinal() {
	for (const status of [401, 403]) {
		let asked = "";
		answer((path, { Authorization }) => {
			asked = `${path} ${Authorization}`;
			return { status, data: { detail: "no" } };
		});
		const client = await started({ token: "t1" });
		const attempts = Socket.all.length;
		equal(Socket.last.protocols, ["bearer", "t1"]);
		Socket.last.end();
		await settle();
		equal([client.status.state, client.status.reason, asked], ["refused", "no", "/ws/live/health Bearer t1"]);
		dispatchEvent(new Event("online"));
		await clock.pass(3_600_000);
		equal([clock.timers.size, Socket.all.length], [0, attempts], "timers and attempts");
		client.close();
	}
}

export async function nextTokenIsAskedForAfterRefusal() {
	answer((_, { Authorization }) => ({ status: Authorization === "Bearer t1" ? 401 : 403, data: { detail: "no" } }));
	let asked = 0;
	const client = await started({ token: async () => `t${++asked}` });
	for (const token of ["t1", "t2", "t3"]) {
		equal(Socket.last.protocols, ["bearer", token]);
		Socket.last.end();
		await settle();
		equal([client.status.state, client.status.reason, pause(client) > 0], ["waiting", "no", true]);
		await clock.pass(pause(client));
	}
	Socket.last.open();
	equal(client.status.state, "live");
}

export async function tokenThatThrowsIsAskedForAgain() {
	let asked = 0;
	const client = await started({ token: () => (asked++ ? "good" : Promise.reject(new Error("no session"))) });
	equal([client.status.state, client.status.reason, Socket.all.length], ["waiting", "no session", 0]);
	await clock.pass(pause(client));
	equal(Socket.last.protocols, ["bearer", "good"]);
}

export async function retryAfterIsHeeded() {
	answer(() => ({ status: 429, headers: { "Retry-After": "7" } }));
	const client = await started();
	Socket.last.end();
	await settle();
	equal(pause(client), 7500, "7 s and a random part of one");
	await clock.pass(7499);
	equal(Socket.all.length, 1);
	await clock.pass(1);
	equal(Socket.all.length, 2);
	await clock.pass(10_000); // without an answer
	equal([client.status.state, pause(client) <= 200], ["waiting", true], "once");
}

export async function reconnectFrameSaysWhen() {
	const client = await started();
	Socket.last.open();
	Socket.last.bring({ type: "reconnect", after_ms: 12_345 });
	Socket.last.end(1001);
	equal([pause(client), client.status.reason], [12_345, "the gateway goes away"]);
	await clock.pass(12_345);
	Socket.last.open();
	Socket.last.end();
	equal(pause(client) <= 200, true, "once");
}

/** failing is a client that failed for 5.4 s, and now connects. The last pause was bound to 3.6 s. */
async function failing() {
	clock.random = 1; // each pause is its bound
	const client = await started();
	client.subscribe("a", {});
	for (const bound of [200, 400, 1200, 3600]) {
		Socket.last.end();
		await settle();
		equal(pause(client), bound);
		await clock.pass(bound);
	}
	Socket.last.open();
	return client;
}

export async function connectionThatLastedIsOfUse() {
	const client = await failing();
	Socket.last.bring(connected("a"));
	await clock.pass(1001);
	Socket.last.end();
	equal(pause(client), 200);
}

export async function connectionThatDidNotLastIsOfNoUse() {
	const client = await failing();
	Socket.last.bring(connected("a"));
	await clock.pass(1000);
	Socket.last.end();
	equal(pause(client), 2 * 5400, "but no time away");
}

export async function connectionThatBeganNothingIsOfNoUse() {
	const client = await failing();
	await clock.pass(2000);
	Socket.last.end();
	equal(pause(client), 2 * 7400);
}

// Handlers that call back.

export async function closesWhileConnecting() {
	const client = connect({ onStatus: ({ state }) => state === "connecting" && client.close() });
	await settle();
	over(client);
	equal(Socket.all.length, 0);
}

export async function closesWhenLive() {
	const client = await started({ onStatus: ({ state }) => state === "live" && client.close() });
	client.subscribe("a", {});
	Socket.last.open();
	over(client);
}

export async function closesWhileWaiting() {
	const client = await started({ onStatus: ({ state }) => state === "waiting" && client.close() });
	Socket.last.end();
	await settle();
	over(client);
}

export async function closesInAHandler() {
	const client = await started();
	client.subscribe("a", { onEvent: () => client.close() });
	Socket.last.open();
	Socket.last.bring(connected("a"), event("a", "e-1"));
	over(client);
}

export async function asksOnceForWhatIsSubscribedWhenLive() {
	const client = await started({ onStatus: ({ state }) => state === "live" && client.subscribe("b", {}) });
	client.subscribe("a", {});
	Socket.last.open();
	equal(Socket.last.asked, ["subscribe a", "subscribe b"]);
}

export async function handlersThatThrowEndNothing() {
	const reported = [];
	globalThis.reportError = (error) => reported.push(error.message);
	const fail = (what) => () => {
		throw new Error(what);
	};
	const client = await started({ onStatus: fail("status"), onError: fail("error") });
	const subscription = client.subscribe("a", { onConnected: fail("begun"), onEvent: fail("event"), onError: fail("stream") });
	Socket.last.open();
	equal(Socket.last.asked, ["subscribe a"]);
	Socket.last.bring(connected("a"), event("a", "e-1"), refusal(undefined, "x"), refusal("a", "y"), event("a", "e-2"));
	equal(reported, ["status", "status", "begun", "event", "error", "stream", "event"]);
	equal([client.status.state, subscription.since], ["live", "e-2"]);
}

// Lag.

export async function lagIsByTheClockOfTheServer() {
	for (const ahead of [3_600_000, -3_600_000]) {
		const client = await started();
		const told = handlers();
		client.subscribe("a", told);
		Socket.last.open();
		await clock.pass(80);
		Socket.last.bring(connected("a", { timestamp: clock.now - 40 + ahead }), state("a", "old", "e-1"));
		await clock.pass(5000);
		Socket.last.bring(event("a", "e-2", { timestamp: clock.now - 30 + ahead }), event("a", "e-3", { timestamp: clock.now + 30 + ahead }));
		equal(told.lags, [undefined, 30, 0], `ahead by ${ahead}`);
		client.close();
	}
}

export async function clockIsThatOfTheShortestTrip() {
	const client = await started();
	const told = handlers();
	client.subscribe("a", told);
	Socket.last.open();
	await clock.pass(1000);
	Socket.last.bring(connected("a", { timestamp: clock.now })); // 500 ms wrong: all of the trip was on the way there
	client.subscribe("b", {});
	await clock.pass(20);
	Socket.last.bring(connected("b", { timestamp: clock.now - 10 }));
	client.subscribe("c", {});
	await clock.pass(1000);
	Socket.last.bring(connected("c", { timestamp: clock.now }), event("a", "e-1", { timestamp: clock.now - 30 }));
	equal(told.lags, [30]);
}

export async function clockIsMeasuredAnewByEachConnection() {
	const client = await started();
	const told = handlers();
	client.subscribe("a", told);
	Socket.last.open();
	Socket.last.bring(connected("a", { timestamp: clock.now + 3_600_000 })); // no trip could be shorter
	Socket.last.end();
	await clock.pass(pause(client));
	Socket.last.open();
	await clock.pass(80);
	Socket.last.bring(connected("a", { timestamp: clock.now - 40 }), event("a", "e-1", { timestamp: clock.now - 30 }));
	equal(told.lags, [30]);
}

// Streams.

export async function goesOnBehindTheLastEvent() {
	const client = await started();
	const told = handlers({ since: "e-1" });
	const subscription = client.subscribe("a", told);
	Socket.last.open();
	Socket.last.bring(connected("a", { resumed: true }), event("a", "e-2"), event("a", "e-3"));
	Socket.last.end();
	await clock.pass(pause(client));
	Socket.last.open();
	equal([Socket.last.asked, subscription.since, told.events], [["subscribe a e-3"], "e-3", ["e-2", "e-3"]]);
}

export async function stateThatWasCutBeginsAgain() {
	const client = await started();
	const told = handlers({ since: "d-7" });
	const subscription = client.subscribe("a", told);
	Socket.last.open();
	Socket.last.bring(connected("a"), state("a", "first"), state("a", "second"));
	Socket.last.end();
	await clock.pass(pause(client));
	Socket.last.open();
	equal([Socket.last.asked, subscription.since], [["subscribe a"], ""]);
	Socket.last.bring(connected("a"), state("a", "first"), state("a", "second"), state("a", "third", "e-9"));
	Socket.last.end();
	await clock.pass(pause(client));
	Socket.last.open();
	equal(Socket.last.asked, ["subscribe a e-9"]);
	equal([told.begun, told.events], [[false, false], ["first", "second", "first", "second", "third"]]);
}

export async function connectedWithoutStateSaysWhereToGoOn() {
	const client = await started();
	client.subscribe("a", {});
	Socket.last.open();
	Socket.last.bring(connected("a", { id: "e-4" }));
	Socket.last.end();
	await clock.pass(pause(client));
	Socket.last.open();
	equal(Socket.last.asked, ["subscribe a e-4"]);
}

export async function closedSubscriptionHearsNothing() {
	const client = await started();
	const told = handlers();
	const subscription = client.subscribe("a", told);
	Socket.last.open();
	Socket.last.bring(connected("a"), event("a", "e-1"));
	subscription.close();
	Socket.last.bring(event("a", "e-2"), { type: "unsubscribed", stream_id: "a" }, event("a", "e-3"));
	equal([Socket.last.asked, told.events], [["subscribe a", "unsubscribe a"], ["e-1"]]);
	Socket.last.end();
	await clock.pass(pause(client));
	Socket.last.open();
	equal(Socket.last.asked, [], "the next connection");
}

export async function nextSubscriptionHearsNothingOfTheLast() {
	const client = await started();
	const first = handlers();
	const second = handlers();
	const subscription = client.subscribe("a", first);
	Socket.last.open();
	Socket.last.bring(connected("a"), event("a", "e-1"));
	subscription.close();
	client.subscribe("a", { ...second, since: "e-1" });
	subscription.close(); // again: the second is not meant
	equal(Socket.last.asked, ["subscribe a", "unsubscribe a", "subscribe a e-1"]);
	Socket.last.bring(event("a", "e-2"), refusal("a", "internal"), { type: "unsubscribed", stream_id: "a" });
	equal([first.events, second.events, second.errors], [["e-1"], [], []], "before the answer");
	Socket.last.bring(connected("a", { resumed: true }), event("a", "e-2"));
	equal([first.events, second.events, second.begun], [["e-1"], ["e-2"], [true]]);
}

export async function nothingIsLeftOnTheNextConnection() {
	const client = await started();
	const told = handlers();
	const subscription = client.subscribe("a", {});
	Socket.last.open();
	subscription.close();
	client.subscribe("a", told);
	Socket.last.end(); // before the answer
	await clock.pass(pause(client));
	Socket.last.open();
	Socket.last.bring(connected("a"), event("a", "e-1"));
	equal([Socket.last.asked, told.events], [["subscribe a"], ["e-1"]]);
}

export async function refusedSubscriptionIsNotLeft() {
	const client = await started();
	const told = handlers();
	const subscription = client.subscribe("a", told);
	Socket.last.open();
	Socket.last.bring(refusal("a", "too_many_subscriptions"));
	equal(told.errors, ["too_many_subscriptions"]);
	subscription.close();
	equal(Socket.last.asked, ["subscribe a"], "there is nothing to unsubscribe");
	client.subscribe("a", told);
	Socket.last.bring(connected("a"), event("a", "e-1"));
	equal(told.events, ["e-1"]);
}

export async function refusedAtTheSameTimeAsLeft() {
	const client = await started();
	const subscription = client.subscribe("a", {});
	Socket.last.open();
	subscription.close();
	Socket.last.bring(refusal("a", "too_many_subscriptions"), refusal("a", "not_subscribed"));
	equal(client.errors, ["too_many_subscriptions"]);
	const told = handlers();
	client.subscribe("a", told);
	Socket.last.bring(connected("a"), event("a", "e-1"));
	equal(told.events, ["e-1"]);
}

export async function errorsReachWhomTheyAreFor() {
	const client = await started();
	const [a, b] = [handlers(), handlers()];
	client.subscribe("a", a);
	client.subscribe("b", b);
	Socket.last.open();
	Socket.last.bring(refusal("a", "of a"), refusal(undefined, "of none"), refusal("b", "of b"), refusal("c", "of another"));
	equal([a.errors, b.errors, client.errors], [["of a"], ["of b"], ["of none", "of another"]]);
}

export async function statusOfAStreamIsTold() {
	const client = await started();
	client.subscribe("a", handlers());
	const b = client.subscribe("b", handlers());
	Socket.last.open();
	const status = (stream_id, reason) => ({ type: "status", stream_id, data: { status: reason ? "degraded" : "ok", reason } });
	const is = () => [client.status.state, client.status.reason];
	Socket.last.bring(status("a", "of a"));
	equal(is(), ["degraded", "of a"]);
	Socket.last.bring(status("b", "of b"), status(undefined, "of all"));
	equal(is(), ["degraded", "of all"]);
	Socket.last.bring(status("a"), status(undefined));
	equal(is(), ["degraded", "of b"]);
	b.close();
	Socket.last.bring({ type: "unsubscribed", stream_id: "b" });
	equal(is(), ["live", ""]);
}

export async function fullGatewayIsAskedAgain() {
	const client = await started();
	const [a, b] = [handlers(), handlers()];
	client.subscribe("a", a);
	const second = client.subscribe("b", b);
	Socket.last.open();
	Socket.last.bring(refusal("a", "too_many_streams"), refusal("b", "too_many_streams"));
	second.close();
	equal([a.errors, Socket.last.asked], [["too_many_streams"], ["subscribe a", "subscribe b"]]);
	await clock.pass(10_000);
	equal(Socket.last.sent.at(-1), { type: "subscribe", stream_id: "a" });
	equal(Socket.last.asked.length, 3);
	Socket.last.bring(refusal("a", "too_many_streams"));
	client.close();
	over(client);
}

export async function statusOfTheGatewayIsTold() {
	const client = await started();
	Socket.last.open();
	Socket.last.bring({ type: "status", data: { status: "degraded", reason: "no listener" } });
	equal(client.status, { state: "degraded", reason: "no listener", retryAt: 0 });
	Socket.last.bring({ type: "status", data: { status: "ok" } });
	equal([client.status.reason, client.states], ["", ["connecting", "live", "degraded", "live"]]);
}
