package main

type demoCmd struct{}
type benchCmd struct{}

func (demoCmd) Run() error     { return nil }
func (benchCmd) Run() error    { return nil }
