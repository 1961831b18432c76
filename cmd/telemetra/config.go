package main

import (
	"fmt"
	"reflect"
)

type configCmd struct {
	Process processConfig `embed:""`
	Serve   serveSettings `embed:""`
}

// serveSettings are those of serve beyond the process'.
type serveSettings struct {
	WSHeartbeatInterval int `env:"WS_HEARTBEAT_INTERVAL" default:"30" help:"See serve."`
}

// Run prints what serve would run with.
func (c *configCmd) Run(out output) error {
	_ = reflect.TypeOf(c)
	_, err := fmt.Fprintln(out)
	return err
}
