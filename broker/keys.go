package broker

// All keys of a partition share the hash tag {0}, so that one script can touch
// them in a Redis Cluster.
const (
	prefix = "telemetra:{0}:"

	// positionKey: hash of epoch, token, run, published, opened, state.
	positionKey = prefix + "position"
	// heartbeatKey: the newest heartbeat of a listener, as JSON.
	heartbeatKey = prefix + "heartbeat"
	// resetKey: the epoch that a gateway found to be damaged.
	resetKey = prefix + "reset"
	// processesKey: sorted set of the ids of processes, by when they were last heard of.
	processesKey = prefix + "processes"
	// probeKey: never there.
	probeKey = prefix + "probe"
	// cachePrefix and what was asked for are the key of a cached answer. It has
	// no hash tag: no script touches it, and another Redis may hold it.
	cachePrefix = "telemetra:cache:1:"

	// controlChannel carries heartbeats and announcements of epochs.
	controlChannel = prefix + "control"
	// headsChannel carries the heads that a batch has moved.
	headsChannel = prefix + "heads"
	// eventPrefix and a stream's id are the channel of its events.
	eventPrefix = prefix + "events:"
)

// headsKey: hash of stream id to offset of its newest event.
func headsKey(epoch string) string { return prefix + "heads:" + epoch }

// sizesKey: hash of stream id to an upper bound of its log's bytes.
func sizesKey(epoch string) string { return prefix + "sizes:" + epoch }

// logKey: Redis Stream of a stream's newest messages; entry ids are <offset>-0.
func logKey(epoch, streamID string) string { return prefix + "log:" + epoch + ":" + streamID }

// processKey: what a process has told of itself, as JSON.
func processKey(id string) string { return prefix + "process:" + id }
