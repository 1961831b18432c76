package main

import (
	"fmt"
	"net/url"
	"reflect"
	"regexp"
	"slices"
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

// shown are the parameters of connection strings that are no secrets.
var shown = []string{
	"application_name", "connect_timeout", "database", "db", "dbname", "host", "passfile", "port",
	"sslcert", "sslkey", "sslmode", "sslrootcert", "target_session_attrs", "user",
}

// pair is one of a key=value connection string, as libpq reads it.
var pair = regexp.MustCompile(`(?s)^([a-zA-Z_][a-zA-Z0-9_.]*)[ \t\n\r\v\f]*=[ \t\n\r\v\f]*('(?:[^'\\]|\\.)*'|(?:[^' \t\n\r\v\f\\]|\\.)(?:[^ \t\n\r\v\f\\]|\\.)*|$)[ \t\n\r\v\f]*`)

// address is how a URL begins; in a key=value list "://" may stand anywhere.
var address = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9+.-]*://`)

// masked hides what a setting's tag calls secret: all of it, or what of an address is not
// known to be none.
func masked(secret, value string) string {
	switch {
	case value == "" || secret == "":
		return value
	case secret == "all":
		return mask
	case address.MatchString(value):
		return maskedURL(value)
	}
	var out []string
	for rest := value; rest != ""; {
		m := pair.FindStringSubmatch(rest)
		if m == nil {
			return mask
		}
		if !slices.Contains(shown, m[1]) {
			m[2] = mask
		}
		out, rest = append(out, m[1]+"="+m[2]), rest[len(m[0]):]
	}
	return strings.Join(out, " ")
}

// maskedURL masks all of a URL that has an odd part, which may be one of a password that is
// not percent-encoded. What stands alone before an @ is a user only of Postgres.
func maskedURL(value string) string {
	u, err := url.Parse(value)
	if err != nil || u.Host+u.Path == "" || u.Opaque+u.Fragment != "" || strings.Count(value, "@") > 1 || u.User == nil && strings.Contains(value, "@") {
		return mask
	}
	postgres := strings.HasPrefix(u.Scheme, "postgres")
	if _, ok := u.User.Password(); ok {
		u.User = url.UserPassword(u.User.Username(), mask)
	} else if u.User != nil && !postgres {
		u.User = url.User(mask)
	}
	q, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return mask
	}
	for key := range q {
		if !slices.Contains(shown, key) || !postgres && key != "db" {
			q.Set(key, mask)
		}
	}
	u.RawQuery = q.Encode()
	return u.String()
}
