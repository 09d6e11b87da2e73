/* tidegate.h - write tidegate plugins in C.
 *
 * One header, C11, no allocation to think about: what the host hands over, and what the functions
 * here return, stays valid until the delivery ends.
 *
 *     #include "tidegate.h"
 *
 *     static tg_outcome handle(const tg_event *event) {
 *         uint64_t seen = tg_state_get_u64(tg_str("seen"), 0) + 1;
 *         tg_state_set_u64(tg_str("seen"), seen);
 *         return tg_ok();
 *     }
 *     TG_HANDLER(handle)
 *
 * Build: zig cc -target wasm32-wasi -mexec-model=reactor -Os -s -o NAME.wasm NAME.c
 * The include goes into one file of a plugin; others define TG_DECLARATIONS_ONLY before it.
 *
 * Functions of the host answer with a tg_error: TG_DONE (0), or why nothing changed. A handler may
 * go on after an error, or end with TG_TRY(call), which turns it into a rejection. What was written,
 * emitted, set and sent is recorded when the handler returns tg_ok(), exactly once, and dropped when
 * it fails. */
#ifndef TIDEGATE_H
#define TIDEGATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* ---- Data ------------------------------------------------------------------------------------ */

/* Text or bytes of a known length, without a closing zero. */
typedef struct { const uint8_t *ptr; size_t len; } tg_bytes;

/* A name and its value. */
typedef struct { tg_bytes name, value; } tg_attribute;
typedef struct { const tg_attribute *ptr; size_t len; } tg_attributes;
typedef struct { const tg_bytes *ptr; size_t len; } tg_names;

/* Bytes of a C string. */
static inline tg_bytes tg_str(const char *text) {
    return (tg_bytes){ (const uint8_t *)text, text ? strlen(text) : 0 };
}
static inline bool tg_eq(tg_bytes a, tg_bytes b) {
    return a.len == b.len && (a.len == 0 || memcmp(a.ptr, b.ptr, a.len) == 0);
}
static inline bool tg_is(tg_bytes a, const char *b) { return tg_eq(a, tg_str(b)); }

/* One CloudEvents 1.0 event. Its further attributes: tg_attribute_of, tg_attributes_of. */
typedef struct {
    tg_bytes id, source, type;
    bool has_key;           /* false: unkeyed; no state, no timers */
    tg_bytes key;
    uint64_t position;      /* in the log of its bus */
    uint64_t sequence;      /* within its key, from 1; 0: unkeyed or private */
    bool has_time;
    uint64_t time_ms;       /* when it happened, as its source says */
    uint64_t recorded_ms;   /* when the log took it */
    tg_bytes content_type;  /* empty: none */
    tg_bytes data;
} tg_event;

/* A command or a question. */
typedef struct {
    tg_bytes operation;
    bool has_key;
    tg_bytes key;
    tg_bytes principal;     /* who asks, as authenticated; empty: nobody in particular */
    tg_bytes content_type;
    tg_bytes data;
    tg_attributes attributes;
} tg_request;

/* The answer to a request. */
typedef struct {
    tg_bytes content_type;
    tg_bytes data;
    tg_attributes attributes;
} tg_response;

/* How a delivery ends. */
typedef struct {
    enum { TG_OK, TG_RETRY, TG_REJECT } kind;
    tg_bytes reason;
    bool has_after;
    uint64_t after_ms;
} tg_outcome;

/* An event to be emitted. Zeroed fields mean: the key and bus of the input, no attributes. */
typedef struct {
    const char *type;
    bool has_key;           /* false: the key of the input */
    tg_bytes key;
    const char *bus;        /* NULL: the bus of the input */
    const char *content_type;
    tg_bytes data;
    tg_attributes attributes;   /* ascending by name */
} tg_draft;

/* An HTTP request, sent by the host once the delivery is durable. */
typedef struct {
    const char *name;       /* comes back with the answer, as attribute `callname` */
    const char *method;
    const char *url;        /* absolute, to a granted host */
    tg_attributes headers;  /* `{secret:NAME}` in a value is filled in by the host */
    tg_bytes body;
    uint32_t timeout_ms;    /* for one attempt, at most 60000 */
} tg_call;

/* Why an effect was refused. Nothing changed. */
typedef enum {
    TG_DONE = 0,
    TG_EXCEEDED,            /* a budget is used up: tg_error_text() names its manifest key */
    TG_INVALID,             /* a malformed argument */
    TG_UNKEYED,             /* the input has no key */
    TG_DENIED,              /* not granted */
    TG_READ_ONLY,           /* queries and upcasters have no effects */
    TG_OTHER
} tg_error;

static inline tg_outcome tg_ok(void) { return (tg_outcome){ .kind = TG_OK }; }
/* Try again after the backoff of the manifest. */
static inline tg_outcome tg_retry(const char *reason) {
    return (tg_outcome){ .kind = TG_RETRY, .reason = tg_str(reason) };
}
static inline tg_outcome tg_retry_after(const char *reason, uint64_t after_ms) {
    return (tg_outcome){ TG_RETRY, tg_str(reason), true, after_ms };
}
/* Never going to work: a dead letter. */
static inline tg_outcome tg_reject(const char *reason) {
    return (tg_outcome){ .kind = TG_REJECT, .reason = tg_str(reason) };
}

/* ---- The host -------------------------------------------------------------------------------- */

/* State of this plugin and key. */
bool tg_state_get(tg_bytes name, tg_bytes *value);
tg_error tg_state_set(tg_bytes name, tg_bytes value);
/* Gone `ttl_ms` after the input's recorded_ms. */
tg_error tg_state_set_for(tg_bytes name, tg_bytes value, uint64_t ttl_ms);
tg_error tg_state_delete(tg_bytes name);
/* Names with `prefix` after `after` (empty: from the first), ascending, at most `limit` <= 1000. */
tg_names tg_state_list(tg_bytes prefix, tg_bytes after, uint32_t limit);
/* A number in decimal, as the other SDKs store it in JSON. */
uint64_t tg_state_get_u64(tg_bytes name, uint64_t otherwise);
tg_error tg_state_set_u64(tg_bytes name, uint64_t value);

/* State across keys; answers only in a query. */
tg_names tg_keys_list(tg_bytes prefix, tg_bytes after, uint32_t limit);
bool tg_keys_get(tg_bytes key, tg_bytes name, tg_bytes *value);

/* Emits an event; `id` may be NULL. */
tg_error tg_emit_draft(const tg_draft *draft, tg_bytes *id);
/* Emits JSON under the key of the input. */
tg_error tg_emit(const char *type, tg_bytes json);

/* Timers come back as events `tidegate.timer`, attribute `timername`. `due_ms` is absolute. */
tg_error tg_timer_set(tg_bytes name, uint64_t due_ms, tg_bytes data);
tg_error tg_timer_cancel(tg_bytes name);

/* Answers come back as events `tidegate.response`, attributes `callname`, `callstatus`. */
tg_error tg_call_send(const tg_call *call, tg_bytes *idempotency_key);

/* What a delivery may know. */
tg_attributes tg_attributes_of(void);
bool tg_attribute_of(const char *name, tg_bytes *value);
bool tg_config(const char *name, tg_bytes *value);
uint64_t tg_now_ms(void);       /* the input's recorded_ms: stands still during a delivery */
uint32_t tg_attempt(void);      /* from 1 */
bool tg_redriven(void);
uint64_t tg_random(void);       /* the same in a replay; not for secrets */

typedef enum { TG_TRACE, TG_DEBUG, TG_INFO, TG_WARN, TG_ERROR } tg_level;
void tg_log(tg_level level, tg_bytes message);

/* What the host said of the last error: a manifest key or a sentence. */
tg_bytes tg_error_text(void);
/* A rejection that names an error. */
tg_outcome tg_reject_error(tg_error error);
/* Ends the handler with a rejection where the host refuses an effect. */
#define TG_TRY(call) do { tg_error tg_e = (call); if (tg_e) return tg_reject_error(tg_e); } while (0)

/* ---- Text and JSON --------------------------------------------------------------------------- */

/* Memory of this delivery; traps where there is none left. */
void *tg_alloc(size_t bytes);
/* Text of this delivery. Knows %s (C string), %b (tg_bytes), %j (tg_bytes as a JSON string),
 * %u (uint64_t), %d (int64_t), %g (double) and %%. */
tg_bytes tg_format(const char *format, ...);
/* A field of the JSON object `json`; fields of fields: "customer.address.city". */
bool tg_json_field(tg_bytes json, const char *path, tg_bytes *raw);
bool tg_json_u64(tg_bytes json, const char *path, uint64_t *value);
bool tg_json_i64(tg_bytes json, const char *path, int64_t *value);
bool tg_json_f64(tg_bytes json, const char *path, double *value);
bool tg_json_bool(tg_bytes json, const char *path, bool *value);
/* A string, unescaped. */
bool tg_json_str(tg_bytes json, const char *path, tg_bytes *value);

/* ---- What a plugin exports ------------------------------------------------------------------- */

typedef struct { uint32_t version; tg_bytes content_type, data; } tg_lifted;

/* The shapes below are those of the component model's canonical ABI on wasm32. */
typedef struct { tg_event event; uint32_t version; } tg_versioned;
typedef struct {
    bool failed;
    union {
        tg_response response;
        struct { uint8_t kind; struct { tg_bytes reason; bool has_after; uint64_t after_ms; } retry; }
            failure;
    } value __attribute__((aligned(8)));
} tg_answer;
typedef struct { bool failed; union { tg_lifted lifted; tg_bytes why; } value; } tg_lift;

void *tg_answered(tg_outcome outcome, const tg_response *response);
void *tg_lifted_as(const char *why, const tg_lifted *lifted);
void tg_delivery_ended(void);

#define TG_EXPORT_(name) __attribute__((export_name(name)))
#define TG_AFTER_(name) __attribute__((export_name("cabi_post_" name)))
#define TG_REQUEST_ABI_                                                                            \
    tg_bytes_abi_(operation), int32_t has_key, tg_bytes_abi_(key), tg_bytes_abi_(principal),       \
        tg_bytes_abi_(content_type), tg_bytes_abi_(data), const tg_attribute *attributes,          \
        size_t attributes_len
#define tg_bytes_abi_(name) const uint8_t *name, size_t name##_len
#define TG_REQUEST_OF_                                                                             \
    { { operation, operation_len }, has_key != 0, { key, key_len }, { principal, principal_len },  \
      { content_type, content_type_len }, { data, data_len }, { attributes, attributes_len } }

/* tg_outcome function(const tg_event *event) takes events of one key one at a time, in order. */
#define TG_HANDLER(function)                                                                       \
    TG_EXPORT_("tidegate:plugin/handler@0.1.0#handle")                                             \
    void *tg_export_handle(const tg_event *event) { return tg_answered(function(event), NULL); }   \
    TG_AFTER_("tidegate:plugin/handler@0.1.0#handle")                                              \
    void tg_after_handle(void *answer) { (void)answer; tg_delivery_ended(); }

#define TG_REQUESTED_(name, function)                                                              \
    TG_EXPORT_("tidegate:plugin/" name)                                                            \
    void *tg_export_##function(TG_REQUEST_ABI_) {                                                  \
        tg_request request = TG_REQUEST_OF_;                                                       \
        tg_response response = { 0 };                                                              \
        tg_outcome outcome = function(&request, &response);                                        \
        return tg_answered(outcome, &response);                                                    \
    }                                                                                              \
    TG_AFTER_("tidegate:plugin/" name)                                                             \
    void tg_after_##function(void *answer) { (void)answer; tg_delivery_ended(); }

/* tg_outcome function(const tg_request *request, tg_response *response) takes commands in the order
 * of their key. */
#define TG_COMMAND(function) TG_REQUESTED_("command@0.1.0#execute", function)
/* The same for questions: state is there to read, effects are refused. */
#define TG_QUERY(function) TG_REQUESTED_("query@0.1.0#read", function)

/* const char *function(const tg_event *event, uint32_t version, tg_lifted *lifted) lifts an event to
 * a higher version; returns NULL, or why not. */
#define TG_UPCASTER(function)                                                                      \
    TG_EXPORT_("tidegate:plugin/upcaster@0.1.0#upcast")                                            \
    void *tg_export_upcast(const tg_versioned *old) {                                              \
        tg_lifted lifted = { 0 };                                                                  \
        const char *why = function(&old->event, old->version, &lifted);                            \
        return tg_lifted_as(why, &lifted);                                                         \
    }                                                                                              \
    TG_AFTER_("tidegate:plugin/upcaster@0.1.0#upcast")                                             \
    void tg_after_upcast(void *answer) { (void)answer; tg_delivery_ended(); }

/* ---- Implementation -------------------------------------------------------------------------- */
#ifndef TG_DECLARATIONS_ONLY

#include <stdarg.h>

_Static_assert(sizeof(void *) == 4, "build for wasm32");
_Static_assert(sizeof(tg_event) == 96 && offsetof(tg_event, position) == 40, "canonical ABI");
_Static_assert(sizeof(tg_answer) == 40 && offsetof(tg_answer, value) == 8, "canonical ABI");
_Static_assert(offsetof(tg_answer, value.failure.retry.after_ms) == 32, "canonical ABI");
_Static_assert(sizeof(tg_lift) == 24 && sizeof(tg_versioned) == 104, "canonical ABI");

/* Everything of one delivery stands in blocks that are used again for the next one. */
typedef struct tg_block_ { struct tg_block_ *next; size_t size, used; } tg_block_;
static tg_block_ *tg_blocks_, *tg_block_now_;

/* Whole pages, so that a malloc beside it keeps its own. */
static void *tg_more_(size_t bytes) {
    size_t page = __builtin_wasm_memory_grow(0, (bytes + 65535) / 65536);
    if (page == (size_t)-1) __builtin_trap();
    return (void *)(page * 65536);
}

static void *tg_take_(size_t bytes, size_t align) {
    for (;;) {
        if (tg_block_now_) {
            uintptr_t start = (uintptr_t)(tg_block_now_ + 1);
            size_t at = ((start + tg_block_now_->used + align - 1) & ~(align - 1)) - start;
            if (at <= tg_block_now_->size && bytes <= tg_block_now_->size - at) {
                tg_block_now_->used = at + bytes;
                return (uint8_t *)start + at;
            }
            if (tg_block_now_->next) {
                tg_block_now_ = tg_block_now_->next;
                tg_block_now_->used = 0;
                continue;
            }
        }
        if (bytes > (size_t)-1 - 2 * 65536) __builtin_trap();
        size_t size = ((sizeof(tg_block_) + bytes + align + 65535) & ~(size_t)65535) - sizeof(tg_block_);
        tg_block_ *more = tg_more_(sizeof(tg_block_) + size);
        *more = (tg_block_){ 0, size, 0 };
        if (tg_block_now_) tg_block_now_->next = more; else tg_blocks_ = more;
        tg_block_now_ = more;
    }
}

void *tg_alloc(size_t bytes) { return tg_take_(bytes, 16); }

TG_EXPORT_("cabi_realloc")
void *tg_realloc_(void *old, size_t old_size, size_t align, size_t size) {
    void *moved = tg_take_(size, align);
    if (old && old_size) memcpy(moved, old, old_size < size ? old_size : size);
    return moved;
}

void tg_delivery_ended(void) {
    tg_block_now_ = tg_blocks_;
    if (tg_block_now_) tg_block_now_->used = 0;
}

void *tg_answered(tg_outcome outcome, const tg_response *response) {
    tg_answer *answer = tg_alloc(sizeof *answer);
    memset(answer, 0, sizeof *answer);
    answer->failed = outcome.kind != TG_OK;
    if (outcome.kind == TG_OK) {
        if (response) answer->value.response = *response;
    } else if (outcome.kind == TG_RETRY) {
        answer->value.failure.retry.reason = outcome.reason;
        answer->value.failure.retry.has_after = outcome.has_after;
        answer->value.failure.retry.after_ms = outcome.after_ms;
    } else {
        answer->value.failure.kind = 1;
        answer->value.failure.retry.reason = outcome.reason;
    }
    return answer;
}

void *tg_lifted_as(const char *why, const tg_lifted *lifted) {
    tg_lift *lift = tg_alloc(sizeof *lift);
    lift->failed = why != NULL;
    if (why) lift->value.why = tg_str(why); else lift->value.lifted = *lifted;
    return lift;
}

#define TG_IMPORT_(interface, name)                                                                \
    __attribute__((import_module("tidegate:plugin/" interface "@0.1.0"), import_name(name))) extern
#define TG_B_ const uint8_t *, size_t
#define TG_P_(bytes) (bytes).ptr, (bytes).len

/* What the host writes: result<_, effect-error>, result<string, effect-error>, option<bytes>. */
typedef struct { uint8_t kind; tg_bytes text; } tg_refusal_;
typedef struct { uint8_t failed; tg_refusal_ refusal; } tg_done_;
typedef struct { uint8_t failed; union { tg_bytes text; tg_refusal_ refusal; } value; } tg_named_;
typedef struct { uint8_t some; tg_bytes value; } tg_maybe_;

TG_IMPORT_("bus", "emit") void tg_w_emit_(TG_B_, int32_t, TG_B_, int32_t, TG_B_, TG_B_, TG_B_,
                                          const tg_attribute *, size_t, tg_named_ *);
TG_IMPORT_("state", "get") void tg_w_get_(TG_B_, tg_maybe_ *);
TG_IMPORT_("state", "set") void tg_w_set_(TG_B_, TG_B_, int32_t, uint64_t, tg_done_ *);
TG_IMPORT_("state", "delete") void tg_w_delete_(TG_B_, tg_done_ *);
TG_IMPORT_("state", "list") void tg_w_list_(TG_B_, int32_t, TG_B_, uint32_t, tg_names *);
TG_IMPORT_("keys", "list") void tg_w_keys_list_(TG_B_, int32_t, TG_B_, uint32_t, tg_names *);
TG_IMPORT_("keys", "get") void tg_w_keys_get_(TG_B_, TG_B_, tg_maybe_ *);
TG_IMPORT_("timers", "set") void tg_w_timer_set_(TG_B_, uint64_t, TG_B_, tg_done_ *);
TG_IMPORT_("timers", "cancel") void tg_w_timer_cancel_(TG_B_, tg_done_ *);
TG_IMPORT_("calls", "send") void tg_w_send_(TG_B_, TG_B_, TG_B_, const tg_attribute *, size_t,
                                            TG_B_, uint32_t, tg_named_ *);
TG_IMPORT_("context", "attributes") void tg_w_attributes_(tg_attributes *);
TG_IMPORT_("context", "attribute") void tg_w_attribute_(TG_B_, tg_maybe_ *);
TG_IMPORT_("context", "now-ms") uint64_t tg_w_now_(void);
TG_IMPORT_("context", "attempt") uint32_t tg_w_attempt_(void);
TG_IMPORT_("context", "redriven") int32_t tg_w_redriven_(void);
TG_IMPORT_("context", "random-u64") uint64_t tg_w_random_(void);
TG_IMPORT_("context", "config") void tg_w_config_(TG_B_, tg_maybe_ *);
TG_IMPORT_("context", "log") void tg_w_log_(int32_t, TG_B_);

static tg_bytes tg_said_;

tg_bytes tg_error_text(void) { return tg_said_; }

static tg_error tg_refused_(const tg_refusal_ *refusal) {
    bool worded = refusal->kind == 0 || refusal->kind == 1 || refusal->kind == 3 || refusal->kind > 4;
    tg_said_ = worded ? refusal->text
             : refusal->kind == 2 ? tg_str("the input has no key") : tg_str("read only");
    return (tg_error)(refusal->kind + 1);
}

tg_outcome tg_reject_error(tg_error error) {
    static const char *const words[] = { "", "exceeded", "invalid", "unkeyed", "denied", "read-only",
                                         "refused" };
    const char *word = words[error <= TG_OTHER ? error : TG_OTHER];
    return (tg_outcome){ .kind = TG_REJECT, .reason = tg_format("%s: %b", word, tg_said_) };
}

static bool tg_given_(const tg_maybe_ *maybe, tg_bytes *value) {
    if (maybe->some && value) *value = maybe->value;
    return maybe->some;
}

static tg_error tg_done__(const tg_done_ *done) {
    return done->failed ? tg_refused_(&done->refusal) : TG_DONE;
}

static tg_error tg_named__(const tg_named_ *named, tg_bytes *text) {
    if (named->failed) return tg_refused_(&named->value.refusal);
    if (text) *text = named->value.text;
    return TG_DONE;
}

bool tg_state_get(tg_bytes name, tg_bytes *value) {
    tg_maybe_ maybe;
    tg_w_get_(TG_P_(name), &maybe);
    return tg_given_(&maybe, value);
}

tg_error tg_state_set(tg_bytes name, tg_bytes value) {
    tg_done_ done;
    tg_w_set_(TG_P_(name), TG_P_(value), 0, 0, &done);
    return tg_done__(&done);
}

tg_error tg_state_set_for(tg_bytes name, tg_bytes value, uint64_t ttl_ms) {
    tg_done_ done;
    tg_w_set_(TG_P_(name), TG_P_(value), 1, ttl_ms, &done);
    return tg_done__(&done);
}

tg_error tg_state_delete(tg_bytes name) {
    tg_done_ done;
    tg_w_delete_(TG_P_(name), &done);
    return tg_done__(&done);
}

tg_names tg_state_list(tg_bytes prefix, tg_bytes after, uint32_t limit) {
    tg_names names;
    tg_w_list_(TG_P_(prefix), after.len != 0, TG_P_(after), limit, &names);
    return names;
}

tg_names tg_keys_list(tg_bytes prefix, tg_bytes after, uint32_t limit) {
    tg_names names;
    tg_w_keys_list_(TG_P_(prefix), after.len != 0, TG_P_(after), limit, &names);
    return names;
}

bool tg_keys_get(tg_bytes key, tg_bytes name, tg_bytes *value) {
    tg_maybe_ maybe;
    tg_w_keys_get_(TG_P_(key), TG_P_(name), &maybe);
    return tg_given_(&maybe, value);
}

tg_error tg_emit_draft(const tg_draft *draft, tg_bytes *id) {
    tg_named_ named;
    tg_bytes bus = tg_str(draft->bus);
    tg_w_emit_(TG_P_(tg_str(draft->type)), draft->has_key, TG_P_(draft->key), draft->bus != NULL,
               TG_P_(bus), TG_P_(tg_str(draft->content_type)), TG_P_(draft->data),
               draft->attributes.ptr, draft->attributes.len, &named);
    return tg_named__(&named, id);
}

tg_error tg_emit(const char *type, tg_bytes json) {
    return tg_emit_draft(
        &(tg_draft){ .type = type, .content_type = "application/json", .data = json }, NULL);
}

tg_error tg_timer_set(tg_bytes name, uint64_t due_ms, tg_bytes data) {
    tg_done_ done;
    tg_w_timer_set_(TG_P_(name), due_ms, TG_P_(data), &done);
    return tg_done__(&done);
}

tg_error tg_timer_cancel(tg_bytes name) {
    tg_done_ done;
    tg_w_timer_cancel_(TG_P_(name), &done);
    return tg_done__(&done);
}

tg_error tg_call_send(const tg_call *call, tg_bytes *idempotency_key) {
    tg_named_ named;
    tg_w_send_(TG_P_(tg_str(call->name)), TG_P_(tg_str(call->method)), TG_P_(tg_str(call->url)),
               call->headers.ptr, call->headers.len, TG_P_(call->body), call->timeout_ms, &named);
    return tg_named__(&named, idempotency_key);
}

tg_attributes tg_attributes_of(void) {
    tg_attributes attributes;
    tg_w_attributes_(&attributes);
    return attributes;
}

bool tg_attribute_of(const char *name, tg_bytes *value) {
    tg_maybe_ maybe;
    tg_w_attribute_(TG_P_(tg_str(name)), &maybe);
    return tg_given_(&maybe, value);
}

bool tg_config(const char *name, tg_bytes *value) {
    tg_maybe_ maybe;
    tg_w_config_(TG_P_(tg_str(name)), &maybe);
    return tg_given_(&maybe, value);
}

uint64_t tg_now_ms(void) { return tg_w_now_(); }
uint32_t tg_attempt(void) { return tg_w_attempt_(); }
bool tg_redriven(void) { return tg_w_redriven_() != 0; }
uint64_t tg_random(void) { return tg_w_random_(); }
void tg_log(tg_level level, tg_bytes message) { tg_w_log_((int32_t)level, TG_P_(message)); }

/* Text: written twice, first to count. */
typedef struct { uint8_t *out; size_t len; } tg_text_;

static void tg_put_(tg_text_ *text, const void *bytes, size_t len) {
    if (text->out) memcpy(text->out + text->len, bytes, len);
    text->len += len;
}

static void tg_put_u64_(tg_text_ *text, uint64_t value, unsigned width) {
    char digits[20];
    unsigned at = sizeof digits;
    do { digits[--at] = (char)('0' + value % 10); value /= 10; } while (value || sizeof digits - at < width);
    tg_put_(text, digits + at, sizeof digits - at);
}

static void tg_put_json_(tg_text_ *text, tg_bytes value) {
    static const char hex[] = "0123456789abcdef";
    tg_put_(text, "\"", 1);
    for (size_t i = 0; i < value.len; i++) {
        uint8_t c = value.ptr[i];
        if (c == '"' || c == '\\') {
            char pair[2] = { '\\', (char)c };
            tg_put_(text, pair, 2);
        } else if (c < 0x20) {
            char escape[6] = { '\\', 'u', '0', '0', hex[c >> 4], hex[c & 15] };
            tg_put_(text, escape, 6);
        } else {
            tg_put_(text, &c, 1);
        }
    }
    tg_put_(text, "\"", 1);
}

/* Up to six digits after the point: money and measurements, not science. */
static void tg_put_f64_(tg_text_ *text, double value) {
    if (value != value || value > 9e15 || value < -9e15) { tg_put_(text, "null", 4); return; }
    if (value < 0) { tg_put_(text, "-", 1); value = -value; }
    uint64_t whole = (uint64_t)value;
    uint64_t rest = (uint64_t)((value - (double)whole) * 1e6 + 0.5);
    if (rest >= 1000000) { whole++; rest = 0; }
    tg_put_u64_(text, whole, 1);
    if (!rest) return;
    unsigned width = 6;
    while (rest % 10 == 0) { rest /= 10; width--; }
    tg_put_(text, ".", 1);
    tg_put_u64_(text, rest, width);
}

static void tg_put_all_(tg_text_ *text, const char *format, va_list values) {
    for (; *format; format++) {
        if (*format != '%') { tg_put_(text, format, 1); continue; }
        if (!*++format) return;
        switch (*format) {
        case 's': { tg_bytes s = tg_str(va_arg(values, const char *)); tg_put_(text, s.ptr, s.len); break; }
        case 'b': { tg_bytes b = va_arg(values, tg_bytes); tg_put_(text, b.ptr, b.len); break; }
        case 'j': tg_put_json_(text, va_arg(values, tg_bytes)); break;
        case 'u': tg_put_u64_(text, va_arg(values, uint64_t), 1); break;
        case 'd': {
            int64_t n = va_arg(values, int64_t);
            if (n < 0) tg_put_(text, "-", 1);
            tg_put_u64_(text, n < 0 ? (uint64_t)0 - (uint64_t)n : (uint64_t)n, 1);
            break;
        }
        case 'g': tg_put_f64_(text, va_arg(values, double)); break;
        default: tg_put_(text, format, 1);
        }
    }
}

tg_bytes tg_format(const char *format, ...) {
    tg_text_ text = { 0 };
    va_list values;
    va_start(values, format);
    tg_put_all_(&text, format, values);
    va_end(values);
    text.out = tg_alloc(text.len + 1);
    text.len = 0;
    va_start(values, format);
    tg_put_all_(&text, format, values);
    va_end(values);
    return (tg_bytes){ text.out, text.len };
}

/* JSON: finds values in place; nothing is built. */
static size_t tg_space_(tg_bytes j, size_t i) {
    while (i < j.len && (j.ptr[i] == ' ' || j.ptr[i] == '\n' || j.ptr[i] == '\t' || j.ptr[i] == '\r')) i++;
    return i;
}

/* The end of the string that begins at i; 0: it has none. */
static size_t tg_string_end_(tg_bytes j, size_t i) {
    for (i++; i < j.len; i++) {
        if (j.ptr[i] == '\\') i++;
        else if (j.ptr[i] == '"') return i + 1;
    }
    return 0;
}

/* The end of the value that begins at i; 0: it has none. */
static size_t tg_value_end_(tg_bytes j, size_t i) {
    size_t depth = 0;
    if (i >= j.len) return 0;
    do {
        uint8_t c = j.ptr[i];
        if (c == '"') {
            if (!(i = tg_string_end_(j, i))) return 0;
            continue;
        }
        if (c == '{' || c == '[') { depth++; i++; continue; }
        if (c == '}' || c == ']') { if (!depth) return i; depth--; i++; continue; }
        if (!depth) {
            size_t start = i;
            while (i < j.len && !strchr(",]} \n\t\r", j.ptr[i])) i++;
            return i > start ? i : 0;
        }
        i++;
    } while (depth && i < j.len);
    return depth ? 0 : i;
}

static bool tg_hex4_(const uint8_t *at, uint32_t *code) {
    *code = 0;
    for (int i = 0; i < 4; i++) {
        uint8_t c = at[i] | 0x20;
        uint32_t digit = at[i] >= '0' && at[i] <= '9' ? at[i] - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : 16;
        if (digit > 15) return false;
        *code = *code << 4 | digit;
    }
    return true;
}

static size_t tg_utf8_(uint32_t code, uint8_t *out) {
    if (code < 0x80) { out[0] = (uint8_t)code; return 1; }
    if (code < 0x800) { out[0] = 0xc0 | code >> 6; out[1] = 0x80 | (code & 63); return 2; }
    if (code < 0x10000) {
        out[0] = 0xe0 | code >> 12; out[1] = 0x80 | (code >> 6 & 63); out[2] = 0x80 | (code & 63);
        return 3;
    }
    out[0] = 0xf0 | code >> 18; out[1] = 0x80 | (code >> 12 & 63); out[2] = 0x80 | (code >> 6 & 63);
    out[3] = 0x80 | (code & 63);
    return 4;
}

/* What a string in quotes says; false: half a surrogate pair, or an escape that is none. */
static bool tg_unescape_(tg_bytes raw, tg_bytes *value) {
    uint8_t *out = tg_alloc(raw.len);
    size_t len = 0, end = raw.len - 1;
    for (size_t i = 1; i < end; i++) {
        if (raw.ptr[i] != '\\') { out[len++] = raw.ptr[i]; continue; }
        static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
        uint8_t c = raw.ptr[++i];
        const char *found = c ? strchr(from, c) : NULL;
        uint32_t code, low;
        if (found) { out[len++] = (uint8_t)to[found - from]; continue; }
        if (c != 'u' || i + 4 >= end + 1 || !tg_hex4_(raw.ptr + i + 1, &code)) return false;
        i += 4;
        if (code >= 0xd800 && code < 0xdc00) {
            if (i + 6 >= end + 1 || raw.ptr[i + 1] != '\\' || raw.ptr[i + 2] != 'u'
                || !tg_hex4_(raw.ptr + i + 3, &low) || low < 0xdc00 || low > 0xdfff) return false;
            code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
            i += 6;
        } else if (code >= 0xdc00 && code < 0xe000) {
            return false;
        }
        len += tg_utf8_(code, out + len);
    }
    *value = (tg_bytes){ out, len };
    return true;
}

/* A string in quotes that says this. */
static bool tg_says_(tg_bytes raw, const char *text, size_t len) {
    tg_bytes said = { raw.ptr + 1, raw.len - 2 };
    if (memchr(said.ptr, '\\', said.len) && !tg_unescape_(raw, &said)) return false;
    return said.len == len && memcmp(said.ptr, text, len) == 0;
}

/* Of a name that is there twice the last counts, as for other readers. */
static bool tg_member_(tg_bytes j, const char *name, size_t name_len, tg_bytes *raw) {
    bool found = false;
    size_t i = tg_space_(j, 0);
    if (i >= j.len || j.ptr[i] != '{') return false;
    for (i = tg_space_(j, i + 1); i < j.len && j.ptr[i] == '"'; i = tg_space_(j, i + 1)) {
        size_t end = tg_string_end_(j, i);
        if (!end) return false;
        bool named = tg_says_((tg_bytes){ j.ptr + i, end - i }, name, name_len);
        i = tg_space_(j, end);
        if (i >= j.len || j.ptr[i] != ':') return false;
        i = tg_space_(j, i + 1);
        end = tg_value_end_(j, i);
        if (!end) return false;
        if (named) { *raw = (tg_bytes){ j.ptr + i, end - i }; found = true; }
        i = tg_space_(j, end);
        if (i >= j.len || j.ptr[i] != ',') break;
    }
    return found && i < j.len && j.ptr[i] == '}';
}

bool tg_json_field(tg_bytes json, const char *path, tg_bytes *raw) {
    for (;;) {
        const char *dot = strchr(path, '.');
        tg_bytes value;
        if (!tg_member_(json, path, dot ? (size_t)(dot - path) : strlen(path), &value)) return false;
        if (!dot) { *raw = value; return true; }
        json = value;
        path = dot + 1;
    }
}

static bool tg_digits_(tg_bytes raw, uint64_t *value) {
    uint64_t sum = 0;
    if (!raw.len) return false;
    for (size_t i = 0; i < raw.len; i++) {
        unsigned digit = raw.ptr[i] - '0';
        if (digit > 9 || sum > (UINT64_MAX - digit) / 10) return false;
        sum = sum * 10 + digit;
    }
    *value = sum;
    return true;
}

bool tg_json_u64(tg_bytes json, const char *path, uint64_t *value) {
    tg_bytes raw;
    return tg_json_field(json, path, &raw) && tg_digits_(raw, value);
}

bool tg_json_i64(tg_bytes json, const char *path, int64_t *value) {
    tg_bytes raw;
    uint64_t size;
    if (!tg_json_field(json, path, &raw) || !raw.len) return false;
    bool negative = raw.ptr[0] == '-';
    if (negative) raw = (tg_bytes){ raw.ptr + 1, raw.len - 1 };
    if (!tg_digits_(raw, &size) || size > (uint64_t)INT64_MAX + negative) return false;
    *value = negative ? (int64_t)(0 - size) : (int64_t)size;
    return true;
}

bool tg_json_f64(tg_bytes json, const char *path, double *value) {
    tg_bytes raw;
    if (!tg_json_field(json, path, &raw) || !raw.len) return false;
    size_t i = 0;
    bool negative = raw.ptr[0] == '-', any = false;
    double sum = 0;
    int scale = 0;
    if (negative) i++;
    for (; i < raw.len && raw.ptr[i] >= '0' && raw.ptr[i] <= '9'; i++, any = true)
        sum = sum * 10 + (raw.ptr[i] - '0');
    if (i < raw.len && raw.ptr[i] == '.')
        for (i++; i < raw.len && raw.ptr[i] >= '0' && raw.ptr[i] <= '9'; i++, scale--)
            sum = sum * 10 + (raw.ptr[i] - '0');
    if (i < raw.len && (raw.ptr[i] == 'e' || raw.ptr[i] == 'E')) {
        int sign = 1, power = 0;
        i++;
        if (i < raw.len && (raw.ptr[i] == '+' || raw.ptr[i] == '-')) sign = raw.ptr[i++] == '-' ? -1 : 1;
        for (; i < raw.len && raw.ptr[i] >= '0' && raw.ptr[i] <= '9'; i++)
            if (power < 1000) power = power * 10 + (raw.ptr[i] - '0');
        scale += sign * power;
    }
    if (!any || i != raw.len) return false;
    /* Step by step, for a power of ten may be beyond what a double holds where the number is not. */
    if (sum == 0) scale = 0;
    for (; scale > 300; scale -= 300) sum *= 1e300;
    for (; scale < -300; scale += 300) sum /= 1e300;
    double factor = 1;
    for (int n = scale < 0 ? -scale : scale; n > 0; n--) factor *= 10;
    sum = scale < 0 ? sum / factor : sum * factor;
    *value = negative ? -sum : sum;
    return true;
}

bool tg_json_bool(tg_bytes json, const char *path, bool *value) {
    tg_bytes raw;
    if (!tg_json_field(json, path, &raw)) return false;
    *value = tg_is(raw, "true");
    return *value || tg_is(raw, "false");
}

bool tg_json_str(tg_bytes json, const char *path, tg_bytes *value) {
    tg_bytes raw;
    if (!tg_json_field(json, path, &raw) || raw.len < 2 || raw.ptr[0] != '"') return false;
    return tg_unescape_(raw, value);
}

uint64_t tg_state_get_u64(tg_bytes name, uint64_t otherwise) {
    tg_bytes value;
    uint64_t number;
    return tg_state_get(name, &value) && tg_digits_(value, &number) ? number : otherwise;
}

tg_error tg_state_set_u64(tg_bytes name, uint64_t value) {
    return tg_state_set(name, tg_format("%u", value));
}

#endif /* TG_DECLARATIONS_ONLY */
#endif /* TIDEGATE_H */
