// The list of live streams.

import { path } from "./charts.js";
import { ago, count, rate } from "./format.js";

const sortEvery = 4000; // ms: rows that jump all the time cannot be read
const sparkline = 1_800_000; // ms

/** The address of a stream's view. */
export const address = (id) => `#/streams/${encodeURIComponent(id)}`;

/** set writes a text where it is another one. */
export function set(element, text) {
	if (element.textContent !== text) element.textContent = text;
}

/** arrange makes items the children of a list, and touches no more than it must. */
export function arrange(list, items) {
	let next = list.firstChild;
	for (const item of items) {
		if (item === next) next = next.nextSibling;
		else list.insertBefore(item, next);
	}
	while (next) [next] = [next.nextSibling, next.remove()];
}

/** In a word, how old the newest row of a stream is. */
export const freshness = (age) => (age < 90_000 ? "fresh" : age < 600_000 ? "late" : "old");

export class StreamList {
	#list = document.getElementById("list");
	#search = document.getElementById("search");
	#template = document.getElementById("row").content.firstElementChild;
	#items = new Map(); // by id
	#order = [];
	#sortedAt = 0;

	/** changed: called when others are to be shown. */
	constructor(changed) {
		this.#search.addEventListener("input", changed);
		this.#search.form.addEventListener("submit", (event) => {
			event.preventDefault();
			const id = this.#search.value.trim();
			const [only, another] = this.#list.querySelectorAll("a");
			if (id) location.hash = another || !only ? address(id) : only.hash;
			this.#search.value = "";
		});
	}

	/** Shows the models that the search finds, and tells how many these are. */
	draw(models, chosen, now) {
		const query = this.#search.value.trim().toLowerCase();
		const found = models.filter((m) => `${m.title}\n${m.id}`.toLowerCase().includes(query));
		this.#sort(found, now);
		const focused = document.activeElement;
		arrange(this.#list, this.#order.map((m) => fill(this.#items.get(m.id) ?? this.#make(m.id), m, m.id === chosen, now)));
		for (const [id, item] of this.#items) if (!item.isConnected) this.#items.delete(id);
		if (focused !== document.activeElement && this.#list.contains(focused)) focused.focus({ preventScroll: true });
		return found.length;
	}

	// The most active first. Those that are there keep their places for a while, and as long as
	// somebody points at them.
	#sort(found, now) {
		const there = new Set(found);
		const kept = this.#order.filter((m) => there.has(m));
		if (kept.length > 0 && (now - this.#sortedAt < sortEvery || this.#list.matches(":hover, :focus-within"))) {
			this.#order = [...new Set([...kept, ...found])];
			return;
		}
		this.#sortedAt = now;
		this.#order = found.sort((a, b) => b.activity(now) - a.activity(now) || (b.viewers || 0) - (a.viewers || 0) || (a.id < b.id ? -1 : 1));
	}

	#make(id) {
		const item = this.#template.cloneNode(true);
		item.querySelector("a").href = address(id);
		this.#items.set(id, item);
		return item;
	}
}

function fill(item, model, chosen, now) {
	const part = (selector) => item.querySelector(selector);
	const { newest } = model;
	const age = Math.max(now - model.writtenAt, 0);
	set(part(".name"), model.name);
	set(part(".viewers"), count(model.viewers));
	set(part(".rate"), rate(newest?.rate));
	set(part(".fresh"), model.writtenAt > 0 ? ago(age) : "no rows yet");
	part(".dot").dataset.fresh = freshness(age);
	part(".flag").hidden = !newest?.anomaly || freshness(age) !== "fresh";
	part("path").setAttribute("d", spark(model.series));
	part("a").ariaCurrent = chosen ? "page" : null;
	return item;
}

/** spark is the chat rate of the last half hour that is known, in a box of 100 by 28. */
function spark(series) {
	const until = series.at(-1)?.start;
	const shown = series.filter((w) => w.start >= until - sparkline && Number.isFinite(w.rate));
	const most = Math.max(...shown.map((w) => w.rate), 1e-9);
	return path(shown.map((w) => [100 - ((until - w.start) / sparkline) * 100, 26 - (w.rate / most) * 24]));
}
