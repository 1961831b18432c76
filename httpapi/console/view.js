// The view of one stream.

import { Charts, grade } from "./charts.js";
import { ago, count, mood, name, percent, rate, signed, timeOfDay, when } from "./format.js";
import { arrange, freshness, set } from "./list.js";

const $ = (selector) => document.querySelector(selector);
const mostEmotes = 20;
const mostRows = 120;

export class StreamView {
	#charts = new Charts($("#charts"));
	#emotes = "";

	draw(model, now) {
		const { newest } = model;
		const age = Math.max(now - model.writtenAt, 0);
		set($("#title"), model.name);
		set($("#stream-id"), model.id);
		set($("#badge"), model.live === false ? "ended" : "live");
		$("#badge").dataset.live = model.live !== false;
		set($("#fresh"), model.writtenAt > 0 ? `newest row ${ago(age)}` : "no rows yet");
		$("#fresh").dataset.fresh = freshness(age);
		set($("#viewers b"), count(model.viewers));
		set($("#rate b"), rate(newest?.rate));
		set($("#sentiment b"), signed(newest?.sentiment));
		set($("#sentiment small"), mood(newest?.sentiment));
		this.#charts.draw(model, now);
		drawMoments(model.momentList());
		this.#drawEmotes(model.emotes(model.span(now).from).slice(0, mostEmotes));
		if ($("#table").open) drawTable(model.series.slice(-mostRows).reverse());
	}

	#drawEmotes(emotes) {
		const key = JSON.stringify(emotes);
		if (key === this.#emotes) return;
		this.#emotes = key;
		$("#emotes").replaceChildren(...emotes.map(([emote, n]) => {
			const item = document.createElement("li");
			item.style.fontSize = `${0.75 + 0.85 * (n / emotes[0][1]) ** 2}rem`;
			item.append(emote, " ", Object.assign(document.createElement("small"), { textContent: count(n) }));
			return item;
		}));
	}
}

function drawMoments(moments) {
	set($("#moments-count"), moments.length > 0 ? count(moments.length) : "");
	$("#no-moments").hidden = moments.length > 0;
	const there = new Map([...$("#moments").children].map((item) => [item.dataset.moment, item]));
	const template = $("#moment").content.firstElementChild;
	arrange($("#moments"), moments.map((m) => fillMoment(there.get(m.id) ?? template.cloneNode(true), m)));
}

function fillMoment(item, m) {
	item.dataset.moment = m.id;
	item.className = grade(m.severity);
	set(item.querySelector("b"), name(m.type));
	set(item.querySelector("time"), when(m.time));
	set(item.querySelector("p"), m.description);
	item.querySelector(".bar i").style.width = `${100 * m.severity}%`;
	set(item.querySelector(".severity"), `severity ${percent(m.severity)}`);
	set(item.querySelector(".why"), `z ${signed(m.z)}${m.metric && ` · ${name(m.metric).toLowerCase()} ${rate(m.value)}`}`);
	return item;
}

function drawTable(windows) {
	const [body] = $("#table table").tBodies;
	windows.forEach((w, i) => {
		const row = body.rows[i] ?? body.insertRow();
		row.dataset.window = new Date(w.start).toISOString();
		const cells = [timeOfDay(w.start), count(w.viewers), rate(w.rate), count(w.messages), count(w.chatters), signed(w.sentiment), signed(w.z)];
		cells.forEach((text, j) => set(row.cells[j] ?? row.insertCell(), text));
	});
	while (body.rows.length > windows.length) body.deleteRow(-1);
}
