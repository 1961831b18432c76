import { streams } from "./telemetra.js";

const list = document.getElementById("streams");
for (const stream of await streams()) {
  const p = document.createElement("p");
  p.textContent = stream.title ?? stream.stream_id;
  list.append(p);
}
