/*
 * Counters, gauges, histograms and the labelled families, as relaxed atomics on cache lines of
 * their own; printed in Prometheus' text format, each family's HELP and TYPE once.
 */
#include "observe/line.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

enum { BUCKETS = 24, NAMES_MAX = 32, NAME_ROOM = 128 };

struct cell {
    _Alignas(64) _Atomic int64_t value;
};
struct distribution {
    _Alignas(64) _Atomic uint64_t buckets[BUCKETS + 1]; /* the last one: beyond every bound */
    _Atomic uint64_t sum;
};

static struct cell cells[COUNTER_COUNT];
static struct distribution distributions[HISTOGRAM_COUNT];
static _Atomic uint64_t deferrals[CAUSE_COUNT][STAGE_COUNT];
static _Atomic uint64_t refusals[CAUSE_COUNT];
enum result { RESULT_DELIVERED, RESULT_DEFERRED, RESULT_FAILED, RESULT_COUNT };
static _Atomic uint64_t deliveries[RESULT_COUNT][CAUSE_COUNT];

/* Names met at run time; place NAMES_MAX takes all that came too late. */
struct name {
    char text[NAME_ROOM];
    struct distribution took;
    _Atomic int64_t value;
};
struct names {
    _Atomic unsigned count;
    struct name rows[NAMES_MAX + 1];
};
static pthread_mutex_t names_lock = PTHREAD_MUTEX_INITIALIZER;
static struct names filters = {.rows[NAMES_MAX].text = "other"};

enum family {
#define FAMILY(symbol, name, type, help) FAMILY_##symbol,
#include "observe/families.def"
#undef FAMILY
    FAMILY_COUNT
};
static const struct {
    const char *name, *type, *help;
} FAMILIES[FAMILY_COUNT] = {
#define FAMILY(symbol, name, type, help) {name, type, help},
#include "observe/families.def"
#undef FAMILY
};
static struct {
    struct names names;
    const char *label;
} labelled[FAMILY_COUNT];

static int64_t sum_of(const _Atomic uint64_t *cells_, size_t count)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < count; i++)
        sum += atomic_load_explicit(&cells_[i], memory_order_relaxed);
    return (int64_t)sum;
}

int64_t metric_total(enum metric_total which)
{
    switch (which) {
    case METRIC_DEFERRALS:
        return sum_of(&deferrals[0][0], (size_t)CAUSE_COUNT * STAGE_COUNT);
    case METRIC_REFUSALS:
        return sum_of(refusals, CAUSE_COUNT);
    case METRIC_DELIVERED:
        return sum_of(deliveries[RESULT_DELIVERED], CAUSE_COUNT);
    case METRIC_DELIVERY_DEFERRALS:
        return sum_of(deliveries[RESULT_DEFERRED], CAUSE_COUNT);
    case METRIC_DELIVERY_FAILURES:
        return sum_of(deliveries[RESULT_FAILED], CAUSE_COUNT);
    }
    return 0;
}

void metric_add(enum counter counter, int64_t delta)
{
    atomic_fetch_add_explicit(&cells[counter].value, delta, memory_order_relaxed);
}

void metric_set(enum counter counter, int64_t value)
{
    atomic_store_explicit(&cells[counter].value, value, memory_order_relaxed);
}

int64_t metric_get(enum counter counter)
{
    return atomic_load_explicit(&cells[counter].value, memory_order_relaxed);
}

static const uint64_t LOWEST[HISTOGRAM_COUNT] = {
#define COUNTER(symbol, name, help)
#define GAUGE(symbol, name, help)
#define HISTOGRAM(symbol, name, help, lowest) [HISTOGRAM_##symbol] = (lowest),
#include "observe/metrics.def"
#undef COUNTER
#undef GAUGE
#undef HISTOGRAM
};
enum { FILTER_LOWEST_US = 500 };

static void distribution_add(struct distribution *into, uint64_t lowest, uint64_t value)
{
    /* The smallest k with value <= lowest * 2^k. */
    const uint64_t ratio = value == 0 ? 0 : (value - 1) / lowest;
    const unsigned bucket = ratio == 0 ? 0 : 64 - (unsigned)__builtin_clzll(ratio);

    atomic_fetch_add_explicit(&into->buckets[MIN_OF(bucket, (unsigned)BUCKETS)], 1,
                              memory_order_relaxed);
    atomic_fetch_add_explicit(&into->sum, value, memory_order_relaxed);
}

void metric_observe(enum histogram histogram, uint64_t value)
{
    distribution_add(&distributions[histogram], LOWEST[histogram], value);
}

static struct name *names_find(struct names *names, struct bytes name)
{
    const unsigned count = atomic_load_explicit(&names->count, memory_order_acquire);
    const struct bytes shown = bytes_slice(name, 0, NAME_ROOM - 1);

    for (unsigned i = 0; i < count; i++)
        if (bytes_equal_text(shown, names->rows[i].text))
            return &names->rows[i];
    return NULL;
}

/* Where the name is counted; a new one takes a place, if one is left. */
static struct name *names_place(struct names *names, struct bytes name)
{
    struct name *place = names_find(names, name);

    if (place)
        return place;
    pthread_mutex_lock(&names_lock);
    place = names_find(names, name);
    const unsigned count = atomic_load(&names->count);
    if (!place && count < NAMES_MAX) {
        const struct bytes shown = bytes_slice(name, 0, NAME_ROOM - 1);
        place = &names->rows[count];
        if (shown.count > 0)
            memcpy(place->text, shown.at, shown.count);
        atomic_store_explicit(&names->count, count + 1, memory_order_release);
    }
    pthread_mutex_unlock(&names_lock);
    return place ? place : &names->rows[NAMES_MAX];
}

void metric_observe_filter(struct bytes filter, uint64_t took_us)
{
    distribution_add(&names_place(&filters, filter)->took, FILTER_LOWEST_US, took_us);
}

void metric_set_labelled(const char *metric, const char *label, struct bytes value, int64_t amount)
{
    for (size_t i = 0; i < FAMILY_COUNT; i++) {
        if (strcmp(FAMILIES[i].name, metric) != 0)
            continue;
        labelled[i].label = label;
        snprintf(labelled[i].names.rows[NAMES_MAX].text, NAME_ROOM, "other");
        atomic_store(&names_place(&labelled[i].names, value)->value, amount);
        return;
    }
}

static void count_delivery(const struct event *event, enum result result)
{
    const unsigned cause = event->has_verdict && event->verdict.cause < CAUSE_COUNT
                               ? event->verdict.cause
                               : (result == RESULT_DELIVERED ? CAUSE_ACCEPTED : CAUSE_UNDECIDED);

    atomic_fetch_add_explicit(&deliveries[result][cause], 1, memory_order_relaxed);
}

void metrics_count_event(const struct event *event)
{
    const unsigned cause = event->verdict.cause < CAUSE_COUNT ? event->verdict.cause : 0;
    const unsigned stage = event->stage < STAGE_COUNT ? event->stage : 0;

    if (event->kind == EVENT_MESSAGE_ACCEPTED) {
        metric_add(COUNTER_ACCEPTED, 1);
        metric_add(COUNTER_ACCEPTED_BYTES, (int64_t)event->size_bytes);
    } else if (event->kind == EVENT_MESSAGE_REPEATED) {
        metric_add(COUNTER_REPEATED, 1);
    } else if (event->kind == EVENT_MESSAGE_DEFERRED) {
        atomic_fetch_add_explicit(&deferrals[cause][stage], 1, memory_order_relaxed);
    } else if (event->kind == EVENT_MESSAGE_REFUSED) {
        atomic_fetch_add_explicit(&refusals[cause], 1, memory_order_relaxed);
    } else if (event->kind == EVENT_MESSAGE_BOUNCED) {
        metric_add(COUNTER_BOUNCED, 1);
    } else if (event->kind == EVENT_DELIVERY_DONE) {
        count_delivery(event, RESULT_DELIVERED);
    } else if (event->kind == EVENT_DELIVERY_DEFERRED) {
        count_delivery(event, RESULT_DEFERRED);
    } else if (event->kind == EVENT_DELIVERY_FAILED) {
        count_delivery(event, RESULT_FAILED);
    }
}

/* ------------------------------------------------------------------ the exposition */

/* HELP and TYPE, unless the family (the name up to its labels) is the one printed last. */
static void print_head(struct buffer *into, const char *name, const char *type, const char *help)
{
    buffer_print(into, "# HELP %.*s %s\n# TYPE %.*s %s\n", (int)strcspn(name, "{"), name, help,
                 (int)strcspn(name, "{"), name, type);
}

static bool same_family(const char *a, const char *b)
{
    const size_t length = strcspn(a, "{");

    return length == strcspn(b, "{") && strncmp(a, b, length) == 0;
}

static void print_bound(struct buffer *into, uint64_t bound, bool seconds)
{
    if (seconds)
        buffer_print(into, "%.9g", (double)bound / 1e6);
    else
        buffer_print(into, "%llu", (unsigned long long)bound);
}

/* `label` is "" or "filter=\"x\"," with its comma. */
static void print_distribution(struct buffer *into, const char *name, struct distribution *from,
                               const char *label, uint64_t lowest)
{
    const bool seconds = strstr(name, "_seconds") != NULL;
    const uint64_t sum = atomic_load_explicit(&from->sum, memory_order_relaxed);
    uint64_t below = 0;

    for (unsigned i = 0; i < BUCKETS; i++) {
        below += atomic_load_explicit(&from->buckets[i], memory_order_relaxed);
        buffer_print(into, "%s_bucket{%sle=\"", name, label);
        print_bound(into, lowest << i, seconds);
        buffer_print(into, "\"} %llu\n", (unsigned long long)below);
    }
    below += atomic_load_explicit(&from->buckets[BUCKETS], memory_order_relaxed);
    buffer_print(into, "%s_bucket{%sle=\"+Inf\"} %llu\n", name, label, (unsigned long long)below);
    const int inside = label[0] ? (int)strlen(label) - 1 : 0;
    buffer_print(into, inside ? "%s_sum{%.*s} " : "%s_sum%.*s ", name, inside, label);
    print_bound(into, sum, seconds);
    buffer_print(into, inside ? "\n%s_count{%.*s} %llu\n" : "\n%s_count%.*s %llu\n", name, inside,
                 label, (unsigned long long)below);
}

static void print_fixed(struct buffer *into)
{
    const char *last = "";

#define COUNTER(symbol, name, help)                                                                \
    if (!same_family(last, name))                                                                  \
        print_head(into, name, "counter", help);                                                   \
    last = name;                                                                                   \
    buffer_print(into, "%s %lld\n", name, (long long)metric_get(COUNTER_##symbol));
#define GAUGE(symbol, name, help)                                                                  \
    if (!same_family(last, name))                                                                  \
        print_head(into, name, "gauge", help);                                                     \
    last = name;                                                                                   \
    buffer_print(into, "%s %lld\n", name, (long long)metric_get(COUNTER_##symbol));
#define HISTOGRAM(symbol, name, help, lowest)                                                      \
    print_head(into, name, "histogram", help);                                                     \
    print_distribution(into, name, &distributions[HISTOGRAM_##symbol], "", lowest);
#include "observe/metrics.def"
#undef COUNTER
#undef GAUGE
#undef HISTOGRAM
}

static void print_family_head(struct buffer *into, enum family family)
{
    print_head(into, FAMILIES[family].name, FAMILIES[family].type, FAMILIES[family].help);
}

static void print_objections(struct buffer *into)
{
    print_family_head(into, FAMILY_DEFERRALS);
    for (unsigned cause = 0; cause < CAUSE_COUNT; cause++)
        for (unsigned stage = 0; stage < STAGE_COUNT; stage++)
            if (deferrals[cause][stage] != 0)
                buffer_print(into, "%s{cause=\"%s\",side=\"%s\",stage=\"%s\"} %llu\n",
                             FAMILIES[FAMILY_DEFERRALS].name, cause_name((enum cause)cause),
                             side_name(cause_row((enum cause)cause)->side),
                             stage_name((enum stage)stage),
                             (unsigned long long)deferrals[cause][stage]);
    print_family_head(into, FAMILY_REFUSALS);
    for (unsigned cause = 0; cause < CAUSE_COUNT; cause++)
        if (refusals[cause] != 0)
            buffer_print(into, "%s{cause=\"%s\"} %llu\n", FAMILIES[FAMILY_REFUSALS].name,
                         cause_name((enum cause)cause), (unsigned long long)refusals[cause]);
}

static void print_deliveries(struct buffer *into)
{
    static const char *const results[RESULT_COUNT] = {"delivered", "deferred", "failed"};

    print_family_head(into, FAMILY_DELIVERIES);
    for (unsigned result = 0; result < RESULT_COUNT; result++)
        for (unsigned cause = 0; cause < CAUSE_COUNT; cause++)
            if (deliveries[result][cause] != 0)
                buffer_print(into, "%s{result=\"%s\",cause=\"%s\"} %llu\n",
                             FAMILIES[FAMILY_DELIVERIES].name, results[result],
                             cause_name((enum cause)cause),
                             (unsigned long long)deliveries[result][cause]);
}

/* A label value: backslash, quote and line feed are escaped, what is not UTF-8 is left out. */
static void label_text(const char *value, char *into, size_t room)
{
    size_t count = 0;
    const struct bytes view = bytes_of_text(value);
    const bool sound = bytes_is_utf8(view);

    for (size_t i = 0; i < view.count && count + 3 < room; i++) {
        const uint8_t byte = view.at[i];
        if (byte < 0x20 || byte == 0x7f || (byte >= 0x80 && !sound)) {
            into[count++] = '?';
            continue;
        }
        if (byte == '"' || byte == '\\')
            into[count++] = '\\';
        into[count++] = (char)byte;
    }
    into[count] = 0;
}

/* Every name in use, and "other" once it holds something. */
static bool names_next(const struct names *names, unsigned *at)
{
    const unsigned count = atomic_load_explicit(&names->count, memory_order_acquire);

    if (*at < count)
        return true;
    if (*at > NAMES_MAX || count < NAMES_MAX)
        return false;
    *at = NAMES_MAX;
    return true;
}

static void print_labelled(struct buffer *into, enum family family)
{
    const struct names *names = &labelled[family].names;
    char value[2 * NAME_ROOM];

    print_family_head(into, family);
    for (unsigned i = 0; names_next(names, &i); i++) {
        label_text(names->rows[i].text, value, sizeof value);
        buffer_print(into, "%s{%s=\"%s\"} %lld\n", FAMILIES[family].name, labelled[family].label,
                     value, (long long)names->rows[i].value);
    }
}

static void print_names(struct buffer *into)
{
    char value[2 * NAME_ROOM], label[2 * NAME_ROOM + 16];

    print_family_head(into, FAMILY_FILTER_SECONDS);
    for (unsigned i = 0; names_next(&filters, &i); i++) {
        label_text(filters.rows[i].text, value, sizeof value);
        snprintf(label, sizeof label, "filter=\"%s\",", value);
        print_distribution(into, FAMILIES[FAMILY_FILTER_SECONDS].name, &filters.rows[i].took, label,
                           FILTER_LOWEST_US);
    }
    print_labelled(into, FAMILY_BREAKER_OPEN);
    print_labelled(into, FAMILY_CERTIFICATE);
}

void metrics_print(struct buffer *into)
{
    print_fixed(into);
    print_objections(into);
    print_deliveries(into);
    print_names(into);
}
