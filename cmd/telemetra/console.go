package main

import (
	"encoding/json"
	"fmt"

	"github.com/telemetra/telemetra/httpapi"
	"github.com/telemetra/telemetra/httpapi/body"
	"github.com/telemetra/telemetra/httpapi/console"
)

// addConsole makes the process answer at "/": browsers get the live console, everybody
// else what this is. Gateways and apis are one service to who asks, so each names the
// paths of both.
func (p *process) addConsole(title string) error {
	page, files, err := console.New()
	if err != nil {
		return err
	}
	service, err := json.Marshal(httpapi.Service{
		Name: title, Version: version, Status: "running", Docs: "/docs", Health: "/api/v1/health",
	})
	if err != nil {
		return fmt.Errorf("write what this is: %w", err)
	}
	p.http.Router.GET("/", handle(console.Root(page, body.New("application/json", service).Handler(nil))))
	p.http.Router.GET(console.Path+"*file", handle(files))
	return nil
}
