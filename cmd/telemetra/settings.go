package main

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/telemetra/telemetra/wsgateway/access"
)

// settingsError names settings that cannot work. Commands return it from Validate, which
// kong calls before Run, so that config refuses what the processes do, in the same words.
type settingsError struct{ error }

func (e *settingsError) Unwrap() error { return e.error }

// settings is a struct of settings of one of our packages.
type settings interface{ Validate() error }

// check refuses settings of a process: these, and the others that its command has.
func (c *processConfig) check(given *kong.Context, others ...settings) error {
	_, badCertificate := c.HTTP.certificate()
	return refused(c.validate(given, others...), badCertificate)
}

// validate is check without the files that settings name.
func (c *processConfig) validate(given *kong.Context, others ...settings) error {
	errs := []error{checkGiven(given), checkEnvironment(os.Environ()), c.Log.validate(), c.HTTP.validate(), c.validateDrain(), c.Postgres.Validate(), c.Redis.Validate()}
	for _, o := range others {
		errs = append(errs, o.Validate())
	}
	return refused(errs...)
}

func refused(errs ...error) error {
	if err := errors.Join(errs...); err != nil {
		return &settingsError{err}
	}
	return nil
}

// authPrefix begins the variables where a slip leaves reads open.
const authPrefix = "AUTH_"

// authNames are the variables with this prefix that there are.
func authNames() []string { return settingNames(reflect.ValueOf(access.TokenConfig{})) }

// checkGiven refuses settings of tokens that are given and empty, by variable or by flag:
// somebody meant to set them, as by a variable in .env whose value is to come.
func checkGiven(given *kong.Context) error {
	var errs []error
	for _, flag := range given.Flags() {
		if i := slices.IndexFunc(flag.Envs, func(name string) bool { return strings.HasPrefix(name, authPrefix) }); i >= 0 && flag.Set && flag.Target.IsZero() {
			errs = append(errs, fmt.Errorf("%s is set and empty; allowed is a value, or to leave it out altogether", flag.Envs[i]))
		}
	}
	return errors.Join(errs...)
}

// serviceLink is how Kubernetes tells a pod of the Services of its namespace.
var serviceLink = regexp.MustCompile(`_SERVICE_(HOST|PORT)|_PORT(_|$)`)

// checkEnvironment refuses variables of an environment that are nearly one of those for tokens.
// It shows no value, which may be a secret.
func checkEnvironment(environ []string) error {
	known := authNames()
	var errs []error
	for _, variable := range environ {
		name, _, _ := strings.Cut(variable, "=")
		upper := strings.ToUpper(strings.TrimSpace(name))
		if slices.Contains(known, name) || !strings.HasPrefix(strings.TrimSpace(name), authPrefix) && !slices.Contains(known, upper) {
			continue
		}
		text := fmt.Sprintf("%q is not known; allowed are %s", name, strings.Join(known, ", "))
		if meant := nearest(upper, known); meant != "" {
			text += "; is it meant to be " + meant + "?"
		} else if serviceLink.MatchString(name) {
			text += "; Kubernetes sets it for a Service of this name, unless the pod has enableServiceLinks: false"
		}
		errs = append(errs, errors.New(text))
	}
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errors.Join(errs...)
}

// nearest returns the name that is most like another, or "" when none is like it.
func nearest(name string, known []string) (found string) {
	const maxEdits = 4
	least := maxEdits + 1
	for _, k := range known {
		n := edits(name, k)
		if strings.HasPrefix(name, k) { // such as AUTH_JWT_SECRET_FILE
			n = 1
		}
		if n < least {
			found, least = k, n
		}
	}
	return found
}

// edits is how many characters have to be put in, taken out or changed to make one text
// the other (Levenshtein).
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for i := range row {
		row[i] = i
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
