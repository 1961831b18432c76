package main

import "fmt"

type versionCmd struct{}

// Run prints the version.
func (versionCmd) Run(out output) error {
	_, err := fmt.Fprintln(out, "telemetra", version)
	return err
}
