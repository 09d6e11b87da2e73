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
// What is written, emitted, set and sent is recorded when the function returns nil, exactly once, and
// dropped otherwise. [Retry] asks for another attempt; any other error rejects the event; a panic is a
// trap, and its reason says what it was and where. Nothing is kept between deliveries but the state.
//
// What the host would refuse is an error where it is asked for, or where nothing is returned, rejects the
// event. A bus that is not there, a call that is not granted or whose URL is malformed, and a timer on a
// memory bus are known to the host alone, when the function has returned: those are traps.
//
// A [Plugin] takes timers, answers to calls, commands and questions too. It lifts no old events, and
// sees the state of one key at a time.
package tidegate

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"
	"slices"
	"sort"
	"strconv"
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
	// What is to be written where the delivery goes well, line by line.
	lines []byte
	out   io.Writer
	asked *asked
	// The first thing that was refused where no error is returned.
	refused error
}

type emit struct {
	Type        string            `json:"type"`
	Key         *string           `json:"key,omitempty"`
	Bus         *string           `json:"bus,omitempty"`
	ContentType string            `json:"datacontenttype,omitempty"`
	Attributes  map[string]string `json:"attributes,omitempty"`
}

// Handler takes one event.
type Handler func(*Delivery) error

// Handlers are functions by event type: `order.*` takes one segment for the star, `payment.**` zero
// or more. The pattern with the most plain segments goes first, of several the first by name; a type
// nobody takes is left alone.
type Handlers map[string]Handler

// Request is a command or a question.
type Request struct {
	// Operation is what is asked.
	Operation string
	// Principal is who asks, as authenticated; empty: nobody in particular.
	Principal string
	// Parameters are those of the address.
	Parameters map[string]string
	// ContentType is the media type of Data; empty: none.
	ContentType string
	Data        []byte
}

// JSON reads the body.
func (r *Request) JSON(into any) error {
	if err := json.Unmarshal(r.Data, into); err != nil {
		return fmt.Errorf("the body is not what it should be: %w", err)
	}
	return nil
}

// Answerer carries out a command, or answers a question; what it returns is the answer, as JSON; []byte
// as it is; nil: none. A question has no effects.
type Answerer func(*Delivery, *Request) (any, error)

// Plugin is everything a plugin can take. Nil: nothing of that kind.
type Plugin struct {
	Events Handlers
	// Timers and Responses are by the name of the timer or the call; "*": all others.
	Timers, Responses map[string]Handler
	// Commands and Queries are by name.
	Commands, Queries map[string]Answerer
}

type asked struct {
	Kind       string            `json:"kind"`
	Operation  string            `json:"operation"`
	Principal  string            `json:"principal"`
	Parameters map[string]string `json:"parameters"`
}

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
func (d *Delivery) Set(name string, value any) error { return d.SetFor(name, value, 0) }

// SetFor is Set for a while: the value is gone that long after Recorded, below 0 at once. 0: for good.
func (d *Delivery) SetFor(name string, value any, ttl time.Duration) error {
	if err := d.mayKeep(name); err != nil {
		return err
	}
	text, err := marshal(value)
	if err != nil {
		return err
	}
	if err := sized("a value", len(text), stateValueBytesMax); err != nil {
		return err
	}
	set, err := marshal(map[string]json.RawMessage{name: text})
	if err != nil {
		return err
	}
	d.state[name] = text
	change := map[string]any{}
	if ttl != 0 {
		change["ttl_ms"] = max(ttl.Milliseconds(), 0)
	}
	return d.want("state", change, "set", set)
}

// Delete removes a name, if there.
func (d *Delivery) Delete(name string) {
	if !d.refuses(d.mayKeep(name)) {
		delete(d.state, name)
		d.refuses(d.want("state", map[string]any{"delete": []string{name}}, "", nil))
	}
}

// SetTimer sets or replaces a timer of the key; it comes back to Timers of a [Plugin] with the data as
// JSON; nil: none.
func (d *Delivery) SetTimer(name string, due time.Time, data any) error {
	if err := d.mayKeep(name); err != nil {
		return err
	}
	timer := map[string]any{"set": name, "due_ms": max(due.UnixMilli(), 0)}
	if data == nil {
		return d.want("timer", timer, "", nil)
	}
	text, err := marshal(data)
	if err != nil {
		return err
	}
	if err := sized("`data`", len(text), timerDataBytesMax); err != nil {
		return err
	}
	return d.want("timer", timer, "data", text)
}

// SetTimerAfter is SetTimer, counted from Recorded.
func (d *Delivery) SetTimerAfter(name string, after time.Duration, data any) error {
	return d.SetTimer(name, d.Recorded.Add(after), data)
}

// CancelTimer cancels a timer, if there.
func (d *Delivery) CancelTimer(name string) {
	if !d.refuses(d.mayKeep(name)) {
		d.refuses(d.want("timer", map[string]any{"cancel": name}, "", nil))
	}
}

// Call is a request to the outside, sent once the delivery is durable.
type Call struct {
	// Name comes back with the answer.
	Name string
	// Method: "": POST.
	Method string
	// URL is absolute, to a host that the manifest is granted.
	URL string
	// Headers; {secret:NAME} in a value is filled in by the host.
	Headers map[string]string
	// Body as JSON; []byte as it is; nil: none.
	Body any
	// Timeout of one attempt; 0: ten seconds.
	Timeout time.Duration
}

// Send makes a call; the answer comes back to Responses of a [Plugin].
func (d *Delivery) Send(call Call) error {
	if err := d.mayWrite(); err != nil {
		return err
	}
	if err := call.check(); err != nil {
		return err
	}
	line := map[string]any{"name": call.Name, "url": call.URL}
	if call.Method != "" {
		line["method"] = call.Method
	}
	if len(call.Headers) > 0 {
		line["headers"] = call.Headers
	}
	if call.Timeout != 0 {
		line["timeout_ms"] = call.Timeout.Milliseconds()
	}
	switch body := call.Body.(type) {
	case nil:
	case []byte:
		line["data_base64"] = body
	default:
		line["data"] = body
	}
	return d.want("call", line, "", nil)
}

// want adds a line: an object of one member, whose own members are small but for one, which stands
// in raw as the JSON it is. It fails where a value cannot be written.
func (d *Delivery) want(member string, small any, name string, raw []byte) error {
	text, err := marshal(small)
	if err != nil {
		return err
	}
	d.lines = append(d.lines, `{"`+member+`":`...)
	d.lines = append(d.lines, text[:len(text)-1]...)
	if name != "" {
		if len(text) > 2 {
			d.lines = append(d.lines, ',')
		}
		d.lines = append(d.lines, `"`+name+`":`...)
		d.lines = append(d.lines, raw...)
	}
	d.lines = append(d.lines, "}}\n"...)
	return nil
}

// marshal is json.Marshal that leaves <, > and & as they are.
func marshal(value any) ([]byte, error) {
	var text bytes.Buffer
	lines := json.NewEncoder(&text)
	lines.SetEscapeHTML(false)
	if err := lines.Encode(value); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(text.Bytes(), []byte("\n")), nil
}

// EmitOption changes one emitted event.
type EmitOption func(*emit)

// WithKey gives the event another key than the input's.
func WithKey(key string) EmitOption { return func(e *emit) { e.Key = &key } }

// ToBus sends it to another bus.
func ToBus(bus string) EmitOption { return func(e *emit) { e.Bus = &bus } }

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
	if data == nil {
		return d.emit(emit{Type: kind}, "", nil, options)
	}
	text, err := marshal(data)
	if err != nil {
		return err
	}
	if err := sized("`data`", len(text), eventDataBytesMax); err != nil {
		return err
	}
	return d.emit(emit{Type: kind, ContentType: "application/json"}, "data", text, options)
}

// EmitBytes emits data as it is.
func (d *Delivery) EmitBytes(kind, contentType string, data []byte, options ...EmitOption) error {
	if err := sized("`data`", len(data), eventDataBytesMax); err != nil {
		return err
	}
	raw := make([]byte, base64.StdEncoding.EncodedLen(len(data))+2)
	raw[0], raw[len(raw)-1] = '"', '"'
	base64.StdEncoding.Encode(raw[1:], data)
	return d.emit(emit{Type: kind, ContentType: contentType}, "data_base64", raw, options)
}

func (d *Delivery) emit(emitted emit, name string, raw []byte, options []EmitOption) error {
	for _, option := range options {
		option(&emitted)
	}
	if err := d.mayWrite(); err != nil {
		return err
	}
	if err := emitted.check(d.Event.Key); err != nil {
		return err
	}
	return d.want("emit", emitted, name, raw)
}

// What the host allows, and says where it does not. It judges again, and what it knows besides.
const (
	keyBytesMax           = 1024
	nameBytesMax          = 255
	eventDataBytesMax     = 1 << 20
	stateValueBytesMax    = 1 << 20
	timerDataBytesMax     = 64 << 10
	attributesMax         = 64
	attributesBytesMax    = 8 << 10
	attributeNameBytesMax = 20
	methodBytesMax        = 16
	urlBytesMax           = 8 << 10
	timeoutMax            = time.Minute
)

// What the names of attributes and of headers are made of.
const (
	lowerDigits = "abcdefghijklmnopqrstuvwxyz0123456789"
	upper       = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	tokenBytes  = lowerDigits + upper + "!#$%&'*+-.^_`|~"
)

// Attributes that have a field of their own, or a meaning where events come in.
var attributesReserved = []string{"data", "datacontenttype", "expectedsequence", "id", "partitionkey",
	"source", "specversion", "time", "type"}

// Headers that say how a call is sent.
var headersOfHost = []string{"connection", "content-length", "expect", "host", "idempotency-key",
	"keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}

func (d *Delivery) mayWrite() error {
	if d.asked != nil && d.asked.Kind == "query" {
		return errors.New("nothing can be written here")
	}
	return nil
}

// mayKeep says whether the key can have something of this name: a value, a timer.
func (d *Delivery) mayKeep(name string) error {
	if err := d.mayWrite(); err != nil {
		return err
	}
	if d.Event.Key == "" {
		return errors.New("the event has no key, so no state")
	}
	return bounded("a name", name, nameBytesMax)
}

// refuses keeps an error for the end, if it is one.
func (d *Delivery) refuses(err error) bool {
	if d.refused == nil {
		d.refused = err
	}
	return err != nil
}

func (e *emit) check(inputKey string) error {
	if err := bounded("`type`", e.Type, nameBytesMax); err != nil {
		return err
	}
	if strings.HasPrefix(e.Type, "tidegate.") {
		return fmt.Errorf("`type` is `%s`: types starting `tidegate.` are the host's own", e.Type)
	}
	if e.ContentType != "" {
		if err := bounded("`content-type`", e.ContentType, nameBytesMax); err != nil {
			return err
		}
	}
	if err := checkAttributes(e.Attributes); err != nil {
		return err
	}
	key := e.Key
	if subject, ok := e.Attributes["subject"]; key == nil && ok && inputKey == "" {
		key = &subject
	}
	switch {
	case key == nil:
		return nil
	case *key == "":
		return errKey("none")
	case len(*key) > keyBytesMax:
		return errKey(fmt.Sprintf("%d bytes", len(*key)))
	case hasControl(*key):
		return errKey("a control character")
	}
	return nil
}

func errKey(why string) error {
	return fmt.Errorf("key must have 1 to %d bytes and no control characters, found %s", keyBytesMax, why)
}

func checkAttributes(attributes map[string]string) error {
	if err := checkPairs("attribute", attributes); err != nil {
		return err
	}
	for name := range attributes {
		if len(name) > attributeNameBytesMax || !madeOf(lowerDigits, name) {
			return fmt.Errorf("attribute name `%s` must have 1 to %d characters of a-z and 0-9",
				shown(name), attributeNameBytesMax)
		}
		if slices.Contains(attributesReserved, name) {
			return fmt.Errorf("attribute `%s` is not an extension", name)
		}
	}
	if version, ok := attributes["schemaversion"]; ok {
		number, err := strconv.ParseUint(version, 10, 31)
		if err != nil || strconv.FormatUint(number, 10) != version || number == 0 {
			return fmt.Errorf("attribute `schemaversion` is `%s`, not a whole number from 1", shown(version))
		}
	}
	return nil
}

// checkPairs checks what attributes and headers have in common.
func checkPairs(what string, pairs map[string]string) error {
	if len(pairs) > attributesMax {
		return fmt.Errorf("there are %d attributes, at most %d are allowed", len(pairs), attributesMax)
	}
	size := 0
	for name, value := range pairs {
		size += len(name) + len(value)
		if hasControl(value) {
			return fmt.Errorf("%s `%s` has a control character", what, shown(name))
		}
	}
	return sized("all "+what+"s together", size, attributesBytesMax)
}

func (c *Call) check() error {
	if err := bounded("`name`", c.Name, nameBytesMax); err != nil {
		return err
	}
	if c.Method != "" && (len(c.Method) > methodBytesMax || !madeOf(upper, c.Method)) {
		return fmt.Errorf("`method` is `%s`, not like `GET` or `POST`", shown(c.Method))
	}
	if err := checkPairs("header", c.Headers); err != nil {
		return err
	}
	for name := range c.Headers {
		if !madeOf(tokenBytes, name) {
			return fmt.Errorf("`%s` is not the name of a header", shown(name))
		}
		if slices.Contains(headersOfHost, strings.ToLower(name)) {
			return fmt.Errorf("header `%s` is the host's to set", name)
		}
	}
	if err := sized("`url`", len(c.URL), urlBytesMax); err != nil {
		return err
	}
	scheme, _, _ := strings.Cut(c.URL, "://")
	if scheme = strings.ToLower(scheme); scheme != "https" && scheme != "http" {
		return errors.New("`url` must start `https://` or `http://`")
	}
	if c.Timeout != 0 && (c.Timeout < time.Millisecond || c.Timeout > timeoutMax) {
		return fmt.Errorf("`timeout-ms` must be 1 to %d", timeoutMax.Milliseconds())
	}
	return nil
}

func bounded(what, text string, most int) error {
	if text == "" || len(text) > most {
		return fmt.Errorf("%s must have 1 to %d bytes, not %d", what, most, len(text))
	}
	if hasControl(text) {
		return fmt.Errorf("%s has a control character", what)
	}
	return nil
}

func sized(what string, bytes, most int) error {
	if bytes > most {
		return fmt.Errorf("%s has %d bytes, at most %d are allowed", what, bytes, most)
	}
	return nil
}

// madeOf says whether a text has letters, and all of them are among some.
func madeOf(letters, text string) bool { return text != "" && strings.Trim(text, letters) == "" }

func hasControl(text string) bool {
	return strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 })
}

// shown is the start of a text of unknown length.
func shown(text string) string { return strings.ToValidUTF8(text[:min(len(text), 64)], "") }

// Log writes a line to the plugin's log, also where the delivery fails.
func (d *Delivery) Log(format string, values ...any) { d.say("info", format, values) }

// Trace, Debug, Warn and Error do the same at their level.
func (d *Delivery) Trace(format string, values ...any) { d.say("trace", format, values) }

// Debug is for whoever writes the plugin.
func (d *Delivery) Debug(format string, values ...any) { d.say("debug", format, values) }

// Warn is for what somebody should look at.
func (d *Delivery) Warn(format string, values ...any) { d.say("warn", format, values) }

// Error is for what went wrong.
func (d *Delivery) Error(format string, values ...any) { d.say("error", format, values) }

func (d *Delivery) say(level, format string, values []any) {
	message := fmt.Sprintf(format, values...)
	// Written at once: a delivery that is stopped has said it all the same.
	_ = d.write(map[string]any{"log": map[string]string{"level": level, "message": message}})
}

// Run takes the one delivery of this run. It does not return where it fails.
func Run(handlers Handlers) { Plugin{Events: handlers}.Run() }

// Serve is Run on other streams: for tests.
func Serve(in io.Reader, out io.Writer, handlers Handlers) error {
	return Plugin{Events: handlers}.Serve(in, out)
}

// Run takes the one delivery of this run. It does not return where it fails.
func (p Plugin) Run() {
	if err := p.Serve(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// Serve is Run on other streams: for tests.
func (p Plugin) Serve(in io.Reader, out io.Writer) error {
	delivery, err := read(in)
	if err != nil {
		return err
	}
	delivery.out = out
	defer delivery.lastWords()
	if delivery.asked != nil {
		answer, failed := p.answer(delivery)
		if failed == nil {
			failed = delivery.respond(answer)
		}
		return delivery.end(failed)
	}
	failed := error(nil)
	if handler := p.find(&delivery.Event); handler != nil {
		failed = handler(delivery)
	}
	return delivery.end(failed)
}

// lastWords says of a panic what it was and where, which becomes the reason of the trap, and lets it go on.
func (d *Delivery) lastWords() {
	if cause := recover(); cause != nil {
		d.Error("panic: %v%s", cause, panicked())
		panic(cause)
	}
}

// panicked is the place of the panic that a deferred function sees.
func panicked() string {
	callers := make([]uintptr, 64)
	frames := runtime.CallersFrames(callers[:runtime.Callers(0, callers)])
	for seen := false; ; {
		frame, more := frames.Next()
		if seen && !strings.HasPrefix(frame.Function, "runtime.") {
			return fmt.Sprintf("\n    at %s (%s:%d)", frame.Function, path.Base(frame.File), frame.Line)
		}
		seen = seen || frame.Function == "runtime.gopanic"
		if !more {
			return ""
		}
	}
}

func (p Plugin) answer(d *Delivery) (any, error) {
	known := p.Commands
	if d.asked.Kind == "query" {
		known = p.Queries
	}
	answerer := known[d.asked.Operation]
	if answerer == nil {
		return nil, fmt.Errorf("no %s `%s`", d.asked.Kind, d.asked.Operation)
	}
	return answerer(d, &Request{
		Operation: d.asked.Operation, Principal: d.asked.Principal, Parameters: d.asked.Parameters,
		ContentType: d.Event.ContentType, Data: d.Event.Data,
	})
}

func (d *Delivery) respond(answer any) error {
	response := map[string]any{}
	switch answer := answer.(type) {
	case nil:
	case []byte:
		response["datacontenttype"] = "application/octet-stream"
		response["data_base64"] = answer
	default:
		response["data"] = answer
	}
	return d.want("response", response, "", nil)
}

func (p Plugin) find(event *Event) Handler {
	for _, back := range []struct {
		kind, name string
		known      map[string]Handler
	}{{"tidegate.timer", "timername", p.Timers}, {"tidegate.response", "callname", p.Responses}} {
		if event.Type != back.kind {
			continue
		}
		if handler := back.known[event.Attributes[back.name]]; handler != nil {
			return handler
		}
		if handler := back.known["*"]; handler != nil {
			return handler
		}
	}
	return p.Events.find(event.Type)
}

func (h Handlers) find(kind string) Handler {
	best, most := "", -1
	for pattern := range h {
		plain := 0
		for _, segment := range strings.Split(pattern, ".") {
			if segment != "*" && segment != "**" {
				plain++
			}
		}
		first := plain > most || (plain == most && pattern < best)
		if first && matches(strings.Split(pattern, "."), strings.Split(kind, ".")) {
			best, most = pattern, plain
		}
	}
	return h[best]
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
		Request    *asked                     `json:"request"`
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
		state: rest.State, asked: rest.Request,
	}, nil
}

func parse(line []byte) (Event, error) {
	fields, err := members(line)
	if err != nil {
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
			*into = plain(raw)
		case name == "data_base64":
			if event.Data, err = base64.StdEncoding.DecodeString(plain(raw)); err != nil {
				return Event{}, fmt.Errorf("data_base64: %w", err)
			}
		case name != "specversion" && name != "data":
			event.Attributes[name] = plain(raw)
		}
	}
	if raw, ok := fields["data"]; ok {
		event.Data = raw
		// Of another media type, the data are what the string says.
		if kind := event.ContentType; kind != "" && !isJSON(kind) {
			event.Data = []byte(plain(raw))
		}
	}
	if event.Key == "" {
		event.Key = event.Attributes["subject"]
	}
	return event, nil
}

func isJSON(contentType string) bool {
	media, _, _ := strings.Cut(contentType, ";")
	media = strings.ToLower(strings.TrimSpace(media))
	return strings.HasSuffix(media, "/json") || strings.HasSuffix(media, "+json")
}

// plain is the text of a JSON string; of anything else, the JSON.
func plain(raw []byte) string {
	if len(raw) < 2 || raw[0] != '"' {
		return string(raw)
	}
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw[1 : len(raw)-1])
	}
	var text string
	if json.Unmarshal(raw, &text) != nil {
		return string(raw)
	}
	return text
}

var errMalformed = errors.New("not an object in JSON")

// members splits an object that the host has written. encoding/json would read every payload three
// times over.
func members(text []byte) (map[string][]byte, error) {
	found := map[string][]byte{}
	i := space(text, 0)
	if i >= len(text) || text[i] != '{' {
		return nil, errMalformed
	}
	for i = space(text, i+1); i < len(text) && text[i] == '"'; i = space(text, i+1) {
		end := stringEnd(text, i)
		if end < 0 {
			return nil, errMalformed
		}
		name := plain(text[i:end])
		if i = space(text, end); i >= len(text) || text[i] != ':' {
			return nil, errMalformed
		}
		i = space(text, i+1)
		if end = valueEnd(text, i); end <= i {
			return nil, errMalformed
		}
		found[name] = text[i:end]
		if i = space(text, end); i >= len(text) || text[i] != ',' {
			break
		}
	}
	if i >= len(text) || text[i] != '}' {
		return nil, errMalformed
	}
	return found, nil
}

func space(text []byte, i int) int {
	for i < len(text) && (text[i] == ' ' || text[i] == '\t' || text[i] == '\r' || text[i] == '\n') {
		i++
	}
	return i
}

// stringEnd is behind the string that begins at i; -1: it has no end.
func stringEnd(text []byte, i int) int {
	for i++; ; i++ {
		quote := bytes.IndexByte(text[i:], '"')
		if quote < 0 {
			return -1
		}
		i += quote
		escapes := 0
		for text[i-1-escapes] == '\\' {
			escapes++
		}
		if escapes%2 == 0 {
			return i + 1
		}
	}
}

// valueEnd is behind the value that begins at i; -1: it has no end.
func valueEnd(text []byte, i int) int {
	depth := 0
	for i < len(text) {
		switch text[i] {
		case '"':
			if i = stringEnd(text, i); i < 0 || depth == 0 {
				return i
			}
			continue
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return i
			}
			if depth--; depth == 0 {
				return i + 1
			}
		case ',', ' ', '\t', '\r', '\n':
			if depth == 0 {
				return i
			}
		}
		i++
	}
	return -1
}

// end writes what the delivery wants, and how it went.
func (d *Delivery) end(failed error) error {
	if failed == nil {
		failed = d.refused
	}
	var again retry
	switch {
	case errors.As(failed, &again):
		line := map[string]any{"outcome": "retry", "reason": again.reason}
		if again.after > 0 {
			line["after_ms"] = again.after.Milliseconds()
		}
		return d.write(line)
	case failed != nil:
		return d.write(map[string]string{"outcome": "reject", "reason": failed.Error()})
	}
	if _, err := d.out.Write(d.lines); err != nil {
		return err
	}
	return d.write(map[string]string{"outcome": "ok"})
}

func (d *Delivery) write(line any) error {
	text, err := marshal(line)
	if err != nil {
		return err
	}
	_, err = d.out.Write(append(text, '\n'))
	return err
}
