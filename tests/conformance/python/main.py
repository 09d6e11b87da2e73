"""The conformance handler in Python. What each type asks for: tests/conformance/README.md."""

from tidegate import (
    Event, Lifted, Reject, Request, Retry, attempt, attribute, attributes, calls, command, config,
    emit, handler, log, now_ms, query, response, state, timer, timers, upcaster,
)


@handler("conf.echo")
def echo(event: Event) -> None:
    emit("echo.done", event.data, content_type=event.content_type)


@handler("conf.emit")
def emit_many(event: Event) -> None:
    for n in range(1, event.json()["count"] + 1):
        emit("emit.done", {"n": n}, key=f"part-{n}", attributes={"part": n})


@handler("conf.state")
def add_up(event: Event) -> None:
    total = state.get("sum", 0) + event.json()["add"]
    state.set("draft", True)
    state.set("sum", total)
    state.set("last", event.id)
    state.delete("draft")
    emit("state.done", {"sum": total, "names": list(state.list())})


@handler("conf.retry")
def try_again(event: Event) -> None:
    if attempt() < 2:
        raise Retry("not yet", after_ms=1)
    emit("retry.done", {"attempt": attempt()})


@handler("conf.reject")
def give_up(event: Event) -> None:
    state.set("gone", True)
    emit("reject.done")
    raise Reject(event.json()["why"])


@handler("conf.trap")
def crash(event: Event) -> None:
    state.set("gone", True)
    raise RuntimeError("on purpose")


@handler("conf.async")
async def wait(event: Event) -> None:
    state.set("gone", True)
    emit("async.done")


@handler("conf.fuel")
def spin(event: Event) -> None:
    while True:
        pass


@handler("conf.memory")
def grow(event: Event) -> None:
    kept = []
    while True:
        kept.append(bytes(1 << 20))


@handler("conf.unicode")
def unicode(event: Event) -> None:
    text = event.json()["text"]
    state.set(text, text)
    emit("unicode.done", {"text": text, "key": event.key})


@handler("conf.member")
def name_member(event: Event) -> None:
    emit("member.done", {event.json()["text"]: "\\ud83d"}, attributes={"sure": True})


@handler("conf.read")
def read_numbers(event: Event) -> None:
    given = event.json()
    emit("read.done", {"n": given["n"], "z": int(given["z"])})


@handler("conf.attributes")
def pass_on(event: Event) -> None:
    given = attributes()
    size = sum(len(name.encode()) + len(value.encode()) for name, value in given.items())
    emit("attributes.done", {"count": len(given), "bytes": size}, attributes=given)


@handler("conf.timer")
def set_timers(event: Event) -> None:
    timers.set("never", now_ms() + 1)
    timers.cancel("never")
    timers.after("later", 1, {"n": 7})


@timer("later")
def fire(event: Event) -> None:
    emit("timer.done", {"name": attribute("timername"), "data": event.json(), "key": event.key})


@handler("conf.past")
def live_in_the_past(event: Event) -> None:
    if attempt() < 2:
        raise Retry("not yet", -1.5)
    state.set("gone", True, ttl_ms=-1.5)
    timers.set("past", -1.5)


@timer("past")
def past(event: Event) -> None:
    emit("past.done", {"gone": state.get("gone")})


@handler("conf.nowhere")
def emit_nowhere(event: Event) -> None:
    emit("nowhere.done", {}, key="")


@handler("conf.call")
def call(event: Event) -> None:
    calls.send("ask", event.json()["url"], body={"n": 7})


@response("ask")
def answered(event: Event) -> None:
    emit("call.done", {"name": attribute("callname"), "status": int(attribute("callstatus"))})


@handler("conf.config")
def configured(event: Event) -> None:
    emit("config.done", {"greeting": config("greeting"), "missing": config("missing")})


@handler("conf.log")
def log_lines(event: Event) -> None:
    log.trace("one")
    log.debug("two")
    log.info("three")
    log.warn("four")
    log.error("five")


@handler("conf.old.*")
def old(event: Event) -> None:
    emit("old.done", event.json())


@command()
def add(request: Request) -> dict:
    total = state.get("sum", 0) + request.json()["amount"]
    state.set("sum", total)
    emit("add.done", {"sum": total})
    return {"sum": total}


@command()
def refuse(request: Request) -> None:
    state.set("gone", True)
    raise Reject("not this one")


@query("raw")
def read_raw(request: Request) -> bytes:
    return b"\x00\xff"


@query("sum")
def read_sum(request: Request) -> dict:
    return {"sum": state.get("sum", 0)}


@upcaster("conf.old.python")
def lift(data: dict, version: int) -> Lifted:
    """Amounts in euros become amounts in cents."""
    return Lifted(version + 1, {"cents": data["amount"] * 100})
