package bench

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/redis/go-redis/v9"
)

// sampler looks at what a process and Redis hold.
type sampler struct {
	process    *process
	redis      *redis.Client
	deliveries *deliveries
	parts      []part // of the time; samples go into the last

	at  time.Time     // of the last sample
	cpu time.Duration // that the process had used then
}

// part is what the samples of a part of the time have shown.
type part struct {
	samples []sample
	latency *hdrhistogram.Histogram
}

// sample is one look; sizes are in bytes.
type sample struct {
	resident, heap, goroutines, files float64
	cpu                               float64 // cores, since the sample before
	redisUsed, redisResident          float64
}

func newSampler(p *process, redisURL string, d *deliveries) (*sampler, error) {
	options, err := redis.ParseURL(redisURL)
	if err != nil {
		return nil, err
	}
	used, err := cpuTime(p.PID())
	if err != nil {
		return nil, err
	}
	return &sampler{process: p, redis: redis.NewClient(options), deliveries: d, at: time.Now(), cpu: used}, nil
}

// sample looks once, after a collection, so that garbage does not count.
func (s *sampler) sample(ctx context.Context) error {
	if _, err := get(ctx, "http://"+s.process.Addr+"/debug/pprof/heap?gc=1"); err != nil {
		return err
	}
	all, err := scrape(ctx, s.process.Addr)
	if err != nil {
		return err
	}
	resident, err := residentMemory(s.process.PID())
	if err != nil {
		return err
	}
	one := sample{
		resident: float64(resident), heap: all["go_memstats_heap_inuse_bytes"],
		goroutines: all["go_goroutines"], files: all["process_open_fds"],
	}
	used, err := cpuTime(s.process.PID())
	if err != nil {
		return err
	}
	now := time.Now()
	one.cpu = (used - s.cpu).Seconds() / now.Sub(s.at).Seconds()
	s.at, s.cpu = now, used
	info, err := s.redis.Info(ctx, "memory").Result()
	if err != nil {
		return fmt.Errorf("ask redis for its memory: %w", err)
	}
	if one.redisUsed, err = infoNumber(info, "used_memory"); err != nil {
		return err
	}
	if one.redisResident, err = infoNumber(info, "used_memory_rss"); err != nil {
		return err
	}
	last := &s.parts[len(s.parts)-1]
	last.samples = append(last.samples, one)
	s.latencies()
	return nil
}

// latencies adds the times since it was called last.
func (s *sampler) latencies() { s.parts[len(s.parts)-1].latency.Merge(s.deliveries.take()) }

// all is the parts as one.
func (s *sampler) all() *part {
	all := &part{latency: newHistogram()}
	for _, p := range s.parts {
		all.samples = append(all.samples, p.samples...)
		all.latency.Merge(p.latency)
	}
	return all
}

// values are the medians of the samples.
func (p *part) values() []Value {
	const mib = 1 << 20
	return []Value{
		{"resident", medianOf(p.samples, func(s *sample) float64 { return s.resident }) / mib, "MiB"},
		{"heap in use", medianOf(p.samples, func(s *sample) float64 { return s.heap }) / mib, "MiB"},
		{"goroutines", medianOf(p.samples, func(s *sample) float64 { return s.goroutines }), ""},
		{"files", medianOf(p.samples, func(s *sample) float64 { return s.files }), ""},
		{"CPU", 100 * medianOf(p.samples, func(s *sample) float64 { return s.cpu }), "%"},
		{"p99", ms(p.latency, 99), "ms"},
		{"Redis used", medianOf(p.samples, func(s *sample) float64 { return s.redisUsed }) / mib, "MiB"},
		{"Redis resident", medianOf(p.samples, func(s *sample) float64 { return s.redisResident }) / mib, "MiB"},
	}
}

// medianOf is 0 without samples.
func medianOf(samples []sample, of func(*sample) float64) float64 {
	if len(samples) == 0 {
		return 0
	}
	values := make([]float64, len(samples))
	for i := range samples {
		values[i] = of(&samples[i])
	}
	return median(values)
}

// infoNumber reads a field of the answer to INFO.
func infoNumber(info, field string) (float64, error) {
	for line := range strings.Lines(info) {
		if value, ok := strings.CutPrefix(line, field+":"); ok {
			return strconv.ParseFloat(strings.TrimSpace(value), 64)
		}
	}
	return 0, fmt.Errorf("redis does not tell its %s", field)
}
