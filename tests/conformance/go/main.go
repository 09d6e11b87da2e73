// The conformance handler in Go. What each type asks for: tests/conformance/README.md.
package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"conformance/tidegate"
)

func main() {
	tidegate.Plugin{
		Events: tidegate.Handlers{
			"conf.echo":       echo,
			"conf.emit":       emitMany,
			"conf.state":      addUp,
			"conf.retry":      tryAgain,
			"conf.reject":     giveUp,
			"conf.trap":       crash,
			"conf.fuel":       spin,
			"conf.memory":     grow,
			"conf.unicode":    unicode,
			"conf.member":     nameMember,
			"conf.read":       readNumbers,
			"conf.attributes": passOn,
			"conf.timer":      setTimers,
			"conf.past":       liveInThePast,
			"conf.nowhere":    emitNowhere,
			"conf.refused":    askTooMuch,
			"conf.forget":     forgetNothing,
			"conf.call":       call,
			"conf.config":     configured,
			"conf.log":        logLines,
		},
		Timers:    map[string]tidegate.Handler{"later": fire, "past": past},
		Responses: map[string]tidegate.Handler{"ask": answered},
		Commands:  map[string]tidegate.Answerer{"add": add, "refuse": refuse},
		Queries:   map[string]tidegate.Answerer{"raw": readRaw, "sum": readSum},
	}.Run()
}

func echo(d *tidegate.Delivery) error {
	return d.EmitBytes("echo.done", d.Event.ContentType, d.Event.Data)
}

func emitMany(d *tidegate.Delivery) error {
	var input struct{ Count int }
	if err := d.JSON(&input); err != nil {
		return err
	}
	for n := 1; n <= input.Count; n++ {
		key := tidegate.WithKey(fmt.Sprintf("part-%d", n))
		part := tidegate.WithAttribute("part", strconv.Itoa(n))
		if err := d.Emit("emit.done", map[string]int{"n": n}, key, part); err != nil {
			return err
		}
	}
	return nil
}

func addUp(d *tidegate.Delivery) error {
	var input struct{ Add uint64 }
	if err := d.JSON(&input); err != nil {
		return err
	}
	var sum uint64
	if _, err := d.Get("sum", &sum); err != nil {
		return err
	}
	sum += input.Add
	for name, value := range map[string]any{"draft": true, "sum": sum, "last": d.Event.ID} {
		if err := d.Set(name, value); err != nil {
			return err
		}
	}
	d.Delete("draft")
	return d.Emit("state.done", map[string]any{"sum": sum, "names": d.Names("")})
}

func tryAgain(d *tidegate.Delivery) error {
	if d.Attempt < 2 {
		return tidegate.Retry("not yet", time.Millisecond)
	}
	return d.Emit("retry.done", map[string]int{"attempt": d.Attempt})
}

func giveUp(d *tidegate.Delivery) error {
	var input struct{ Why string }
	if err := d.JSON(&input); err != nil {
		return err
	}
	if err := d.Set("gone", true); err != nil {
		return err
	}
	if err := d.Emit("reject.done", nil); err != nil {
		return err
	}
	return tidegate.Reject(input.Why)
}

func crash(d *tidegate.Delivery) error {
	if err := d.Set("gone", true); err != nil {
		return err
	}
	panic("on purpose")
}

func spin(*tidegate.Delivery) error {
	for {
	}
}

func grow(*tidegate.Delivery) error {
	kept := [][]byte{}
	for {
		kept = append(kept, make([]byte, 1<<20))
	}
}

func unicode(d *tidegate.Delivery) error {
	var input struct{ Text string }
	if err := d.JSON(&input); err != nil {
		return err
	}
	if err := d.Set(input.Text, input.Text); err != nil {
		return err
	}
	return d.Emit("unicode.done", map[string]string{"text": input.Text, "key": d.Event.Key})
}

func nameMember(d *tidegate.Delivery) error {
	var input struct{ Text string }
	if err := d.JSON(&input); err != nil {
		return err
	}
	sure := tidegate.WithAttribute("sure", strconv.FormatBool(true))
	return d.Emit("member.done", map[string]string{input.Text: `\ud83d`}, sure)
}

func readNumbers(d *tidegate.Delivery) error {
	var input struct{ N, Z float64 }
	if err := d.JSON(&input); err != nil {
		return err
	}
	return d.Emit("read.done", map[string]float64{"n": input.N, "z": input.Z})
}

func passOn(d *tidegate.Delivery) error {
	size, options := 0, []tidegate.EmitOption{}
	for name, value := range d.Event.Attributes {
		size += len(name) + len(value)
		options = append(options, tidegate.WithAttribute(name, value))
	}
	found := map[string]int{"count": len(d.Event.Attributes), "bytes": size}
	return d.Emit("attributes.done", found, options...)
}

func setTimers(d *tidegate.Delivery) error {
	if err := d.SetTimerAfter("never", time.Millisecond, nil); err != nil {
		return err
	}
	d.CancelTimer("never")
	return d.SetTimerAfter("later", time.Millisecond, map[string]int{"n": 7})
}

func fire(d *tidegate.Delivery) error {
	var data any
	if err := d.JSON(&data); err != nil {
		return err
	}
	name := d.Event.Attributes["timername"]
	return d.Emit("timer.done", map[string]any{"name": name, "data": data, "key": d.Event.Key})
}

func liveInThePast(d *tidegate.Delivery) error {
	if d.Attempt < 2 {
		return tidegate.Retry("not yet", -time.Millisecond)
	}
	if err := d.SetFor("gone", true, -time.Millisecond); err != nil {
		return err
	}
	return d.SetTimer("past", time.UnixMilli(-1), nil)
}

func past(d *tidegate.Delivery) error {
	var gone any
	if _, err := d.Get("gone", &gone); err != nil {
		return err
	}
	return d.Emit("past.done", map[string]any{"gone": gone})
}

func emitNowhere(d *tidegate.Delivery) error {
	return d.Emit("nowhere.done", map[string]int{}, tidegate.WithKey(""))
}

func askTooMuch(d *tidegate.Delivery) error {
	long := strings.Repeat("x", 1025)
	timer := strings.Repeat("t", 1<<16)
	now, url := d.Recorded, "https://localhost/"
	attribute := func(name, value string) error {
		return d.Emit("refused", nil, tidegate.WithAttribute(name, value))
	}
	told := []string{}
	for _, err := range []error{
		d.Emit("tidegate.own", nil), d.Emit(long, nil), d.Emit("refused", func() {}),
		d.Emit("refused", nil, tidegate.WithKey(long)),
		d.EmitBytes("refused", "a\nb", nil), d.EmitBytes("refused", "", make([]byte, 1<<20+1)),
		attribute("A", ""), attribute("time", ""), attribute("a", "\n"), attribute("a", timer),
		attribute("schemaversion", "01"),
		d.Set("", 1), d.Set("a\u0085", 1), d.Set("a", math.NaN()),
		d.SetTimer(long, now, nil), d.SetTimer("a", now, timer),
		d.Send(tidegate.Call{Name: "a", URL: "localhost"}),
		d.Send(tidegate.Call{Name: "a", URL: "ftp://localhost"}),
		d.Send(tidegate.Call{Name: "a", URL: url, Timeout: time.Hour}),
		d.Send(tidegate.Call{Name: "a", URL: url, Method: "get"}),
		d.Send(tidegate.Call{Name: "a", URL: url, Headers: map[string]string{"Host": "b"}}),
		d.Send(tidegate.Call{Name: "", URL: url}),
	} {
		if err == nil {
			return tidegate.Reject(fmt.Sprintf("%d was taken", len(told)))
		}
		told = append(told, err.Error())
	}
	return d.Emit("refused.done", map[string]any{"told": len(told), "first": told[0]})
}

func forgetNothing(d *tidegate.Delivery) error {
	d.Delete("")
	return d.Emit("refused.done", nil)
}

func call(d *tidegate.Delivery) error {
	var input struct{ URL string }
	if err := d.JSON(&input); err != nil {
		return err
	}
	return d.Send(tidegate.Call{Name: "ask", URL: input.URL, Body: map[string]int{"n": 7}})
}

func answered(d *tidegate.Delivery) error {
	status, err := strconv.Atoi(d.Event.Attributes["callstatus"])
	if err != nil {
		return err
	}
	name := d.Event.Attributes["callname"]
	return d.Emit("call.done", map[string]any{"name": name, "status": status})
}

func configured(d *tidegate.Delivery) error {
	found := map[string]any{"greeting": d.Config("greeting", ""), "missing": nil}
	if missing := d.Config("missing", ""); missing != "" {
		found["missing"] = missing
	}
	return d.Emit("config.done", found)
}

func logLines(d *tidegate.Delivery) error {
	d.Trace("one")
	d.Debug("two")
	d.Log("three")
	d.Warn("four")
	d.Error("five")
	return nil
}

func add(d *tidegate.Delivery, request *tidegate.Request) (any, error) {
	var input struct{ Amount uint64 }
	if err := request.JSON(&input); err != nil {
		return nil, err
	}
	var sum uint64
	if _, err := d.Get("sum", &sum); err != nil {
		return nil, err
	}
	sum += input.Amount
	if err := d.Set("sum", sum); err != nil {
		return nil, err
	}
	answer := map[string]uint64{"sum": sum}
	return answer, d.Emit("add.done", answer)
}

func refuse(d *tidegate.Delivery, _ *tidegate.Request) (any, error) {
	if err := d.Set("gone", true); err != nil {
		return nil, err
	}
	return nil, tidegate.Reject("not this one")
}

func readRaw(*tidegate.Delivery, *tidegate.Request) (any, error) {
	return []byte{0, 255}, nil
}

func readSum(d *tidegate.Delivery, _ *tidegate.Request) (any, error) {
	var sum uint64
	_, err := d.Get("sum", &sum)
	return map[string]uint64{"sum": sum}, err
}
