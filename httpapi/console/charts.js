// The charts of a stream, over the same hour and with one cursor.

import { count, rate, signed, timeOfDay } from "./format.js";

const kinds = {
	viewers: { title: "Viewers", of: (w) => w.viewers, format: count, unit: "viewers", about: /viewer/, least: 1 },
	rate: { title: "Chat rate", of: (w) => w.rate, format: rate, unit: "messages a second", about: /chat/, least: 0.1 },
	sentiment: { title: "Sentiment", of: (w) => w.sentiment, format: signed, unit: "sentiment", about: /sentiment/, domain: [-1, 1], least: 0.5 },
};
const pad = { left: 46, right: 10, top: 10, bottom: 20 };
const longestStep = 150_000; // ms between two windows of one line

function svg(tag, attributes, ...children) {
	const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
	for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
	element.append(...children);
	return element;
}

/** A line through points [x, y]. */
export const path = (points) => (points.length > 0 ? `M${points.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`).join("L")}` : "");

/** How severe a moment is, in a word. */
export const grade = (severity) => (severity >= 0.7 ? "high" : severity >= 0.55 ? "medium" : "low");

/** About n round numbers from lo to hi, at least so far apart. */
function steps(lo, hi, n, least) {
	const power = 10 ** Math.floor(Math.log10((hi - lo) / n));
	const step = Math.max(power * ([1, 2, 5].find((s) => s * power * n >= hi - lo) ?? 10), least);
	const first = Math.ceil(lo / step);
	return Array.from({ length: Math.floor(hi / step + 1e-9) - first + 1 }, (_, i) => (first + i) * step);
}

export class Charts {
	#root;
	#model;
	#now = 0;
	#cursor = NaN; // a time

	constructor(root) {
		this.#root = root;
		new ResizeObserver(() => this.#draw()).observe(root);
		for (const type of ["pointermove", "pointerleave"]) root.addEventListener(type, (event) => this.#point(event));
	}

	draw(model, now) {
		if (model !== this.#model) this.#cursor = NaN;
		this.#model = model;
		this.#now = now;
		this.#draw();
	}

	// The window that is nearest to the cursor, if there is a cursor.
	#under(points) {
		const far = points.map((p) => Math.abs(p.at - this.#cursor));
		return points[far.indexOf(Math.min(...far))];
	}

	#point({ type, clientX }) {
		const { from, until } = this.#model.span(this.#now);
		const { left, width, unit } = measure(this.#root.querySelector("svg"));
		const part = ((clientX - left) / unit - pad.left) / (width - pad.left - pad.right);
		this.#cursor = type === "pointerleave" ? NaN : from + part * (until - from);
		this.#draw();
	}

	#draw() {
		if (!this.#model || this.#root.clientWidth === 0) return;
		const span = this.#model.span(this.#now);
		const { from, until } = span;
		// Each window at its end: that is until when its figures are true.
		const points = this.#model.series.filter((w) => w.end >= from && w.start <= until).map((w) => ({ ...w, at: Math.min(w.end, until) }));
		const moments = this.#model.momentList().filter((m) => m.time >= from && m.time <= until);
		const under = this.#under(points);
		for (const figure of this.#root.querySelectorAll("figure")) {
			const kind = kinds[figure.dataset.chart];
			const drawing = figure.querySelector("svg");
			drawing.replaceChildren(...draw(drawing, kind, span, points, moments, under));
			drawing.setAttribute("aria-label", label(kind, points, moments));
			figure.querySelector("figcaption span").textContent = under ? `${timeOfDay(under.start)}  ${kind.format(kind.of(under))}` : "";
		}
	}
}

const known = (kind, points) => points.filter((p) => Number.isFinite(kind.of(p)));

function label(kind, points, moments) {
	const values = known(kind, points).map(kind.of);
	if (values.length === 0) return `${kind.title}: nothing in this hour`;
	const [now, least, most] = [values.at(-1), Math.min(...values), Math.max(...values)].map(kind.format);
	return `${kind.title} of the last hour: now ${now} ${kind.unit}, ${least} to ${most}; ${moments.length} moments`;
}

/** The size of a drawing, in units that grow with the text of the page. */
function measure(drawing) {
	const unit = parseFloat(getComputedStyle(document.documentElement).fontSize) / 16; // pixels
	const { left, width, height } = drawing.getBoundingClientRect();
	return { left, width: width / unit, height: height / unit, unit };
}

function draw(drawing, kind, { from, until }, points, moments, under) {
	const { width, height } = measure(drawing);
	drawing.setAttribute("viewBox", `0 0 ${width} ${height}`);
	const [right, bottom] = [width - pad.right, height - pad.bottom];
	const there = known(kind, points);
	const [lo, hi] = kind.domain ?? [Math.min(0, ...there.map(kind.of)), 1.15 * (Math.max(...there.map(kind.of)) || 1)];
	const x = (t) => pad.left + ((t - from) / (until - from)) * (right - pad.left);
	const y = (v) => bottom - ((v - lo) / (hi - lo)) * (bottom - pad.top);
	const at = (p) => [x(p.at), y(kind.of(p))];

	const parts = [gradient(kind, y(0))];
	for (const v of there.length > 0 ? steps(lo, hi, height < 120 ? 2 : 5, kind.least) : []) {
		parts.push(svg("line", { class: v === 0 ? "axis" : "grid", x1: pad.left, x2: right, y1: y(v), y2: y(v) }));
		parts.push(svg("text", { class: "y", x: pad.left - 8, y: y(v) + 4 }, kind.format(v)));
	}
	const every = (width < 420 ? 20 : 10) * 60_000;
	for (let t = Math.ceil(from / every) * every; t <= until; t += every) {
		parts.push(svg("text", { x: x(t), y: height - 4 }, timeOfDay(t)));
	}
	for (const m of moments) parts.push(mark(kind, m, x(m.time), bottom));
	for (const run of runs(there)) {
		const line = path(run.map(at));
		parts.push(svg("path", { class: "area", fill: `url(#${fill(kind)})`, d: `${line}L${x(run.at(-1).at)} ${y(0)}L${x(run[0].at)} ${y(0)}Z` }));
		parts.push(svg("path", { class: "line", stroke: `url(#${fill(kind)})`, d: line }));
	}
	if (kind === kinds.rate) {
		for (const p of there.filter((w) => w.anomaly)) parts.push(svg("circle", { class: "anomaly", cx: at(p)[0], cy: at(p)[1], r: 3 }));
	}
	if (under) parts.push(svg("line", { class: "cursor", x1: x(under.at), x2: x(under.at), y1: pad.top, y2: bottom }));
	const tip = there.findLast((p) => !under || p === under);
	if (tip) parts.push(svg("circle", { class: "tip", cx: at(tip)[0], cy: at(tip)[1], r: 4 }));
	else if (!under) parts.push(svg("text", { x: width / 2, y: height / 2 }, "Nothing in this hour"));
	return parts;
}

/** A moment is a line, with a head on the chart it is about. */
function mark(kind, moment, x, bottom) {
	const about = Object.values(kinds).find((k) => k.about.test(moment.metric || moment.type)) ?? kinds.rate;
	const group = svg("g", { class: `moment ${grade(moment.severity)}`, "data-moment": moment.id }, svg("line", { x1: x, x2: x, y1: pad.top, y2: bottom }));
	if (about === kind) group.append(svg("path", { d: `M${x} ${pad.top - 7}l6 7l-6 7l-6 -7Z` }));
	return group;
}

/** The parts of a line between which windows are missing. */
function runs(points) {
	const out = [];
	for (const p of points) {
		if (p.start - out.at(-1)?.at(-1).end <= longestStep) out.at(-1).push(p);
		else out.push([p]);
	}
	return out;
}

const fill = (kind) => `fill-${kind.unit.slice(0, 3)}`;

/** What lines and areas are drawn with; the sentiment changes its colour at zero. */
function gradient(kind, zero) {
	const stops = ["first", "second"].map((name, i) => svg("stop", { class: name, offset: i }));
	const range = kind.domain ? { y1: zero - 0.5, y2: zero + 0.5 } : { y1: pad.top, y2: zero };
	return svg("linearGradient", { id: fill(kind), gradientUnits: "userSpaceOnUse", x1: 0, x2: 0, ...range }, ...stops);
}
