package sql

import (
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// register adds what the pool tells of itself, and whether Postgres is up.
func register(reg prometheus.Registerer, pool *pgxpool.Pool, up func() bool) {
	f := promauto.With(reg)
	const prefix = "telemetra_postgres_"
	connections := func(state string, n func(*pgxpool.Stat) int32) {
		f.NewGaugeFunc(prometheus.GaugeOpts{
			Name: prefix + "pool_connections", ConstLabels: prometheus.Labels{"state": state},
			Help: "Connections of the pool, by state: idle, in_use or opening.",
		}, func() float64 { return float64(n(pool.Stat())) })
	}
	connections("idle", (*pgxpool.Stat).IdleConns)
	connections("in_use", (*pgxpool.Stat).AcquiredConns)
	connections("opening", (*pgxpool.Stat).ConstructingConns)
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: prefix + "pool_limit", Help: "Most connections that the pool may have.",
	}, func() float64 { return float64(pool.Stat().MaxConns()) })
	f.NewCounterFunc(prometheus.CounterOpts{
		Name: prefix + "pool_acquires_total", Help: "Times that a connection was taken from the pool.",
	}, func() float64 { return float64(pool.Stat().AcquireCount()) })
	f.NewCounterFunc(prometheus.CounterOpts{
		Name: prefix + "pool_waits_total", Help: "Times that none was idle, and one had to be waited for or opened.",
	}, func() float64 { return float64(pool.Stat().EmptyAcquireCount()) })
	f.NewCounterFunc(prometheus.CounterOpts{
		Name: prefix + "pool_wait_seconds_total", Help: "Time that was waited for connections of the pool.",
	}, func() float64 { return pool.Stat().EmptyAcquireWaitTime().Seconds() })
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: prefix + "up", Help: "Whether Postgres has given this process a sign within the last seconds: 1 or 0.",
	}, func() float64 {
		if up() {
			return 1
		}
		return 0
	})
}
