/* Says when something that moves enters or leaves a place: `position.reported` with `lat` and `lon` in
 * degrees, of each key, becomes `fence.entered` and `fence.left`. The places stand in the configuration:
 *
 *     fences = "depot 52.5208 13.4094 300; harbour 53.5439 9.9665 1500"
 *
 * each with a name, where it is, and its radius in metres.
 *
 * Teaches: C with one header, numbers of JSON, state as a set of names, a plugin that takes microseconds. */
#include <math.h>
#include <stdlib.h>

#include "tidegate.h"

/* Whoever stands at the edge would enter and leave with each wobble of the satellites: to leave takes
 * some more than the radius. */
#define LEAVES_AT 1.1
#define DEGREE (3.14159265358979323846 / 180.0)
#define EARTH_METRES 6371000.0

typedef struct { tg_bytes name; double lat, lon, metres; } fence;

/* Metres between two points, by the haversine formula. */
static double metres(double lat, double lon, const fence *to) {
    double north = sin((to->lat - lat) * DEGREE / 2), east = sin((to->lon - lon) * DEGREE / 2);
    double h = north * north + cos(lat * DEGREE) * cos(to->lat * DEGREE) * east * east;
    return 2 * EARTH_METRES * asin(sqrt(fmin(1, h)));
}

/* The next fence of a configuration; false: there is none, or it is malformed (`wrong`). */
static bool next(const char **text, fence *found, bool *wrong) {
    *text += strspn(*text, " ;\n");
    if (!**text) return false;
    size_t name = strcspn(*text, " ;");
    *found = (fence){ .name = { (const uint8_t *)*text, name } };
    char *end = (char *)*text + name;
    double *parts[] = { &found->lat, &found->lon, &found->metres };
    for (int i = 0; i < 3; i++) {
        char *start = end;
        *parts[i] = strtod(start, &end);
        *wrong |= end == start;
    }
    *wrong |= !(found->metres > 0) || (*end && !strchr(" ;\n", *end));
    *text = end;
    return !*wrong;
}

static tg_outcome moved(const tg_event *event) {
    fence at;
    double lat, lon;
    bool wrong = false;
    tg_bytes fences;
    if (!event->has_key) return tg_reject("nobody moved: publish it with a key");
    if (!tg_json_f64(event->data, "lat", &lat) || !tg_json_f64(event->data, "lon", &lon))
        return tg_reject("`lat` and `lon` are numbers, in degrees");
    if (fabs(lat) > 90 || fabs(lon) > 180) return tg_reject("there is no such place on earth");
    if (!tg_config("fences", &fences)) return tg_reject("[config] fences is not set");

    /* A copy, with the zero that strtod stops at. */
    const char *text = (const char *)tg_format("%b%b", fences, (tg_bytes){ (const uint8_t *)"", 1 }).ptr;
    while (next(&text, &at, &wrong)) {
        double away = metres(lat, lon, &at);
        tg_bytes name = tg_format("in/%b", at.name), before;
        bool was = tg_state_get(name, &before);
        bool is = away <= at.metres * (was ? LEAVES_AT : 1);
        if (is == was) continue;
        TG_TRY(is ? tg_state_set(name, tg_str("true")) : tg_state_delete(name));
        const char *type = is ? "fence.entered" : "fence.left";
        TG_TRY(tg_emit(type, tg_format("{\"fence\":%j,\"metres\":%u}", at.name, (uint64_t)away)));
    }
    return wrong ? tg_reject("[config] fences: each is `name lat lon metres`, with `;` between") : tg_ok();
}
TG_HANDLER(moved)
