// Telemetra pushes rows that a job commits to Postgres to every dashboard that
// watches their stream.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	_ "time/tzdata" // for SOURCE_TIMEZONE in an image that has nothing but this binary

	"github.com/alecthomas/kong"
)

// version is set by the build.
var version = "dev"

// cli has a field for each command; its file is named after it.
type cli struct {
	Serve       serveCmd       `cmd:"" help:"Run listener, gateway and api in one process."`
	Listener    listenerCmd    `cmd:"" help:"Carry committed changes from Postgres to Redis."`
	Gateway     gatewayCmd     `cmd:"" help:"Push events to WebSocket clients."`
	API         apiCmd         `cmd:"" name:"api" help:"Answer REST reads."`
	Migrate     migrateCmd     `cmd:"" help:"Bring the database to the newest version."`
	Demo        demoCmd        `cmd:"" help:"Run everything with private servers and made-up traffic."`
	Simulate    simulateCmd    `cmd:"" help:"Write rows as an aggregation job would."`
	Status      statusCmd      `cmd:"" help:"Show how listeners, gateways, apis and streams are."`
	Doctor      doctorCmd      `cmd:"" help:"Check a deployment and say how to mend it."`
	Healthcheck healthcheckCmd `cmd:"" help:"Ask the process on this machine whether it is ready."`
	Soak        soakCmd        `cmd:"" help:"Write, follow, break things, and compare: is anything lost?"`
	Bench       benchCmd       `cmd:"" help:"Measure on private servers."`
	Floor       floorCmd       `cmd:"" name:"bench-floor" hidden:"" help:"What the bench measures against."`
	Config      configCmd      `cmd:"" help:"Print the configuration that is in force, secrets masked."`
	Version     versionCmd     `cmd:"" help:"Print the version."`
}

func main() {
	os.Exit(run(untilSignal(), os.Args[1:], os.Stdout, os.Stderr))
}

// untilSignal ends with the first signal to end. The second one ends the process at once,
// however soon it comes.
func untilSignal() context.Context {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		<-signals
		cancel()
		<-signals
		os.Exit(1)
	}()
	return ctx
}

// output is where a command prints its result; logs go to standard error.
type output struct{ io.Writer }

// newParser reads command lines into c, and runs its commands.
func newParser(ctx context.Context, c *cli, stdout, stderr io.Writer, exit func(code int)) (*kong.Kong, error) {
	return kong.New(c, append(badValues{}.options(),
		kong.Name("telemetra"),
		kong.Description("Pushes committed rows to live dashboards."),
		kong.UsageOnError(),
		kong.Writers(stdout, stderr),
		kong.Exit(exit),
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Bind(output{stdout}),
	)...)
}

// run is main without the process around it.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) (code int) {
	exited := false
	parser, err := newParser(ctx, &cli{}, stdout, stderr, func(c int) { exited, code = true, c })
	if err != nil {
		fmt.Fprintln(stderr, "telemetra:", err)
		return 2
	}
	command, err := parser.Parse(args)
	if exited { // --help
		return code
	}
	if err != nil {
		if wrong, ok := errors.AsType[*settingsError](err); ok {
			err = wrong // without the name of the command, which has nothing to do with it
		}
		fmt.Fprintln(stderr, "telemetra:", err)
		return 2
	}
	if err := command.Run(); err != nil && ctx.Err() == nil {
		fmt.Fprintln(stderr, "telemetra:", err)
		return 1
	} else if err != nil {
		fmt.Fprintln(stderr, "telemetra: stopped:", err)
		return 1
	}
	return 0
}
