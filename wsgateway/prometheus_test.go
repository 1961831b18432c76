package wsgateway

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/telemetra/telemetra/wsgateway/access"
)

// An alert sees the increase of a counter, and none in one that begins with 1.
func TestRefusalsAreCountedFromZero(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	newMetrics(reg)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]bool)
	for _, f := range families {
		if f.GetName() == "telemetra_gateway_refused_total" {
			for _, m := range f.GetMetric() {
				seen[m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue() == 0
			}
		}
	}
	for _, reason := range access.Reasons {
		if !seen[reason] {
			t.Errorf("no series for %s, or one that is not 0", reason)
		}
	}
}
