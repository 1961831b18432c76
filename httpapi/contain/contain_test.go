package contain_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/rs/zerolog"

	"github.com/telemetra/telemetra/httpapi/contain"
)

func blowUp() { panic("secret of the deep") }

func TestAPanicIsCountedAndLoggedWithItsStack(t *testing.T) {
	var log strings.Builder
	reg := prometheus.NewRegistry()
	p := contain.New("test", zerolog.New(&log), reg)
	_ = contain.New("other", zerolog.New(&log), reg) // components share a registry
	ended := 0
	work := func(f func()) {
		defer p.Recover("work", func() { ended++ })
		f()
	}
	work(func() {})
	if ended != 0 || log.Len() != 0 {
		t.Fatalf("without a panic: ended %d times, log %q", ended, log.String())
	}
	work(blowUp)
	work(func() { var none *strings.Builder; none.Len() })
	if ended != 2 {
		t.Errorf("ended %d times, want 2", ended)
	}
	for _, want := range []string{"secret of the deep", "blowUp", `"work":"work"`, "nil pointer"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log lacks %q: %s", want, log.String())
		}
	}
	if err := testutil.GatherAndCompare(reg, strings.NewReader(`# HELP telemetra_panics_total Panics that ended one client, request or piece of work, and not the process.
# TYPE telemetra_panics_total counter
telemetra_panics_total{component="other"} 0
telemetra_panics_total{component="test"} 2
`)); err != nil {
		t.Error(err)
	}
}

func TestALoopGoesOnAfterAPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		p := contain.New("test", zerolog.Nop(), reg)
		ctx, stop := context.WithCancel(t.Context())
		calls := 0
		err := p.Every(ctx, time.Second, "work", func(time.Time) {
			if calls++; calls == 3 {
				stop()
			}
			blowUp()
		})
		if calls != 3 || !errors.Is(err, context.Canceled) {
			t.Errorf("%d calls, %v", calls, err)
		}
		if n, err := testutil.GatherAndCount(reg); n != 1 || err != nil {
			t.Error(n, err)
		}
	})
}

func TestCall(t *testing.T) {
	if err := contain.Call(func() error { return nil }); err != nil {
		t.Error(err)
	}
	want := errors.New("as it is")
	if err := contain.Call(func() error { return want }); !errors.Is(err, want) {
		t.Error(err)
	}
	if err := contain.Call(func() error { blowUp(); return nil }); err == nil || !strings.Contains(err.Error(), "blowUp") {
		t.Errorf("a panic: %v", err)
	}
}
