// Reads of the REST API.

const patience = 10_000; // ms

/** ReadError is why there is no answer. Its status is 0 when nothing has answered. */
export class ReadError extends Error {
	constructor(status, detail) {
		super(detail);
		this.status = status;
	}
}

/** Reads asks with a token, if there is one, and tells onRung(rung, age) from where answers come. */
export class Reads {
	constructor({ token, onRung }) {
		Object.assign(this, { token, onRung });
	}

	/** Gives the data (where there is none, nothing), the event id they are as new as, and how long the whole list is. */
	async get(path, nothing) {
		const headers = this.token ? { Authorization: `Bearer ${this.token}` } : {};
		const response = await fetch(path, { headers, signal: AbortSignal.timeout(patience) }).catch(() => null);
		if (!response) throw new ReadError(0, "The server does not answer");
		const { ok, status } = response;
		const rung = status === 503 ? "none" : response.headers.get("X-Cache");
		if (rung) this.onRung(rung, Number(response.headers.get("Age")));
		let data = await response.json().catch(() => ({}));
		if (status === 404 && nothing !== undefined) data = nothing;
		else if (!ok) throw new ReadError(status, data.detail ?? `The server answers with ${status}`);
		return { data, eventId: response.headers.get("X-Event-Id") ?? "", total: Number(response.headers.get("X-Total-Count")) };
	}
}

export const streamPath = (id) => `/api/v1/streams/${encodeURIComponent(id)}`;
