import { ReadError } from "/console/api.js";
import { Follower } from "/console/follow.js";
import { Model } from "/console/model.js";
import { clock, equal, settle } from "./fakes.js";

/**
 * follower follows "a" by a client and reads that are the test's: reads.eventId is what each
 * read is as new as, by the end of its path; subscriptions are what the client was asked for.
 */
function follower(eventIds = {}, deep = true) {
	const subscriptions = [];
	const client = {
		subscribe(id, handlers) {
			const subscription = { id, ...handlers, closed: false, close: () => (subscription.closed = true) };
			if (subscriptions.some((s) => !s.closed)) throw new Error(`${id} is subscribed to`);
			subscriptions.push(subscription);
			return subscription;
		},
	};
	const reads = {
		paths: [],
		eventId: "",
		windows: () => [],
		wait: null, // what each read waits for
		fail: null, // with what each read fails
		async get(path) {
			this.paths.push(path);
			const { eventId, fail } = this;
			await this.wait;
			if (fail) throw fail;
			const limit = Number(/metrics\?limit=(\d+)/.exec(path)?.[1]);
			return { data: limit ? this.windows(limit) : path.includes("moments") ? [] : {}, eventId: eventIds[path] ?? eventId };
		},
	};
	const told = [];
	const follower = new Follower({ client, reads, model: new Model("a"), deep, told: (event) => told.push(event?.id ?? null) });
	return { follower, reads, subscriptions, told, sinces: () => subscriptions.map((s) => s.since) };
}

const windows = "/api/v1/streams/a/metrics?limit=90";
const moments = "/api/v1/streams/a/moments?limit=200";
const stream = "/api/v1/streams/a";
const rounds = ({ paths }) => paths.filter((path) => path === stream).length;

/** begun is one whose reads are as new as an event, and whose stream begins with a state. */
async function begun(readId, stateId) {
	const f = follower();
	f.reads.eventId = readId;
	await f.follower.start();
	equal(f.sinces(), [readId]);
	f.subscriptions[0].onConnected({ resumed: false, reason: "expired", id: stateId });
	return f;
}

export async function followsBehindTheOldestOfItsReads() {
	const { follower: one, reads, sinces } = follower({ [windows]: "e-95", [moments]: "e-9", [stream]: "e-100" });
	await one.start();
	equal(reads.paths, [windows, moments, stream]);
	equal([sinces(), one.loaded], [["e-9"], true]);
}

export async function followsFromTheStateWhereReadsAreOfTwoEpochs() {
	for (const ids of [{ [windows]: "e-95", [moments]: "f-2", [stream]: "f-2" }, { [windows]: "e-95", [moments]: "e-95", [stream]: "" }]) {
		const { follower: one, sinces } = follower(ids);
		await one.start();
		equal(sinces(), [""]);
	}
}

export async function listFollowsBehindItsWindows() {
	const { follower: one, reads, sinces } = follower({}, false);
	reads.eventId = "e-5";
	await one.start();
	equal([reads.paths, sinces()], [["/api/v1/streams/a/metrics?limit=30"], ["e-5"]]);
}

export async function windowsThatAreShortAreReadOn() {
	const { follower: one, reads } = follower();
	const at = (i) => ({ window_start: new Date(clock.now - 10_000 * i).toISOString(), top_emotes: [] });
	reads.windows = (limit) => Array.from({ length: Math.min(limit, 300) }, (_, i) => at(i));
	await one.start();
	equal([reads.paths.at(-1), one.model.series.length], ["/api/v1/streams/a/metrics?limit=1000", 300]);
}

export async function gapIsClosedByEventsFromBehindTheReads() {
	const { reads, subscriptions, sinces } = await begun("e-50", "e-100");
	reads.eventId = "e-90";
	await clock.pass(249);
	equal(rounds(reads), 1);
	await clock.pass(1);
	equal([rounds(reads), sinces(), subscriptions[0].closed], [2, ["e-50", "e-90"], true]);
	subscriptions[1].onConnected({ resumed: true, reason: "", id: "" });
	await clock.pass(60_000);
	equal([rounds(reads), sinces()], [2, ["e-50", "e-90"]], "all is known");
}

export async function readsAsNewAsTheStateCloseTheGap() {
	const { reads, subscriptions, sinces } = await begun("e-50", "e-100");
	reads.eventId = "e-100";
	await clock.pass(60_000);
	equal([rounds(reads), sinces(), subscriptions[0].closed], [2, ["e-50"], false]);
}

export async function stateIsAsNewAsItsLastEvent() {
	const { reads, subscriptions, sinces } = await begun("e-50", "");
	subscriptions[0].onEvent({ type: "viewers", state: true, data: {} });
	subscriptions[0].onEvent({ type: "viewers", id: "e-100", state: true, data: {} });
	subscriptions[0].onEvent({ type: "viewers", id: "e-120", lag: 0, data: {} });
	reads.eventId = "e-110";
	await clock.pass(60_000);
	equal([rounds(reads), sinces()], [2, ["e-50"]]);
}

export async function readsOfAnotherEpochAreReadAgain() {
	const { reads, sinces } = await begun("e-500", "f-3");
	reads.eventId = "e-500";
	await clock.pass(250);
	equal(rounds(reads), 2);
	await clock.pass(999);
	equal(rounds(reads), 2);
	reads.eventId = "f-3";
	await clock.pass(1);
	equal(rounds(reads), 3);
	await clock.pass(60_000);
	equal([rounds(reads), sinces()], [3, ["e-500"]], "they are as new as the state");
}

export async function readsOfNoKnownAgeAreReadAFewTimes() {
	const { reads, sinces } = await begun("", "f-3");
	await clock.pass(60_000);
	equal([rounds(reads), sinces()], [5, [""]]);
}

export async function streamThatNeverResumesIsNotAskedForEver() {
	const { reads, subscriptions } = await begun("e-50", "e-100");
	for (let i = 1; i < 20; i++) {
		await clock.pass(60_000);
		const last = subscriptions.at(-1);
		if (last.begun) break;
		last.begun = true;
		last.onConnected({ resumed: false, reason: "expired", id: "e-100" });
	}
	equal([subscriptions.length < 5, rounds(reads) < 6], [true, true]);
}

export async function toldWhetherNothingWasMissed() {
	const { follower: one, subscriptions } = await begun("e-50", "e-100");
	equal(one.resumed, false);
	subscriptions[0].onConnected({ resumed: true, reason: "", id: "" });
	equal(one.resumed, true);
	subscriptions[0].onConnected({ resumed: false, reason: "reset", id: "" });
	equal(one.resumed, false);
}

export async function readsThatDoNotAnswerAreNotWaitedFor() {
	const { follower: one, reads, subscriptions, sinces } = follower();
	let answer;
	reads.wait = new Promise((done) => (answer = done));
	reads.eventId = "e-90";
	one.start();
	await clock.pass(1999);
	equal(sinces(), []);
	await clock.pass(1);
	equal([sinces(), one.loaded], [[""], false]);
	subscriptions[0].onConnected({ resumed: false, reason: "new", id: "e-100" });
	answer();
	await settle();
	equal([sinces(), one.loaded, subscriptions[0].closed], [["", "e-90"], true, true], "once they answer");
}

export async function readsThatFailAreTriedAgain() {
	const { follower: one, reads, told, sinces } = follower();
	reads.fail = new ReadError(503, "no");
	await one.start();
	equal([sinces(), one.failed?.status, one.loaded, told], [[""], 503, true, [null]]);
	await clock.pass(4999);
	equal(rounds(reads), 1);
	reads.fail = null;
	await clock.pass(1);
	equal([rounds(reads), one.failed], [2, null]);
	await clock.pass(60_000);
	equal(rounds(reads), 2);
}

export async function readsThatAreForbiddenAreNotTriedAgain() {
	const { follower: one, reads } = follower();
	reads.fail = new ReadError(403, "no");
	await one.start();
	await clock.pass(60_000);
	equal([rounds(reads), one.failed.status], [1, 403]);
}

export async function refusalsAreTold() {
	const { follower: one, subscriptions, told } = follower();
	await one.start();
	subscriptions[0].onError({ code: "too_many_subscriptions", message: "" });
	equal([one.refused?.code, told], ["too_many_subscriptions", [null, null]]);
	subscriptions[0].onConnected({ resumed: true, reason: "", id: "" });
	equal(one.refused, null);
}

export async function stoppedFollowsNothing() {
	const { follower: one, reads, subscriptions } = await begun("e-50", "e-100");
	one.stop();
	await clock.pass(60_000);
	equal([subscriptions.length, subscriptions[0].closed, rounds(reads)], [1, true, 1]);
}

export async function stoppedWhileItReadsFollowsNothing() {
	const { follower: one, reads, subscriptions, told } = follower();
	reads.fail = new ReadError(0, "no");
	one.start();
	one.stop();
	await clock.pass(60_000);
	equal([subscriptions.length, rounds(reads), told], [0, 1, []]);
}
