//go:build faults

package main

// faultRounds: a fault meets another state each time.
const faultRounds = 3
