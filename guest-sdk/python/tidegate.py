"""Write tidegate plugins in Python.

    from tidegate import Event, emit, handler, state

    @handler("order.created")
    def add(event: Event) -> None:
        total = state.get("sum", 0) + event.json()["amount"]
        state.set("sum", total)
        emit("order.totalled", {"sum": total})

What is written, emitted, set and sent is recorded when the function returns, exactly once, and dropped
when it raises. `raise Reject(why)` gives an event up, `raise Retry(why)` asks for another attempt; any
other exception is a trap, with its traceback in the plugin's log. None may be `async`: a delivery waits
for nothing, and a coroutine is a trap, too.

Values in the state, data of events, bodies of requests: JSON, or bytes where they are `bytes`. `print`
writes to the plugin's log, `time.time()` is the time of the input; there are no files and no network.
Take chance from `random_u64`: only that is the same in a replay.
"""

from __future__ import annotations

import json as _json
import math as _math
import sys as _sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType as _Traceback
from typing import Any, NoReturn, TypeVar

from componentize_py_types import Err as _Err
from wit_world.imports import bus as _bus
from wit_world.imports import calls as _calls
from wit_world.imports import context as _context
from wit_world.imports import keys as _keys
from wit_world.imports import state as _state
from wit_world.imports import timers as _timers
from wit_world.imports import types as _types

_JSON = "application/json"
_PAGE = 1000

F = TypeVar("F", bound=Callable[..., Any])


# ---- Verdicts ---------------------------------------------------------------------------------


class Reject(Exception):
    """Never going to work: a dead letter."""


class Retry(Exception):
    """The cause may go away. Without `after_ms`: the backoff of the manifest."""

    def __init__(self, reason: str, after_ms: float | None = None) -> None:
        super().__init__(reason)
        self.after_ms = _maybe_ms(after_ms)


class EffectError(Exception):
    """An effect that the host refused; nothing changed.

    `code`: exceeded, invalid, unkeyed, denied, read-only, other. Left alone, it rejects the delivery.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code
        self.detail = detail


def _ms(ms: float) -> int:
    """Milliseconds as the host takes them: whole ones, rounded up, and none below zero."""
    return min(max(_math.ceil(ms), 0), 2**64 - 1)


def _maybe_ms(ms: float | None) -> int | None:
    return None if ms is None else _ms(ms)


def _effect(run: Callable[..., Any], *args: Any) -> Any:
    try:
        return run(*args)
    except _Err as error:
        refusal = error.value
        name = type(refusal).__name__.removeprefix("EffectError_")
        code = "read-only" if name == "ReadOnly" else name.lower()
        raise EffectError(code, getattr(refusal, "value", "")) from None


def _call(run: Callable[..., Any], *given: Any) -> Any:
    """Calls a function of the plugin. One that is asynchronous would not even begin."""
    returned = run(*given)
    if not hasattr(returned, "__await__"):
        return returned
    raise TypeError("it returned a coroutine: a delivery waits for none, leave out `async`")


def _deliver(run: Callable[..., Any], *args: Any) -> Any:
    """Runs a function; turns what it raises into what the host understands."""
    # Not before: while the module is built there is no host to log to.
    _sys.excepthook = _uncaught
    try:
        return run(*args)
    except (Reject, EffectError) as error:
        raise _Err(_types.Failure_Reject(str(error))) from None
    except Retry as error:
        wish = _types.RetryRequest(str(error), error.after_ms)
        raise _Err(_types.Failure_Retry(wish)) from None


def _told(kind: type[BaseException], error: BaseException, trace: _Traceback | None) -> str:
    """An exception and where it was raised, innermost first, as far as that is the plugin's own code."""
    name = kind.__qualname__
    if kind.__module__ not in ("builtins", "__main__"):
        name = f"{kind.__module__}.{name}"
    lines = [f"{name}: {error}" if str(error) else name]
    frames = []
    while trace:
        code = trace.tb_frame.f_code
        if code.co_filename != __file__:
            file = code.co_filename.rpartition("/")[2]
            frames.append(f"    at {code.co_name} ({file}:{trace.tb_lineno})")
        trace = trace.tb_next
    lines += reversed(frames)
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause:
        lines.append(f"because of {_told(type(cause), cause, cause.__traceback__)}")
    return "\n".join(lines)


def _uncaught(kind: type[BaseException], error: BaseException, trace: _Traceback | None) -> None:
    """What the runtime calls for an exception that nobody caught, before it traps."""
    _context.log(_context.Level.ERROR, _told(kind, error, trace))


# ---- Events, requests -------------------------------------------------------------------------


def _parse(data: bytes, what: str) -> Any:
    try:
        value = _json.loads(data)
        # Half a surrogate pair, which JSON can say and UTF-8 cannot, becomes U+FFFD.
        if b"\\ud" in data or b"\\uD" in data:
            halves = _json.dumps(value, ensure_ascii=False).encode("utf-16", "surrogatepass")
            value = _json.loads(halves.decode("utf-16", "replace"))
        return value
    except ValueError as error:
        raise Reject(f"{what} is not JSON: {error}") from None


def _dump(value: Any) -> bytes:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    text = _json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode()


def _media(value: Any) -> str:
    return "application/octet-stream" if isinstance(value, (bytes, bytearray, memoryview)) else _JSON


def _text(value: Any) -> str:
    """A value as text; of truth values as CloudEvents and JSON have it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


@dataclass(frozen=True)
class Event:
    """One CloudEvents 1.0 event."""

    id: str
    source: str
    type: str
    """Past tense, dotted: `order.created`."""
    key: str | None
    """What orders events; None: unkeyed."""
    position: int
    """Number in the log of its bus."""
    sequence: int
    """Number within its key, from 1; 0: unkeyed or private."""
    time_ms: int | None
    """When it happened, as its source says."""
    recorded_ms: int
    """When the log took it."""
    content_type: str
    data: bytes

    def json(self) -> Any:
        """The data as JSON. Data that is none rejects the delivery."""
        return _parse(self.data, "the data")


@dataclass(frozen=True)
class Request:
    """A command or a question."""

    operation: str
    key: str | None
    principal: str
    """Who asks, as authenticated; empty: nobody in particular."""
    content_type: str
    data: bytes
    params: Mapping[str, str]

    def json(self) -> Any:
        """The body as JSON. A body that is none rejects the request."""
        return _parse(self.data, "the body")


@dataclass(frozen=True)
class Lifted:
    """The next shape of an event. `version`: higher than before."""

    version: int
    data: Any
    content_type: str | None = None


def _event(raw: Any) -> Event:
    return Event(
        raw.id, raw.source, raw.type, raw.key, raw.position, raw.sequence, raw.time_ms,
        raw.recorded_ms, raw.content_type, raw.data,
    )


# ---- What a plugin is made of -----------------------------------------------------------------

_handlers: list[tuple[str, Callable[[Event], None]]] = []
_fires: dict[str, Callable[[Event], None]] = {}
_responses: dict[str, Callable[[Event], None]] = {}
_commands: dict[str, Callable[[Request], Any]] = {}
_queries: dict[str, Callable[[Request], Any]] = {}
_upcasters: dict[str, Callable[[Any, int], Lifted]] = {}


def _words(decorator: str, given: tuple[Any, ...]) -> tuple[str, ...]:
    """What stands in the parentheses; without them a decorator is handed the function."""
    if all(isinstance(word, str) for word in given):
        return given
    raise TypeError(f"`@{decorator}` needs parentheses, and nothing but texts in them")


def handler(*types: str) -> Callable[[F], F]:
    """Takes events of these types, first match: `order.*` one segment, `payment.**` zero or more."""
    if not _words("handler", types):
        raise TypeError("`@handler()` takes no events: name their types in it")

    def register(function: F) -> F:
        _handlers.extend((pattern, function) for pattern in types)
        return function

    return register


def _named(word: str, registry: dict[str, Any]) -> Callable[..., Callable[[F], F]]:
    def decorator(*names: str) -> Callable[[F], F]:
        _words(word, names)

        def register(function: F) -> F:
            for name in names or (function.__name__,):
                registry[name] = function
            return function

        return register

    return decorator


timer = _named("timer", _fires)
"""Takes what comes back of timers, by name; `*`: all others."""
response = _named("response", _responses)
"""Takes what comes back of calls, by name; `*`: all others."""
command = _named("command", _commands)
"""Executes commands, by name; what it returns is the answer, as JSON."""
query = _named("query", _queries)
"""Answers questions, by name. State is there to read; effects are refused."""
upcaster = _named("upcaster", _upcasters)
"""Lifts events of a type: `(data, version) -> Lifted`. What it raises says why not."""


def matches(pattern: str, type: str) -> bool:
    """Whether a type is meant by a pattern."""

    def step(wanted: list[str], given: list[str]) -> bool:
        if not wanted:
            return not given
        if wanted[0] == "**":
            return step(wanted[1:], given) or (bool(given) and step(wanted, given[1:]))
        return bool(given) and wanted[0] in ("*", given[0]) and step(wanted[1:], given[1:])

    return step(pattern.split("."), type.split("."))


def _taker(event: Event) -> Callable[[Event], None] | None:
    for kind, named, by_name in (
        ("tidegate.timer", "timername", _fires),
        ("tidegate.response", "callname", _responses),
    ):
        if event.type == kind:
            taker = by_name.get(_context.attribute(named) or "") or by_name.get("*")
            if taker:
                return taker
    return next((take for pattern, take in _handlers if matches(pattern, event.type)), None)


def _answer(registry: dict[str, Callable[[Request], Any]], kind: str, raw: Any) -> Any:
    run = registry.get(raw.operation)
    if run is None:
        raise Reject(f"no {kind} `{raw.operation}`; there is {', '.join(registry)}")
    request = Request(
        raw.operation, raw.key, raw.principal, raw.content_type, raw.data, dict(raw.attributes)
    )
    answer = _call(run, request)
    if answer is None:
        return _types.Response("", b"", [])
    return _types.Response(_media(answer), _dump(answer), [])


class Handler:
    """The export `handler`."""

    def handle(self, event: Any) -> None:
        def run() -> None:
            taken = _event(event)
            taker = _taker(taken)
            if taker:
                _call(taker, taken)

        _deliver(run)


class Command:
    """The export `command`."""

    def execute(self, request: Any) -> Any:
        return _deliver(_answer, _commands, "command", request)


class Query:
    """The export `query`."""

    def read(self, request: Any) -> Any:
        return _deliver(_answer, _queries, "query", request)


class Upcaster:
    """The export `upcaster`."""

    def upcast(self, event: Any, version: int) -> Any:
        from wit_world.exports import upcaster as exported

        try:
            lift = _upcasters.get(event.type)
            if lift is None:
                raise Reject(f"no upcaster for `{event.type}`")
            lifted = _call(lift, _event(event).json(), version)
            media = lifted.content_type or event.content_type
            return exported.Lifted(lifted.version, media, _dump(lifted.data))
        except Exception as error:
            raise _Err(str(error)) from None


# ---- Effects ----------------------------------------------------------------------------------


def emit(
    type: str,
    data: Any = None,
    *,
    key: str | None = None,
    bus: str | None = None,
    content_type: str | None = None,
    attributes: Mapping[str, Any] | None = None,
) -> str:
    """Emits an event under the key of the input, or `key`; returns its id."""
    media = content_type if content_type is not None else "" if data is None else _media(data)
    further = sorted((name, _text(value)) for name, value in (attributes or {}).items())
    body = b"" if data is None else _dump(data)
    return _effect(_bus.emit, _types.Draft(type, key, bus, media, body, further))


def _pages(page: Callable[[str | None], list[str]]) -> Iterator[str]:
    after: str | None = None
    while True:
        names = page(after)
        yield from names
        if len(names) < _PAGE:
            return
        after = names[-1]


class state:
    """State of this plugin and key."""

    @staticmethod
    def get(name: str, default: Any = None) -> Any:
        """The value of a name as JSON."""
        value = _state.get(name)
        return default if value is None else _parse(value, f"the state `{name}`")

    @staticmethod
    def bytes(name: str) -> bytes | None:
        return _state.get(name)

    @staticmethod
    def set(name: str, value: Any, *, ttl_ms: float | None = None) -> None:
        """`ttl_ms`: gone that long after the input was recorded."""
        _effect(_state.set, name, _dump(value), _maybe_ms(ttl_ms))

    @staticmethod
    def delete(name: str) -> None:
        _effect(_state.delete, name)

    @staticmethod
    def list(prefix: str = "") -> Iterator[str]:
        """Every name with a prefix, ascending."""
        return _pages(lambda after: _state.list(prefix, after, _PAGE))


class keys:
    """State across keys: answers in queries only."""

    @staticmethod
    def list(prefix: str = "") -> Iterator[str]:
        return _pages(lambda after: _keys.list(prefix, after, _PAGE))

    @staticmethod
    def get(key: str, name: str, default: Any = None) -> Any:
        value = _keys.get(key, name)
        return default if value is None else _parse(value, f"the state `{name}` of `{key}`")


class timers:
    """Durable timers of this plugin and key; they come back to `@timer(name)`."""

    @staticmethod
    def set(name: str, due_ms: float, data: Any = None) -> None:
        """Sets or replaces. `due_ms` is absolute; past: at once."""
        _effect(_timers.set, name, _ms(due_ms), b"" if data is None else _dump(data))

    @staticmethod
    def after(name: str, ms: float, data: Any = None) -> None:
        """The same, counted from the input."""
        timers.set(name, now_ms() + ms, data)

    @staticmethod
    def cancel(name: str) -> None:
        _effect(_timers.cancel, name)


class calls:
    """Requests to the outside; answers come back to `@response(name)`."""

    @staticmethod
    def send(
        name: str,
        url: str,
        *,
        method: str = "POST",
        headers: Mapping[str, str] | None = None,
        body: Any = None,
        timeout_ms: int = 10_000,
    ) -> str:
        """Returns the idempotency key. `{secret:NAME}` in a header is filled in by the host."""
        given = {key.lower(): str(value) for key, value in (headers or {}).items()}
        if body is not None and _media(body) == _JSON:
            given.setdefault("content-type", _JSON)
        sent = b"" if body is None else _dump(body)
        request = _calls.Outgoing(name, method, url, sorted(given.items()), sent, timeout_ms)
        return _effect(_calls.send, request)


# ---- What a delivery may know -----------------------------------------------------------------


def attribute(name: str) -> str | None:
    """A further CloudEvents attribute of the input."""
    return _context.attribute(name)


def attributes() -> dict[str, str]:
    """All of them."""
    return dict(_context.attributes())


def config(name: str, default: str | None = None) -> str | None:
    """A string of `[config]` in the manifest."""
    value = _context.config(name)
    return default if value is None else value


def now_ms() -> int:
    """When the log took the input; stands still during a delivery."""
    return _context.now_ms()


def attempt() -> int:
    """From 1."""
    return _context.attempt()


def redriven() -> bool:
    """Whether the input comes from a redriven dead letter."""
    return _context.redriven()


def random_u64() -> int:
    """The same in a replay. Not for secrets."""
    return _context.random_u64()


def reject(reason: str) -> NoReturn:
    """Never going to work."""
    raise Reject(reason)


class log:
    """The plugin's log."""

    @staticmethod
    def trace(message: str) -> None:
        _context.log(_context.Level.TRACE, message)

    @staticmethod
    def debug(message: str) -> None:
        _context.log(_context.Level.DEBUG, message)

    @staticmethod
    def info(message: str) -> None:
        _context.log(_context.Level.INFO, message)

    @staticmethod
    def warn(message: str) -> None:
        _context.log(_context.Level.WARN, message)

    @staticmethod
    def error(message: str) -> None:
        _context.log(_context.Level.ERROR, message)
