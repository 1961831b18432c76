package main

import (
	"strings"
	"testing"
)

// What is printed of addresses has nothing that may be a secret.
func TestMasked(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]string{
		"postgres://me:SECRET@db:5432/d?sslmode=require":           "postgres://me:xxxxx@db:5432/d?sslmode=require",
		"postgres://me@db/d?password=SECRET&sslpassword=SECRET":    "postgres://me@db/d?password=xxxxx&sslpassword=xxxxx",
		"postgres://me@db/d?Password=SECRET&host=a&x=SECRET":       "postgres://me@db/d?Password=xxxxx&host=a&x=xxxxx",
		"host=/run user=me password=SECRET application_name=a://x": "host=/run user=me password=xxxxx application_name=a://x",
		"password=SECRET/://x":                                     "password=xxxxx",
		"postgres://me:SE%23CRET@db/d":                             "postgres://me:xxxxx@db/d",
		"postgres://me:SECRET#SECRET@db/d":                         mask,
		"postgres://me:12#SECRET@db/d":                             mask,
		"postgres://me:12/SECRET@db/d":                             mask,
		"postgres://me:12?SECRET@db/d":                             mask,
		"postgres://me:x@SECRET@db/d":                              mask,
		"postgres://me:SECRET@a:1,b:2/d?x=%SECRET":                 mask,
		`"postgres://me:SECRET@db/d"`:                              mask,
		"host=x passfile=/x password=SECRET\\ SECRET":              "host=x passfile=/x password=xxxxx",
		`host=x password='SECRET\'SECRET SECRET' user = me`:        "host=x password=xxxxx user=me",
		"host=x password= SECRET user=me":                          "host=x password=xxxxx user=me",
		"host=x Password=SECRET":                                   "host=x Password=xxxxx",
		"host=x password=":                                         "host=x password=xxxxx",
		"host=x password='SECRET":                                  mask,
		"host=x SECRET":                                            mask,
		"redis://:SECRET@cache:6379/3":                             "redis://:xxxxx@cache:6379/3",
		"unix://:SECRET@/run/redis?db=2":                           "unix://:xxxxx@/run/redis?db=2",
		"rediss://SECRET@cache":                                    "rediss://xxxxx@cache",
		"https://login.example/jwks.json?key=SECRET&user=SECRET":   "https://login.example/jwks.json?key=xxxxx&user=xxxxx",
		"https://SECRET@login.example/jwks.json":                   "https://xxxxx@login.example/jwks.json",
		"https://login.example/jwks.json#SECRET":                   mask,
		"https://login.example/jwks.json":                          "https://login.example/jwks.json",
	} {
		if got := masked("url", value); got != want || strings.Contains(got, "SECRET") {
			t.Errorf("%s: got %s, want %s", value, got, want)
		}
	}
}
