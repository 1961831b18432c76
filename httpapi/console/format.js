// How numbers and times are written.

const digits = (n, more) => new Intl.NumberFormat("en", { maximumFractionDigits: n, ...more });
const whole = digits(0);
const one = digits(1);
const compact = digits(1, { notation: "compact" });
const two = digits(2, { minimumFractionDigits: 2, signDisplay: "exceptZero" });
const clock = (day) => new Intl.DateTimeFormat("en-GB", { ...day, hour: "2-digit", minute: "2-digit" });
const time = clock({});
const dayAndTime = clock({ day: "numeric", month: "short" });

const known = (format) => (value) => (Number.isFinite(value) ? format(value) : "–");

/** 1,234; from 100,000 on 123.4K. */
export const count = known((n) => (Math.abs(n) < 100_000 ? whole : compact).format(n));
/** What may be small: 12.3. */
export const rate = known((n) => (Math.abs(n) < 100 ? one : compact).format(n));
/** +0.25 */
export const signed = known((n) => two.format(n));
export const percent = known((n) => `${whole.format(100 * n)} %`);

/** 4 ms, 1.2 s, 3 min. */
export const duration = known((ms) => {
	if (ms < 1000) return `${whole.format(ms)} ms`;
	return ms < 60_000 ? `${one.format(ms / 1000)} s` : `${whole.format(ms / 60_000)} min`;
});

/** How long ago something was, in words that last. */
export const ago = known((ms) => {
	if (ms < 5000) return "now";
	if (ms < 60_000) return `${5 * Math.floor(ms / 5000)} s ago`;
	if (ms < 5_400_000) return `${Math.floor(ms / 60_000)} min ago`;
	return ms < 172_800_000 ? `${Math.round(ms / 3_600_000)} h ago` : `${Math.floor(ms / 86_400_000)} days ago`;
});

/** 16:32, in the zone of the reader. */
export const timeOfDay = known((ms) => time.format(ms));

/** With the day when it is another one. */
export const when = known((ms) => (Math.abs(Date.now() - ms) < 43_200_000 ? time : dayAndTime).format(ms));

/** chat_spike: Chat spike. */
export const name = (text) => {
	const words = (text || "moment").replaceAll("_", " ");
	return words[0].toUpperCase() + words.slice(1);
};

/** A sentiment in a word. */
export const mood = (score) => (score > 0.15 ? "positive" : score < -0.15 ? "negative" : Number.isFinite(score) ? "neutral" : "");
