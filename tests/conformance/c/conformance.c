/* The conformance handler in C. What each type asks for: tests/conformance/README.md. */
#include "tidegate.h"

static const char *c_string(tg_bytes text) {
    char *copy = tg_alloc(text.len + 1);
    memcpy(copy, text.ptr, text.len);
    copy[text.len] = 0;
    return copy;
}

static tg_outcome echo(const tg_event *event) {
    tg_draft draft = {
        .type = "echo.done", .content_type = c_string(event->content_type), .data = event->data,
    };
    TG_TRY(tg_emit_draft(&draft, NULL));
    return tg_ok();
}

static tg_outcome emit_many(const tg_event *event) {
    uint64_t count = 0;
    if (!tg_json_u64(event->data, "count", &count)) return tg_reject("no `count`");
    for (uint64_t n = 1; n <= count; n++) {
        tg_attribute part = { tg_str("part"), tg_format("%u", n) };
        tg_draft draft = {
            .type = "emit.done", .has_key = true, .key = tg_format("part-%u", n),
            .content_type = "application/json", .data = tg_format("{\"n\":%u}", n),
            .attributes = { &part, 1 },
        };
        TG_TRY(tg_emit_draft(&draft, NULL));
    }
    return tg_ok();
}

static tg_outcome add_up(const tg_event *event) {
    uint64_t add = 0;
    if (!tg_json_u64(event->data, "add", &add)) return tg_reject("no `add`");
    uint64_t sum = tg_state_get_u64(tg_str("sum"), 0) + add;
    TG_TRY(tg_state_set(tg_str("draft"), tg_str("true")));
    TG_TRY(tg_state_set_u64(tg_str("sum"), sum));
    TG_TRY(tg_state_set(tg_str("last"), tg_format("%j", event->id)));
    TG_TRY(tg_state_delete(tg_str("draft")));

    tg_names names = tg_state_list(tg_str(""), tg_str(""), 1000);
    tg_bytes list = tg_str("");
    for (size_t i = 0; i < names.len; i++)
        list = tg_format("%b%s%j", list, i ? "," : "", names.ptr[i]);
    TG_TRY(tg_emit("state.done", tg_format("{\"sum\":%u,\"names\":[%b]}", sum, list)));
    return tg_ok();
}

static tg_outcome try_again(void) {
    if (tg_attempt() < 2) return tg_retry_after("not yet", 1);
    TG_TRY(tg_emit("retry.done", tg_format("{\"attempt\":%u}", (uint64_t)tg_attempt())));
    return tg_ok();
}

static tg_outcome give_up(const tg_event *event) {
    TG_TRY(tg_state_set(tg_str("gone"), tg_str("true")));
    TG_TRY(tg_emit("reject.done", tg_str("")));
    tg_bytes why;
    if (!tg_json_str(event->data, "why", &why)) why = tg_str("no `why`");
    return (tg_outcome){ .kind = TG_REJECT, .reason = why };
}

static tg_outcome crash(void) {
    TG_TRY(tg_state_set(tg_str("gone"), tg_str("true")));
    __builtin_trap();
}

static tg_outcome spin(void) {
    for (volatile int n = 0;; n++) {}
}

static tg_outcome grow(void) {
    for (;;) *(volatile char *)tg_alloc(1 << 20) = 1;
}

static tg_outcome unicode(const tg_event *event) {
    tg_bytes text;
    if (!tg_json_str(event->data, "text", &text)) return tg_reject("no `text`");
    TG_TRY(tg_state_set(text, tg_format("%j", text)));
    TG_TRY(tg_emit("unicode.done", tg_format("{\"text\":%j,\"key\":%j}", text, event->key)));
    return tg_ok();
}

static tg_outcome read_numbers(const tg_event *event) {
    uint64_t n = 0;
    double z = 1;
    if (!tg_json_u64(event->data, "n", &n)) return tg_reject("no `n`");
    if (!tg_json_f64(event->data, "z", &z)) return tg_reject("no `z`");
    TG_TRY(tg_emit("read.done", tg_format("{\"n\":%u,\"z\":%g}", n, z)));
    return tg_ok();
}

static tg_outcome pass_on(void) {
    tg_attributes attributes = tg_attributes_of();
    uint64_t bytes = 0;
    for (size_t i = 0; i < attributes.len; i++)
        bytes += attributes.ptr[i].name.len + attributes.ptr[i].value.len;
    tg_draft draft = {
        .type = "attributes.done", .content_type = "application/json", .attributes = attributes,
        .data = tg_format("{\"count\":%u,\"bytes\":%u}", (uint64_t)attributes.len, bytes),
    };
    TG_TRY(tg_emit_draft(&draft, NULL));
    return tg_ok();
}

static tg_outcome set_timers(void) {
    TG_TRY(tg_timer_set(tg_str("never"), tg_now_ms() + 1, tg_str("")));
    TG_TRY(tg_timer_cancel(tg_str("never")));
    TG_TRY(tg_timer_set(tg_str("later"), tg_now_ms() + 1, tg_str("{\"n\":7}")));
    return tg_ok();
}

static tg_outcome fire(const tg_event *event) {
    tg_bytes name = tg_str("");
    tg_attribute_of("timername", &name);
    TG_TRY(tg_emit("timer.done", tg_format("{\"name\":%j,\"data\":%b,\"key\":%j}", name, event->data,
                                           event->key)));
    return tg_ok();
}

static tg_outcome emit_nowhere(void) {
    tg_draft draft = { .type = "nowhere.done", .has_key = true };
    TG_TRY(tg_emit_draft(&draft, NULL));
    return tg_ok();
}

static tg_outcome call(const tg_event *event) {
    tg_bytes url;
    if (!tg_json_str(event->data, "url", &url)) return tg_reject("no `url`");
    tg_attribute header = { tg_str("content-type"), tg_str("application/json") };
    tg_call ask = {
        .name = "ask", .method = "POST", .url = c_string(url),
        .headers = { &header, 1 }, .body = tg_str("{\"n\":7}"), .timeout_ms = 10000,
    };
    TG_TRY(tg_call_send(&ask, NULL));
    return tg_ok();
}

static tg_outcome answered(void) {
    tg_bytes name = tg_str(""), status = tg_str("0");
    tg_attribute_of("callname", &name);
    tg_attribute_of("callstatus", &status);
    TG_TRY(tg_emit("call.done", tg_format("{\"name\":%j,\"status\":%b}", name, status)));
    return tg_ok();
}

static tg_bytes config_json(const char *name) {
    tg_bytes value;
    return tg_config(name, &value) ? tg_format("%j", value) : tg_str("null");
}

static tg_outcome configured(void) {
    TG_TRY(tg_emit("config.done", tg_format("{\"greeting\":%b,\"missing\":%b}",
                                            config_json("greeting"), config_json("missing"))));
    return tg_ok();
}

static tg_outcome log_lines(void) {
    tg_log(TG_TRACE, tg_str("one"));
    tg_log(TG_DEBUG, tg_str("two"));
    tg_log(TG_INFO, tg_str("three"));
    tg_log(TG_WARN, tg_str("four"));
    tg_log(TG_ERROR, tg_str("five"));
    return tg_ok();
}

static tg_outcome handle(const tg_event *event) {
    tg_bytes type = event->type;
    if (tg_is(type, "conf.echo")) return echo(event);
    if (tg_is(type, "conf.emit")) return emit_many(event);
    if (tg_is(type, "conf.state")) return add_up(event);
    if (tg_is(type, "conf.retry")) return try_again();
    if (tg_is(type, "conf.reject")) return give_up(event);
    if (tg_is(type, "conf.trap")) return crash();
    if (tg_is(type, "conf.fuel")) return spin();
    if (tg_is(type, "conf.memory")) return grow();
    if (tg_is(type, "conf.unicode")) return unicode(event);
    if (tg_is(type, "conf.read")) return read_numbers(event);
    if (tg_is(type, "conf.attributes")) return pass_on();
    if (tg_is(type, "conf.timer")) return set_timers();
    if (tg_is(type, "conf.nowhere")) return emit_nowhere();
    if (tg_is(type, "conf.call")) return call(event);
    if (tg_is(type, "conf.config")) return configured();
    if (tg_is(type, "conf.log")) return log_lines();
    if (tg_is(type, "conf.old.c")) {
        TG_TRY(tg_emit("old.done", event->data));
        return tg_ok();
    }
    if (tg_is(type, "tidegate.timer")) return fire(event);
    if (tg_is(type, "tidegate.response")) return answered();
    return tg_ok();
}
TG_HANDLER(handle)

static tg_outcome execute(const tg_request *request, tg_response *response) {
    if (tg_is(request->operation, "refuse")) {
        TG_TRY(tg_state_set(tg_str("gone"), tg_str("true")));
        return tg_reject("not this one");
    }
    uint64_t amount = 0;
    if (!tg_is(request->operation, "add")) return tg_reject("no such command");
    if (!tg_json_u64(request->data, "amount", &amount)) return tg_reject("no `amount`");
    uint64_t sum = tg_state_get_u64(tg_str("sum"), 0) + amount;
    TG_TRY(tg_state_set_u64(tg_str("sum"), sum));
    response->content_type = tg_str("application/json");
    response->data = tg_format("{\"sum\":%u}", sum);
    TG_TRY(tg_emit("add.done", response->data));
    return tg_ok();
}
TG_COMMAND(execute)

static tg_outcome read_sum(const tg_request *request, tg_response *response) {
    if (tg_is(request->operation, "raw")) {
        response->content_type = tg_str("application/octet-stream");
        response->data = (tg_bytes){ (const uint8_t *)"\0\377", 2 };
        return tg_ok();
    }
    if (!tg_is(request->operation, "sum")) return tg_reject("no such question");
    response->content_type = tg_str("application/json");
    response->data = tg_format("{\"sum\":%u}", tg_state_get_u64(tg_str("sum"), 0));
    return tg_ok();
}
TG_QUERY(read_sum)

/* Amounts in euros become amounts in cents. */
static const char *lift(const tg_event *event, uint32_t version, tg_lifted *lifted) {
    uint64_t amount = 0;
    if (!tg_json_u64(event->data, "amount", &amount)) return "no `amount`";
    *lifted = (tg_lifted){ version + 1, tg_str("application/json"),
                           tg_format("{\"cents\":%u}", amount * 100) };
    return NULL;
}
TG_UPCASTER(lift)
