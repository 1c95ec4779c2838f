/*
 * observe: the journal, counters, histograms. It writes; it never reads.
 *
 * Flow:   a room fills a `struct event` and calls observe_event; observe prints one line on
 * standard error, bumps the counters the event stands for, and hands the event to at most four
 * sinks (history is one). Owns:   the counters (atomics) and the line buffer. Sleeps: never; a sink
 * must not sleep either, it queues. Fails:  silently for a full standard error: mail does not wait
 * for a log. Dropped lines are counted. Never:  writes bodies or secrets; every foreign byte is
 * escaped.
 */
#ifndef OBSERVE_OBSERVE_H
#define OBSERVE_OBSERVE_H

#include "base/base.h"
#include "runtime/runtime.h"
#include "verdict/verdict.h"

enum event_kind {
#define EVENT(symbol, name, level) EVENT_##symbol,
#include "observe/events.def"
#undef EVENT
    EVENT_KIND_COUNT
};

enum stage { /* where in the SMTP dialogue, ours or the next hop's */
             STAGE_NONE = 0,
             STAGE_CONNECT,
             STAGE_BANNER,
             STAGE_EHLO,
             STAGE_TLS,
             STAGE_AUTH,
             STAGE_MAIL,
             STAGE_RCPT,
             STAGE_DATA,
             STAGE_DOT,
             STAGE_QUIT,
             STAGE_DNS,
             STAGE_COMMIT,
             STAGE_MAILBOX,
             STAGE_COUNT
};
const char *stage_name(enum stage stage); /* "connect", "rcpt", "dot", ... ; "" for none */

/* Views need to live only during the call. Zero or empty members are left out of the line. */
struct event {
    enum event_kind kind;
    enum stage stage;
    uint64_t message, session; /* ids */
    struct verdict verdict;    /* used by kinds that carry a fate */
    bool has_verdict;
    uint64_t incident; /* id, of what is told about an incident */
    uint64_t mail; /* for the ledger: which mail it is, the same when it comes again; 0: unknown */
    struct bytes client, helo, from, to, mx, filter;
    struct bytes destination; /* where it goes: the unit that queues are counted by */
    struct bytes tls;         /* of a session with a next hop: version and cipher */
    struct bytes transcript;  /* for the history alone: the dialogue of an attempt that failed */
    struct bytes text;        /* the reply or the dependency's words */
    unsigned code;            /* reply code as said or received */
    struct bytes enhanced;    /* as received; ours comes from the cause */
    uint32_t attempt;
    int64_t next_wall_us; /* next try */
    uint64_t took_us;
    uint64_t size_bytes;
    int64_t wall_us; /* 0: now */
};

void observe_event(const struct event *event);
const char *event_name(enum event_kind kind);

typedef void observe_sink(void *argument, const struct event *event);
bool observe_add_sink(observe_sink *sink, void *argument); /* false when four are there */
/* Takes it out again; events that are under way on other threads may still reach it. */
void observe_remove_sink(observe_sink *sink, const void *argument);
void observe_remove_sinks(void);

enum log_format { LOG_JSON, LOG_POSTFIX, LOG_NONE };
enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARNING, LOG_ERROR };
void observe_configure(enum log_format format, enum log_level level);

/* A plain line for what is no event of mail: start-up, reload, faults of a room. */
void observe_note(enum log_level level, const char *room, const char *format, ...)
    PRINTF_LIKE(3, 4);

/* ------------------------------------------------------------------ dialogues */

/*
 * What two servers say to each other: a bounded transcript of one of them, kept by who speaks and
 * handed to the history with an event when it went wrong; and the lines of all of them, live, for
 * who traces. Secrets and bodies are never put in: of AUTH only the mechanism is shown, answers of
 * its exchange are a note, and a message is a note of its octets.
 */
enum dialogue_direction { DIALOGUE_IN = 0, DIALOGUE_OUT };
enum dialogue_speaker { DIALOGUE_US = 0, DIALOGUE_THEM };
#define DIALOGUE_BYTES_MAX (12 * 1024)
struct dialogue {
    enum dialogue_direction direction;
    uint64_t id;                             /* of the session (in) or the message (out) */
    const char *peer, *destination, *domain; /* of outgoing ones the latter two; or NULL */
    /* The transcript's own. A zeroed one is ready and has no memory. */
    char *at;
    uint32_t count, room, cut;
    uint64_t begun_us;
};
/* One line or several, with or without their ends. */
void dialogue_line(struct dialogue *dialogue, enum dialogue_speaker speaker, struct bytes lines);
void dialogue_note(struct dialogue *dialogue, const char *format, ...) PRINTF_LIKE(2, 3);
/* The note "a message of 1234 octets" and those words: it stands in for each body. */
void dialogue_message(struct dialogue *dialogue, uint64_t octets, const char *words);
/* "     0.012 < 220 mx": seconds since the first line, who (> us, < them, * a note), what. */
struct bytes dialogue_view(const struct dialogue *dialogue);
void dialogue_clear(struct dialogue *dialogue); /* frees its memory; it stays usable */

/* Live lines, as JSON objects, one a line. */
struct trace_filter {
    enum dialogue_direction direction;
    char client[64];       /* an IP address, or "" */
    char destination[256]; /* a domain or a destination's key, or "" */
};
struct trace;
MUST_USE struct trace *
trace_open(const struct trace_filter *filter); /* NULL: memory, or too many */
void trace_close(struct trace *trace);
/* Adds what came to `into`; sleeps until something did, or the deadline. False: lines were lost,
 * because the reader was too slow. */
MUST_USE bool trace_read(struct trace *trace, uint64_t deadline_us, struct buffer *into);

/* ------------------------------------------------------------------ metrics: names in metrics.def
 */

enum counter {
#define COUNTER(symbol, name, help) COUNTER_##symbol,
#define GAUGE(symbol, name, help) COUNTER_##symbol,
#define HISTOGRAM(symbol, name, help, lowest_us)
#include "observe/metrics.def"
#undef COUNTER
#undef GAUGE
#undef HISTOGRAM
    COUNTER_COUNT
};
enum histogram {
#define COUNTER(symbol, name, help)
#define GAUGE(symbol, name, help)
#define HISTOGRAM(symbol, name, help, lowest) HISTOGRAM_##symbol,
#include "observe/metrics.def"
#undef COUNTER
#undef GAUGE
#undef HISTOGRAM
    HISTOGRAM_COUNT
};

void metric_add(enum counter counter, int64_t delta);
void metric_set(enum counter counter, int64_t value);
int64_t metric_get(enum counter counter);
/* The sums of the labelled families over all their labels. */
enum metric_total {
    METRIC_DEFERRALS,
    METRIC_REFUSALS,
    METRIC_DELIVERED,
    METRIC_DELIVERY_DEFERRALS,
    METRIC_DELIVERY_FAILURES
};
int64_t metric_total(enum metric_total which);
void metric_observe(enum histogram histogram, uint64_t value); /* µs, or a plain count */
/* Per-filter latency, holdfast_filter_seconds_bucket{filter=...}; at most 32 names, the rest share
 * "other". */
void metric_observe_filter(struct bytes filter, uint64_t took_us);
/* A gauge with one label value, e.g. breaker open{dependency=...}; bounded like the above. */
void metric_set_labelled(const char *metric, const char *label, struct bytes value, int64_t amount);
/* The whole exposition in Prometheus text format. */
void metrics_print(struct buffer *into);

#endif
