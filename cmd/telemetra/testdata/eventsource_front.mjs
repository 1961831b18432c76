// Follows an address with sources of the npm package "eventsource", and prints what they were given:
// once for each line that it reads.
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import * as eventsource from "eventsource";

const [script, address, n] = process.argv.slice(2);
const EventSource = eventsource.EventSource ?? eventsource.default; // before version 3
const follow = new Function(`${readFileSync(script, "utf8")}; return follow`)();
const sources = follow(EventSource, address, Number(n));
for await (const _ of createInterface({ input: process.stdin })) console.log(JSON.stringify(sources));
process.exit();
