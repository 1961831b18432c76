// streams reads the live streams, newest first.
export async function streams() {
  const answer = await fetch("/api/v1/streams");
  return answer.ok ? answer.json() : [];
}
