package local

import (
	"context"
	"errors"
	"strings"
	"testing"
)

func TestProcessIsAwaitedUntilItIsReady(t *testing.T) {
	t.Parallel()
	asked := 0
	p, err := StartProcess(t.Context(), ProcessConfig{
		Program: "/bin/sh", Args: []string{"-c", "exec sleep 600"},
		Ready: func(context.Context) error {
			if asked++; asked < 3 {
				return errors.New("not yet")
			}
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if asked != 3 {
		t.Errorf("asked %d times, want 3", asked)
	}
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
	_, err = StartProcess(t.Context(), ProcessConfig{
		Program: "/bin/sh", Args: []string{"-c", "echo why; exit 3"},
		Ready: func(context.Context) error { return errors.New("not yet") },
	})
	if err == nil || !strings.Contains(err.Error(), "why") {
		t.Errorf("a program that ends at start: %v", err)
	}
}
