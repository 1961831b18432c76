package main

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kong"
)

// badValues are the values of flags and variables that their types do not allow. kong would
// end at the first one, of whichever command, and name no variable.
type badValues map[*kong.Value]error

// options let kong decode values of all types but texts through b.
func (b badValues) options() []kong.Option {
	kinds := kong.NewRegistry().RegisterDefaults()
	options := []kong.Option{kong.WithBeforeApply(b.refuse)}
	for _, of := range []any{false, 0, int32(0), int64(0), uint(0), uint64(0), float64(0), ""} {
		t := reflect.TypeOf(of)
		options = append(options, kong.KindMapper(t.Kind(), valueMapper{kinds.ForType(t), b}))
	}
	t := reflect.TypeFor[time.Duration]()
	return append(options, kong.TypeMapper(t, valueMapper{kinds.ForType(t), b}))
}

// refuse refuses the values of the command that is run.
func (b badValues) refuse(given *kong.Context) error {
	var errs []error
	for _, flag := range given.Flags() {
		errs = append(errs, b[flag.Value])
	}
	return refused(errs...)
}

// valueMapper decodes as kong does, and keeps what cannot be decoded.
type valueMapper struct {
	kong.Mapper
	bad badValues
}

// IsBool makes kong take a flag without a value for true.
func (m valueMapper) IsBool() bool {
	b, ok := m.Mapper.(kong.BoolMapper)
	return ok && b.IsBool()
}

func (m valueMapper) Decode(ctx *kong.DecodeContext, target reflect.Value) error {
	text, ok := ctx.Scan.Peek().Value.(string)
	err := m.Mapper.Decode(ctx, target)
	if !ok { // there is none
		return err
	}
	allowed := allowedValues(ctx.Value, target, text)
	enum := ctx.Value.EnumSlice()
	switch {
	case target.Kind() == reflect.String && ctx.Value.Enum != "" && !slices.Contains(enum, text):
		err, allowed = errors.New("not among them"), strings.Join(enum, ", ")
	case target.Kind() == reflect.Float64 && (math.IsNaN(target.Float()) || math.IsInf(target.Float(), 0)):
		err = errors.New("no number")
	}
	if err != nil && allowed != "" {
		m.bad[ctx.Value] = fmt.Errorf("%s is %q; allowed are %s", settingName(ctx.Value), text, allowed)
		return nil
	}
	return err
}

// settingName is the variable, or the flag that has none.
func settingName(v *kong.Value) string {
	if len(v.Tag.Envs) > 0 {
		return v.Tag.Envs[0]
	}
	return "--" + v.Name
}

// allowedValues says which values a type has; the tag "unit" names what a number counts.
func allowedValues(v *kong.Value, target reflect.Value, text string) string {
	switch kind := target.Kind(); {
	case target.Type() == reflect.TypeFor[time.Duration]():
		return "durations such as 500ms, 15s or 5m"
	case kind == reflect.Bool:
		return "true, false, yes, no, 1 and 0"
	case kind == reflect.Float64:
		return "numbers"
	case kind == reflect.String:
		return ""
	}
	allowed := "whole numbers"
	if unit := v.Tag.Get("unit"); unit != "" {
		allowed = "whole " + unit + ", without a unit"
	}
	if _, err := strconv.ParseInt(text, 0, target.Type().Bits()); errors.Is(err, strconv.ErrRange) {
		allowed += fmt.Sprintf(", of at most %d bits", target.Type().Bits())
	}
	return allowed
}
