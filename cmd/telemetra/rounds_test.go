//go:build !faults

package main

const (
	// faultRounds is how often a test brings about each of its faults.
	faultRounds = 1
	// raced: processes of the tests are built with -race, as the tests are.
	raced = false
)
