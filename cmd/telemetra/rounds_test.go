//go:build !faults

package main

// faultRounds is how often a test brings about each of its faults.
const faultRounds = 1
