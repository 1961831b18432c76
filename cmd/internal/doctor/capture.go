package doctor

import (
	"context"
	"fmt"
	"strings"
)

// repair is the remedy for what the migrations have made and somebody has unmade.
const repair = "run: telemetra migrate repair (it puts back what is missing and touches no row)"

func (d *doctor) changeColumns(ctx context.Context) verdict {
	all, err := d.postgres.ChangeColumns(ctx)
	if err != nil {
		return unanswered(err)
	}
	var found []string
	remedy := repair
	for _, c := range all {
		switch {
		case c.Type == "":
			found = append(found, fmt.Sprintf("%s has no %s", c.Table, c.Name))
		case c.Type != c.WantType:
			found = append(found, fmt.Sprintf("%s.%s is a %s and should be a %s", c.Table, c.Name, c.Type, c.WantType))
			remedy = fmt.Sprintf("run: ALTER TABLE public.%s DROP COLUMN %s, then: telemetra migrate repair", c.Table, c.Name)
		case c.Default == "":
			found = append(found, fmt.Sprintf("%s.%s has no default", c.Table, c.Name))
		case c.Default != c.WantDefault:
			found = append(found, fmt.Sprintf("%s.%s has the default %s", c.Table, c.Name, c.Default))
			remedy = fmt.Sprintf("run: ALTER TABLE public.%s ALTER COLUMN %s SET DEFAULT %s", c.Table, c.Name, c.WantDefault)
		}
	}
	if len(found) > 0 {
		return failed(strings.Join(found, "; ")+": new rows are not seen", remedy)
	}
	return ok("all %d with their defaults", len(all))
}

// The listener's sessions do without sequential scans, so that a missing index
// makes each look read a table from end to end.
func (d *doctor) changeIndexes(ctx context.Context) verdict { return d.indexes(ctx, true) }

func (d *doctor) readIndexes(ctx context.Context) verdict { return d.indexes(ctx, false) }

func (d *doctor) indexes(ctx context.Context, changes bool) verdict {
	all, err := d.postgres.Indexes(ctx)
	if err != nil {
		return unanswered(err)
	}
	var found []string
	remedy, n := repair, 0
	for _, i := range all {
		if i.Changes != changes {
			continue
		}
		n++
		switch {
		case !i.Exists:
			found = append(found, fmt.Sprintf("%s of %s is missing", i.Name, i.Table))
		case !i.Valid:
			found = append(found, fmt.Sprintf("%s of %s is invalid", i.Name, i.Table))
		case !i.Fits:
			found = append(found, fmt.Sprintf("%s of %s is another index", i.Name, i.Table))
			remedy = fmt.Sprintf("run: DROP INDEX CONCURRENTLY public.%s, then: telemetra migrate repair", i.Name)
		}
	}
	switch {
	case len(found) == 0:
		return ok("all %d are valid", n)
	case changes:
		return failed(strings.Join(found, "; ")+": the listener reads the whole table each time", remedy)
	default:
		return warning(strings.Join(found, "; ")+": REST reads are slow", remedy)
	}
}

// misfires are what pg_trigger.tgenabled says of a trigger that does not always run.
var misfires = map[string]string{
	"D": "is disabled",
	"O": "does not run for rows that replication brings",
	"R": "runs only for rows that replication brings",
}

func (d *doctor) triggers(ctx context.Context) verdict {
	all, err := d.postgres.Triggers(ctx)
	if err != nil {
		return unanswered(err)
	}
	var found []string
	remedy := repair
	for _, t := range all {
		switch {
		case t.Enabled == "":
			found = append(found, fmt.Sprintf("%s has no %s", t.Table, t.Name))
		case t.Runs != t.WantRuns:
			found = append(found, fmt.Sprintf("%s of %s runs %s", t.Name, t.Table, t.Runs))
			remedy = fmt.Sprintf("run: DROP TRIGGER %s ON %s, then: telemetra migrate repair", t.Name, t.Table)
		case t.Enabled != "A":
			found = append(found, fmt.Sprintf("%s of %s %s", t.Name, t.Table, misfires[t.Enabled]))
		}
	}
	if len(found) > 0 {
		return failed(strings.Join(found, "; ")+": changes are missed or late", remedy)
	}
	return ok("all %d are there and run always", len(all))
}
