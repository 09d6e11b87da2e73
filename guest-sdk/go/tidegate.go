// Package tidegate writes tidegate plugins in Go, as WASI commands: one run a delivery, JSON lines in
// and out.
//
//	func main() {
//		tidegate.Run(tidegate.Handlers{
//			"order.created": func(d *tidegate.Delivery) error {
//				var order struct{ Amount int }
//				if err := d.JSON(&order); err != nil {
//					return err
//				}
//				sum := order.Amount
//				...
//				return d.Emit("order.totalled", map[string]int{"sum": sum})
//			},
//		})
//	}
//
// What is written and emitted is recorded when the function returns nil, exactly once, and dropped
// otherwise. [Retry] asks for another attempt; any other error rejects the event; a panic is a trap.
// Nothing is kept between deliveries but the state.
package tidegate

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sort"
	"strings"
	"time"
)

// Event is one CloudEvents 1.0 event.
type Event struct {
	ID     string
	Source string
	// Type is in past tense, dotted: order.created.
	Type string
	// Key is what orders events; empty: unkeyed, without state.
	Key string
	// Time is when it happened, as its source says; empty: not said.
	Time string
	// ContentType is the media type of Data; empty: none.
	ContentType string
	Data        []byte
	// Attributes are the further CloudEvents attributes.
	Attributes map[string]string
}

// Delivery is one event being handed to the plugin, and what the plugin wants recorded.
type Delivery struct {
	Event Event
	// Attempt is from 1.
	Attempt int
	// Redriven says whether the event comes from a redriven dead letter.
	Redriven bool
	// Position is the event's number in the log of its bus.
	Position uint64
	// Sequence is its number within its key, from 1; 0: unkeyed or private.
	Sequence uint64
	// Recorded is when the log took it.
	Recorded time.Time

	config map[string]string
	state  map[string]json.RawMessage
	set    map[string]json.RawMessage
	gone   map[string]bool
	emits  []emit
}

type emit struct {
	Type        string            `json:"type"`
	Key         string            `json:"key,omitempty"`
	Bus         string            `json:"bus,omitempty"`
	ContentType string            `json:"datacontenttype,omitempty"`
	Data        json.RawMessage   `json:"data,omitempty"`
	DataBase64  string            `json:"data_base64,omitempty"`
	Attributes  map[string]string `json:"attributes,omitempty"`
}

// Handler takes one event.
type Handler func(*Delivery) error

// Handlers are functions by event type: `order.*` takes one segment for the star, `payment.**` zero
// or more. The pattern with the most plain segments goes first; a type nobody takes is left alone.
type Handlers map[string]Handler

type retry struct {
	reason string
	after  time.Duration
}

func (r retry) Error() string { return r.reason }

// Retry asks for another attempt. With after = 0: the backoff of the manifest.
func Retry(reason string, after time.Duration) error { return retry{reason, after} }

// Reject gives an event up: it is never going to work. Any error that is not a Retry does the same.
func Reject(reason string) error { return errors.New(reason) }

// JSON reads the data of the event.
func (d *Delivery) JSON(into any) error {
	if err := json.Unmarshal(d.Event.Data, into); err != nil {
		return fmt.Errorf("the data is not what it should be: %w", err)
	}
	return nil
}

// Config is a string of [config] in the manifest, or otherwise.
func (d *Delivery) Config(name, otherwise string) string {
	if value, ok := d.config[name]; ok {
		return value
	}
	return otherwise
}

// Get reads the value of a name of this plugin and key; false: there is none.
func (d *Delivery) Get(name string, into any) (bool, error) {
	value, ok := d.state[name]
	if !ok {
		return false, nil
	}
	if err := json.Unmarshal(value, into); err != nil {
		return true, fmt.Errorf("the state %q is not what it should be: %w", name, err)
	}
	return true, nil
}

// Names are those with a prefix, ascending.
func (d *Delivery) Names(prefix string) []string {
	names := []string{}
	for name := range d.state {
		if strings.HasPrefix(name, prefix) {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	return names
}

// Set writes a value as JSON.
func (d *Delivery) Set(name string, value any) error {
	text, err := json.Marshal(value)
	if err != nil {
		return err
	}
	d.state[name], d.set[name] = text, text
	delete(d.gone, name)
	return nil
}

// Delete removes a name, if there.
func (d *Delivery) Delete(name string) {
	delete(d.state, name)
	delete(d.set, name)
	d.gone[name] = true
}

// EmitOption changes one emitted event.
type EmitOption func(*emit)

// WithKey gives the event another key than the input's.
func WithKey(key string) EmitOption { return func(e *emit) { e.Key = key } }

// ToBus sends it to another bus.
func ToBus(bus string) EmitOption { return func(e *emit) { e.Bus = bus } }

// WithAttribute adds a CloudEvents attribute.
func WithAttribute(name, value string) EmitOption {
	return func(e *emit) {
		if e.Attributes == nil {
			e.Attributes = map[string]string{}
		}
		e.Attributes[name] = value
	}
}

// Emit emits JSON under the key of the input; nil: no data.
func (d *Delivery) Emit(kind string, data any, options ...EmitOption) error {
	emitted := emit{Type: kind}
	if data != nil {
		text, err := json.Marshal(data)
		if err != nil {
			return err
		}
		emitted.ContentType, emitted.Data = "application/json", text
	}
	return d.emit(emitted, options)
}

// EmitBytes emits data as it is.
func (d *Delivery) EmitBytes(kind, contentType string, data []byte, options ...EmitOption) error {
	encoded := base64.StdEncoding.EncodeToString(data)
	return d.emit(emit{Type: kind, ContentType: contentType, DataBase64: encoded}, options)
}

func (d *Delivery) emit(emitted emit, options []EmitOption) error {
	for _, option := range options {
		option(&emitted)
	}
	d.emits = append(d.emits, emitted)
	return nil
}

// Log writes a line to the plugin's log.
func (d *Delivery) Log(format string, values ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", values...)
}

// Run takes the one delivery of this run. It does not return where it fails.
func Run(handlers Handlers) {
	if err := Serve(os.Stdin, os.Stdout, handlers); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// Serve is Run on other streams: for tests.
func Serve(in io.Reader, out io.Writer, handlers Handlers) error {
	delivery, err := read(in)
	if err != nil {
		return err
	}
	failed := error(nil)
	if handler := handlers.find(delivery.Event.Type); handler != nil {
		failed = handler(delivery)
	}
	return delivery.answer(out, failed)
}

func (h Handlers) find(kind string) Handler {
	best, most := Handler(nil), -1
	for pattern, handler := range h {
		plain := 0
		for _, segment := range strings.Split(pattern, ".") {
			if segment != "*" && segment != "**" {
				plain++
			}
		}
		if plain > most && matches(strings.Split(pattern, "."), strings.Split(kind, ".")) {
			best, most = handler, plain
		}
	}
	return best
}

func matches(wanted, given []string) bool {
	if len(wanted) == 0 {
		return len(given) == 0
	}
	if wanted[0] == "**" {
		return matches(wanted[1:], given) || (len(given) > 0 && matches(wanted, given[1:]))
	}
	return len(given) > 0 && (wanted[0] == "*" || wanted[0] == given[0]) &&
		matches(wanted[1:], given[1:])
}

func read(in io.Reader) (*Delivery, error) {
	lines := bufio.NewReader(in)
	first, err := lines.ReadBytes('\n')
	if err != nil {
		return nil, fmt.Errorf("no event on standard input: %w", err)
	}
	second, err := lines.ReadBytes('\n')
	if err != nil && err != io.EOF {
		return nil, err
	}
	var rest struct {
		State      map[string]json.RawMessage `json:"state"`
		Config     map[string]string          `json:"config"`
		Attempt    int                        `json:"attempt"`
		Redriven   bool                       `json:"redriven"`
		Position   uint64                     `json:"position"`
		Sequence   uint64                     `json:"sequence"`
		RecordedMs int64                      `json:"recorded_ms"`
	}
	if err := json.Unmarshal(second, &rest); err != nil {
		return nil, fmt.Errorf("the second line is not what it should be: %w", err)
	}
	event, err := parse(first)
	if err != nil {
		return nil, err
	}
	if rest.State == nil {
		rest.State = map[string]json.RawMessage{}
	}
	return &Delivery{
		Event: event, Attempt: rest.Attempt, Redriven: rest.Redriven, Position: rest.Position,
		Sequence: rest.Sequence, Recorded: time.UnixMilli(rest.RecordedMs), config: rest.Config,
		state: rest.State, set: map[string]json.RawMessage{}, gone: map[string]bool{},
	}, nil
}

func parse(line []byte) (Event, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(line, &fields); err != nil {
		return Event{}, fmt.Errorf("the first line is no event: %w", err)
	}
	event := Event{Attributes: map[string]string{}}
	known := map[string]*string{
		"id": &event.ID, "source": &event.Source, "type": &event.Type, "time": &event.Time,
		"datacontenttype": &event.ContentType, "partitionkey": &event.Key,
	}
	for name, raw := range fields {
		switch into := known[name]; {
		case into != nil:
			if err := json.Unmarshal(raw, into); err != nil {
				return Event{}, fmt.Errorf("attribute %s: %w", name, err)
			}
		case name == "data":
			event.Data = text(raw, fields["datacontenttype"])
		case name == "data_base64":
			if err := json.Unmarshal(raw, &event.Data); err != nil {
				return Event{}, fmt.Errorf("data_base64: %w", err)
			}
		case name != "specversion":
			var value any
			if err := json.Unmarshal(raw, &value); err != nil {
				return Event{}, err
			}
			event.Attributes[name] = fmt.Sprint(value)
		}
	}
	if event.Key == "" {
		event.Key = event.Attributes["subject"]
	}
	return event, nil
}

// text is the data of an event: JSON as it stands; of another media type, what the string says.
func text(raw, media json.RawMessage) []byte {
	var kind, value string
	_ = json.Unmarshal(media, &kind)
	if kind != "" && !strings.Contains(kind, "json") && json.Unmarshal(raw, &value) == nil {
		return []byte(value)
	}
	return raw
}

func (d *Delivery) answer(out io.Writer, failed error) error {
	lines := json.NewEncoder(out)
	lines.SetEscapeHTML(false)
	var again retry
	switch {
	case errors.As(failed, &again):
		line := map[string]any{"outcome": "retry", "reason": again.reason}
		if again.after > 0 {
			line["after_ms"] = again.after.Milliseconds()
		}
		return lines.Encode(line)
	case failed != nil:
		return lines.Encode(map[string]any{"outcome": "reject", "reason": failed.Error()})
	}
	for _, emitted := range d.emits {
		if err := lines.Encode(map[string]any{"emit": emitted}); err != nil {
			return err
		}
	}
	if len(d.set) > 0 || len(d.gone) > 0 {
		gone := []string{}
		for name := range d.gone {
			gone = append(gone, name)
		}
		sort.Strings(gone)
		changes := map[string]any{"set": d.set, "delete": gone}
		if err := lines.Encode(map[string]any{"state": changes}); err != nil {
			return err
		}
	}
	return lines.Encode(map[string]any{"outcome": "ok"})
}
