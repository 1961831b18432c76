// Package soak proves a deployment by breaking it: marked rows are written at a
// rate, clients follow them over WebSockets and Server-Sent Events, faults are
// injected one after the other, and at the end what each client was given is
// compared with what the tables hold.
package soak

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// Config says what is written, who follows it, and what is broken meanwhile.
type Config struct {
	Duration time.Duration `default:"1m" help:"How long rows are written; a fault that has begun is brought to its end."`
	Times    int           `placeholder:"N" help:"Inject each fault so often, and end then, instead of after --duration."`
	Rate     int           `default:"300" help:"Rows a second, over all streams."`
	Clients  int           `default:"200" help:"Clients, at least one for each stream; about half of them over Server-Sent Events."`
	Streams  int           `default:"50" help:"Streams that the rows are of; the clients are spread over them."`
	Faults   []string      `default:"all" placeholder:"NAME" help:"Faults to inject, see above; all, or none."`
	Seed     uint64        `default:"1" help:"Seed of the order of the faults, and of what is written."`
	JSON     bool          `name:"json" help:"Print JSON instead of tables."`

	Listeners int `default:"2" help:"Listeners of the private deployment."`
	Gateways  int `default:"2" help:"Gateways of the private deployment."`

	DatabaseURL string   `name:"database-url" env:"SOAK_DATABASE_URL" placeholder:"URL" secret:"url" help:"Write to this database, in streams of the soak's own, instead of a private deployment. They are removed at the end."`
	GatewayURLs []string `name:"gateway-url" placeholder:"URL" help:"Gateways of that deployment, such as wss://live.example.com."`
	Token       string   `env:"SOAK_TOKEN" help:"Token for gateways that want one." secret:"all"`
	TimeZone    string   `name:"source-timezone" env:"SOURCE_TIMEZONE" default:"UTC" help:"Time zone of columns of type timestamp in that database."`

	// Settings are the names of the variables that processes read: what the environment
	// says is not for a private deployment.
	Settings []string `kong:"-"`
}

// ErrFailed means that the deployment has not kept what it promises.
var ErrFailed = errors.New("the soak has failed")

// mostRows bounds what is kept: a few hundred bytes a row and for each client of it.
const mostRows = 2_000_000

// owned tells whether the servers are the soak's own, so that it may break them.
func (c *Config) owned() bool { return c.DatabaseURL == "" }

// Validate names the setting that cannot work, its value, and what is allowed.
func (c *Config) Validate() error {
	for _, s := range []struct {
		flag               string
		value, least, most int
	}{
		{"times", c.Times, 0, 1000},
		{"rate", c.Rate, 1, 100_000},
		{"clients", c.Clients, 1, 10_000},
		{"streams", c.Streams, 1, 10_000},
		{"listeners", c.Listeners, 1, 10},
		{"gateways", c.Gateways, 1, 50},
	} {
		if s.value < s.least || s.value > s.most {
			return fmt.Errorf("--%s is %d; allowed are %d to %d", s.flag, s.value, s.least, s.most)
		}
	}
	switch {
	case c.Streams > c.Clients:
		return fmt.Errorf("--streams is %d, and --clients is %d: nobody would follow the rest", c.Streams, c.Clients)
	case float64(c.Rate)*c.Duration.Seconds() > mostRows:
		return fmt.Errorf("--rate %d for --duration %s are more than %d rows, and all that clients were given is kept until the end", c.Rate, c.Duration, mostRows)
	case c.Duration < time.Second || c.Duration > 24*time.Hour:
		return fmt.Errorf("--duration is %s; allowed are 1s to 24h", c.Duration)
	case c.owned() && len(c.GatewayURLs) > 0:
		return errors.New("--gateway-url is given without --database-url: both are of one deployment")
	case !c.owned() && len(c.GatewayURLs) == 0:
		return errors.New("--database-url is given without --gateway-url: where are the clients to connect?")
	}
	for _, u := range c.GatewayURLs {
		if !strings.HasPrefix(u, "ws://") && !strings.HasPrefix(u, "wss://") {
			return fmt.Errorf("--gateway-url is %q; allowed are ws://host:port and wss://host:port", u)
		}
	}
	_, err := c.selected()
	return err
}

// selected are the faults that were asked for.
func (c *Config) selected() ([]*fault, error) {
	possible := slices.DeleteFunc(slices.Clone(faults), func(f *fault) bool { return !c.owned() && !f.harmless })
	switch strings.Join(c.Faults, ",") {
	case "all":
		return possible, nil
	case "none":
		return nil, nil
	}
	var chosen []*fault
	for _, name := range c.Faults {
		i := slices.IndexFunc(possible, func(f *fault) bool { return f.name == name })
		if i < 0 || slices.Contains(chosen, possible[i]) {
			return nil, fmt.Errorf("--faults has %q; allowed for this deployment are all, or none, or each once: %s", name, namesOf(possible))
		}
		chosen = append(chosen, possible[i])
	}
	return chosen, nil
}

// FaultNames are the faults that there are.
func FaultNames() string { return namesOf(faults) }

// FaultHelp says of each fault what it does, a line each.
func FaultHelp() string {
	var b strings.Builder
	for _, f := range faults {
		fmt.Fprintf(&b, "  %-20s %s\n", f.name, f.help)
	}
	return b.String()
}

func namesOf(faults []*fault) string {
	names := make([]string, len(faults))
	for i, f := range faults {
		names[i] = f.name
	}
	return strings.Join(names, ", ")
}

// Run soaks and prints the report. progress is told how far it has come. The error
// is ErrFailed when something was lost, came twice or out of order, or was made up,
// or when a fault has not healed. When the context ends early, what has begun is
// brought to its end, and the report is about the time until then.
func Run(ctx context.Context, c Config, out, progress io.Writer) (err error) {
	if err := c.Validate(); err != nil {
		return err
	}
	chosen, err := c.selected()
	if err != nil {
		return err
	}
	// What is started lives until the report, whatever the context does.
	work := context.WithoutCancel(ctx)
	t := newTally()
	d, err := deploy(work, &c, t.epoch)
	if err != nil {
		return err
	}
	s := &soak{
		config: c, deployment: d, tally: t, bar: newProgress(progress, &c, len(chosen)),
		outcomes: make(map[*fault]*outcome),
	}
	report, err := s.run(work, ctx, chosen)
	if report != nil {
		err = errors.Join(err, report.print(out, c.JSON))
		if !report.Passed {
			err = errors.Join(err, ErrFailed)
		}
	}
	return errors.Join(err, d.close(err != nil || s.missed, progress))
}
