package main

import (
	"context"
	"os"
	"reflect"

	"github.com/alecthomas/kong"

	"github.com/telemetra/telemetra/cmd/internal/bench"
)

type benchCmd struct {
	Config bench.Config `embed:""`

	All         bench.All         `cmd:"" default:"withargs" help:"All but steady and growth; each flag of a bench behind its name."`
	Latency     bench.Latency     `cmd:"" help:"From the INSERT until the frame is in the client."`
	Fanout      bench.Fanout      `cmd:"" help:"CPU time of a gateway for a frame, against a bare write."`
	Throughput  bench.Throughput  `cmd:"" help:"The highest rate of rows that reach their clients in time."`
	Writers     bench.Writers     `cmd:"" help:"Inserts a second, against tables that nothing captures, and against NOTIFY from a row trigger."`
	Connections bench.Connections `cmd:"" help:"Memory and CPU time of an idle client."`
	Storm       bench.Storm       `cmd:"" help:"Many clients that come at the same time."`
	Flood       bench.Flood       `cmd:"" help:"What one address that opens very many streams costs the others."`
	Stuck       bench.Stuck       `cmd:"" help:"What clients that take nothing cost the others."`
	Rest        bench.Rest        `cmd:"" help:"Reads, against a bare handler, and of many rows."`
	Backlog     bench.Backlog     `cmd:"" help:"What was written while no listener was running."`
	LargeRows   bench.LargeRows   `cmd:"" help:"Memory of a serve whose rows have megabytes."`
	Start       bench.Start       `cmd:"" help:"Until a process is ready."`
	Steady      bench.Steady      `cmd:"" help:"What a serve holds that runs for long."`
	Growth      bench.Growth      `cmd:"" help:"Latency, CPU time and memory at 10 and 100 times the streams, clients and rows."`
	Peer        bench.Peer        `cmd:"" help:"CPU time, latency and memory beside a Centrifugo, which make bench-peer installs. Not one of all."`
}

// Run measures on private servers what was chosen.
func (c *benchCmd) Run(ctx context.Context, command *kong.Context, out output) error {
	benches := c.All.Benches()
	if one, ok := reflect.TypeAssert[bench.Bench](command.Selected().Target.Addr()); ok {
		benches = []bench.Bench{one}
	}
	c.Config.Version = version
	return bench.Run(ctx, c.Config, benches, out, os.Stderr)
}

// floorCmd has what the bench measures against.
type floorCmd struct {
	Reads  floorReadsCmd  `cmd:"" help:"Serve a file by a bare HTTP handler."`
	Frames floorFramesCmd `cmd:"" help:"Write a file to every socket, at each byte of the first."`
}

type floorReadsCmd struct {
	Body string `arg:"" type:"existingfile" help:"File with the body to serve."`
}

// Run serves until it is told to stop.
func (c *floorReadsCmd) Run(ctx context.Context) error {
	return bench.FloorReads(ctx, c.Body, os.Stderr)
}

type floorFramesCmd struct {
	Frame   string `arg:"" type:"existingfile" help:"File with the bytes to write."`
	Sockets int    `required:"" help:"How many sockets come."`
}

// Run writes until it is told to stop.
func (c *floorFramesCmd) Run(ctx context.Context) error {
	return bench.FloorFrames(ctx, c.Frame, c.Sockets, os.Stderr)
}
