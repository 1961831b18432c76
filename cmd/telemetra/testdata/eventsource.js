// follow opens sources of an address, and returns what each is given.
function follow(EventSource, address, n) {
  return Array.from({ length: n }, () => {
    const got = { begun: [], first: "", ids: [], moments: [], opened: 0, closed: false };
    const source = new EventSource(address);
    source.onopen = () => { got.opened += 1; };
    source.onerror = () => { got.closed = source.readyState === 2; };
    const take = ({ data }) => {
      const event = JSON.parse(data);
      if (event.type === "connected") got.begun.push(event.resumed ? "resumed" : event.reason);
      if (!event.id) return;
      if (event.type === "connected" || event.state) {
        got.first ||= event.id;
        return;
      }
      got.ids.push(event.id);
      if (event.type === "moment") got.moments.push(event.data.moment_id);
    };
    for (const type of ["connected", "metrics", "moment", "stream", "viewers"]) source.addEventListener(type, take);
    return got;
  });
}
