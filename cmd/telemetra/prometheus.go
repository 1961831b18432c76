package main

import (
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// register adds what each process tells of itself, whatever it runs.
func (p *process) register() {
	p.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	f := promauto.With(p.registry)
	f.NewGauge(prometheus.GaugeOpts{
		Name: "telemetra_build_info", Help: "Always 1; the labels say which build this is.",
		ConstLabels: prometheus.Labels{"version": version, "go_version": runtime.Version()},
	}).Set(1)
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "telemetra_ready", Help: "Whether /readyz says that this process can be sent traffic: 1 or 0.",
	}, func() float64 {
		if p.http.notReady() != "" {
			return 0
		}
		return 1
	})
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "telemetra_warnings", Help: "Warnings that /readyz has for operators.",
	}, func() float64 { return float64(len(p.http.warns())) })
}
