import * as format from "/console/format.js";
import { clock, equal } from "./fakes.js";

const second = 1000;
const minute = 60 * second;
const hour = 60 * minute;
const day = 24 * hour;

/** writes holds what a format makes of values against what is wanted. */
function writes(write, wanted) {
	for (const [value, want] of wanted) equal(write(value), want, String(value));
}

export async function numbers() {
	writes(format.count, [[0, "0"], [1234, "1,234"], [99_999, "99,999"], [123_456, "123.5K"], [2_000_000, "2M"], [null, "–"], [undefined, "–"], [NaN, "–"]]);
	writes(format.rate, [[0.04, "0"], [12.34, "12.3"], [99.9, "99.9"], [1234, "1.2K"], [null, "–"]]);
	writes(format.signed, [[0.254, "+0.25"], [-1, "-1.00"], [0, "0.00"], [undefined, "–"]]);
	writes(format.percent, [[0.7, "70 %"], [null, "–"]]);
}

export async function howLong() {
	writes(format.duration, [[4, "4 ms"], [999, "999 ms"], [1200, "1.2 s"], [59_900, "59.9 s"], [3 * minute, "3 min"], [NaN, "–"]]);
	writes(format.ago, [
		[0, "now"], [4999, "now"], [5000, "5 s ago"], [14_999, "10 s ago"], [59_999, "55 s ago"],
		[minute, "1 min ago"], [89.9 * minute, "89 min ago"], [90 * minute, "2 h ago"], [47 * hour, "47 h ago"], [2.9 * day, "2 days ago"], [NaN, "–"],
	]);
}

export async function whatTimeItIs() {
	const local = (ms) => [new Date(ms).getHours(), new Date(ms).getMinutes()].map((n) => String(n).padStart(2, "0")).join(":");
	writes(format.timeOfDay, [[clock.now, local(clock.now)], [NaN, "–"]]);
	writes(format.when, [[clock.now - 11 * hour, local(clock.now - 11 * hour)], [NaN, "–"]]);
	const before = clock.now - 3 * day;
	equal(format.when(before), `${new Date(before).getDate()} Jan, ${local(before)}`);
}

export async function words() {
	writes(format.name, [["chat_spike", "Chat spike"], ["a_b_c", "A b c"], ["", "Moment"]]);
	writes(format.mood, [[0.2, "positive"], [0.15, "neutral"], [-0.15, "neutral"], [-0.2, "negative"], [null, ""], [undefined, ""]]);
}
