package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"os"
	"time"

	"github.com/telemetra/telemetra/broker"
)

// announcement is what a process tells of itself to those who look from outside, such
// as telemetra status. What it is not is nil.
type announcement struct {
	listener func() broker.ListenerStatus
	gateway  func() broker.GatewayStatus
	api      func() broker.APIStatus
}

// announce tells in Redis each second that the process is there, until the context
// ends. That it cannot is told by the condition of Redis.
func (p *process) announce(ctx context.Context) error {
	said := broker.Process{ID: processID(), PID: os.Getpid(), Version: version, Address: p.http.Addr()}
	began := time.Now()
	said.Host, _ = os.Hostname() // "" is told as well
	ticker := time.NewTicker(broker.AnnounceEvery)
	defer ticker.Stop()
	for {
		said.UpFor = time.Since(began).Seconds()
		p.describe(&said)
		bounded, cancel := context.WithTimeout(ctx, broker.AnnounceEvery)
		_ = p.redis.Announce(bounded, &said)
		cancel()
		select {
		case <-ctx.Done():
			bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), broker.AnnounceEvery)
			defer cancel()
			_ = p.redis.Withdraw(bounded, said.ID) // else its time to live ends it
			return nil
		case <-ticker.C:
		}
	}
}

// processID tells this process from all others.
func processID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails; see crypto/rand
	return hex.EncodeToString(b[:])
}

// describe says how the process is now.
func (p *process) describe(said *broker.Process) {
	said.At = time.Now().UnixMilli()
	said.NotReady, said.Warnings = p.http.notReady(), p.http.warns()
	said.Postgres, said.Redis = p.watch.Up(), p.redis.Condition()
	if p.told.listener != nil {
		s := p.told.listener()
		said.Listener = &s
	}
	if p.told.gateway != nil {
		s := p.told.gateway()
		said.Gateway = &s
	}
	if p.told.api != nil {
		s := p.told.api()
		said.API = &s
	}
}
