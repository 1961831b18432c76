//go:build faults

package main

const (
	// faultRounds: a fault meets another state each time.
	faultRounds = 3
	// raced: processes of the tests are built with -race, as the tests are.
	raced = true
)
