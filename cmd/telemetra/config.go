package main

import (
	"fmt"
	"net/url"
	"reflect"
	"regexp"
	"strings"
	"text/tabwriter"

	"github.com/alecthomas/kong"
)

// configCmd takes the settings of serve, which has those of all commands.
type configCmd struct {
	serveCmd `embed:""`
}

// Run prints what serve would run with, a variable a line, and beside it what operators
// should know of that.
func (c *configCmd) Run(out output, given *kong.Context) error {
	for _, text := range c.Process.HTTP.Access.Warnings() {
		if _, err := fmt.Fprintln(given.Stderr, "telemetra: warning:", text); err != nil {
			return err
		}
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	force := c.serveCmd
	if force.API.Cache.URL == "" {
		force.API.Cache.URL = force.Process.Redis.URL
	}
	if err := printSettings(w, reflect.ValueOf(force), force.Process.Postgres.DatabaseURL != ""); err != nil {
		return err
	}
	return w.Flush()
}

// printSettings walks the structs of settings; the variable's name and what is
// secret stand in the tags of their fields. With a URL of the database its parts do not
// count, and are left out.
func printSettings(w *tabwriter.Writer, v reflect.Value, byURL bool) error {
	for field, value := range v.Fields() {
		if name, ok := field.Tag.Lookup("env"); ok {
			if byURL && strings.HasPrefix(name, "POSTGRES_") {
				continue
			}
			if _, err := fmt.Fprintf(w, "%s\t%s\n", name, masked(field.Tag.Get("secret"), fmt.Sprint(value.Interface()))); err != nil {
				return err
			}
			continue
		}
		if value.Kind() == reflect.Struct {
			if err := printSettings(w, value, byURL); err != nil {
				return err
			}
		}
	}
	return nil
}

// settingNames are the variables of a struct of settings.
func settingNames(v reflect.Value) (names []string) {
	for field, value := range v.Fields() {
		if name, ok := field.Tag.Lookup("env"); ok {
			names = append(names, name)
		} else if value.Kind() == reflect.Struct {
			names = append(names, settingNames(value)...)
		}
	}
	return names
}

const mask = "xxxxx"

// passwordIn finds the password of a key=value connection string.
var passwordIn = regexp.MustCompile(`(?i)(password\s*=\s*)('(?:[^'\\]|\\.)*'|\S+)`)

// masked hides what a setting's tag calls secret: all of it, or the password of
// a URL.
func masked(secret, value string) string {
	switch {
	case value == "" || secret == "":
		return value
	case secret == "all":
		return mask
	}
	u, err := url.Parse(value)
	if err != nil || u.Scheme == "" {
		return passwordIn.ReplaceAllString(value, "${1}"+mask)
	}
	if _, ok := u.User.Password(); ok {
		u.User = url.UserPassword(u.User.Username(), mask)
	}
	q := u.Query()
	for _, key := range []string{"password", "sslpassword"} {
		if q.Has(key) {
			q.Set(key, mask)
		}
	}
	u.RawQuery = q.Encode()
	return u.String()
}
