package broker

import "strconv"

// PositionKey is the key by which a deployment holds a Redis: without it, the next listener
// opens an epoch.
const PositionKey = prefix + "position"

// All keys of a partition share the hash tag {0}, so that one script can touch
// them in a Redis Cluster.
const (
	prefix = "telemetra:{0}:"

	// positionKey: hash of epoch, token, run, published, opened, state, and of the
	// deployment that it belongs to: deployment, name, origin, server.
	positionKey = PositionKey
	// heartbeatKey: the newest heartbeat of a listener, as JSON.
	heartbeatKey = prefix + "heartbeat"
	// listenersKey: hash of a listener's id to when it was last heard, its origin and its server.
	listenersKey = prefix + "listeners"
	// resetKey: the epoch that a gateway found to be damaged.
	resetKey = prefix + "reset"
	// processesKey: sorted set of the ids of processes, by when they were last heard of.
	processesKey = prefix + "processes"
	// probeKey: never there.
	probeKey = prefix + "probe"
	// cachePrefix and what was asked for are the key of a cached answer. It has
	// no hash tag: no script touches it, and another Redis may hold it.
	cachePrefix = "telemetra:cache:1:"
)

// headsKey: hash of stream id to offset of its newest event.
func headsKey(epoch string) string { return prefix + "heads:" + epoch }

// sizesKey: hash of stream id to an upper bound of its log's bytes.
func sizesKey(epoch string) string { return prefix + "sizes:" + epoch }

// logKey: Redis Stream of a stream's newest messages; entry ids are <offset>-0.
func logKey(epoch, streamID string) string { return prefix + "log:" + epoch + ":" + streamID }

// processKey: what a process has told of itself, as JSON.
func processKey(id string) string { return prefix + "process:" + id }

// channels are the names of a deployment's channels. They carry the number of the
// database, because pub/sub ignores it, and the deployment's id, because another
// deployment may be given the same number.
type channels struct {
	control string // heartbeats and announcements of epochs
	heads   string // the heads that a batch has moved
	events  string // and a stream's id: its events
}

func (b *Redis) channels(deploymentID string) channels {
	p := prefix + strconv.Itoa(b.options.DB) + ":" + deploymentID + ":"
	return channels{control: p + "control", heads: p + "heads", events: p + "events:"}
}
