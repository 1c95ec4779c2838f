/*
 * Events: their names, their JSON line, and their way to the counters, the journal and the sinks.
 */
#include "observe/line.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <string.h>

enum { SINKS_MAX = 4 };

static struct {
    _Atomic(observe_sink *) function;
    void *_Atomic argument;
} sinks[SINKS_MAX];
static _Atomic int journal_format = LOG_JSON;
static _Atomic int journal_level = LOG_INFO;

static const char *const EVENT_NAMES[EVENT_KIND_COUNT] = {
#define EVENT(symbol, name, level) [EVENT_##symbol] = (name),
#include "observe/events.def"
#undef EVENT
};
static const uint8_t EVENT_LEVELS[EVENT_KIND_COUNT] = {
#define EVENT(symbol, name, level) [EVENT_##symbol] = LOG_##level,
#include "observe/events.def"
#undef EVENT
};
static const char *const STAGE_NAMES[STAGE_COUNT] = {
    [STAGE_NONE] = "",         [STAGE_CONNECT] = "connect", [STAGE_BANNER] = "banner",
    [STAGE_EHLO] = "ehlo",     [STAGE_TLS] = "tls",         [STAGE_AUTH] = "auth",
    [STAGE_MAIL] = "mail",     [STAGE_RCPT] = "rcpt",       [STAGE_DATA] = "data",
    [STAGE_DOT] = "dot",       [STAGE_QUIT] = "quit",       [STAGE_DNS] = "dns",
    [STAGE_COMMIT] = "commit", [STAGE_MAILBOX] = "mailbox",
};

const char *stage_name(enum stage stage)
{
    return (unsigned)stage < STAGE_COUNT ? STAGE_NAMES[stage] : "";
}

const char *event_name(enum event_kind kind)
{
    return (unsigned)kind < EVENT_KIND_COUNT ? EVENT_NAMES[kind] : "unknown";
}

enum log_level event_level(enum event_kind kind)
{
    return (unsigned)kind < EVENT_KIND_COUNT ? (enum log_level)EVENT_LEVELS[kind] : LOG_ERROR;
}

const char *level_name(enum log_level level)
{
    static const char *const names[] = {"debug", "info", "warning", "error"};

    return (unsigned)level < COUNT_OF(names) ? names[level] : "error";
}

const char *event_enhanced(const struct event *event, char into[16])
{
    into[0] = 0;
    if (event->enhanced.count > 0) {
        const struct bytes shown = bytes_slice(event->enhanced, 0, 15);
        for (size_t i = 0; i < shown.count; i++)
            into[i] = ascii_is_print(shown.at[i]) ? (char)shown.at[i] : '?';
        into[shown.count] = 0;
    } else if (event->has_verdict && event->verdict.kind != VERDICT_ACCEPT) {
        const struct cause_row *row = cause_row(event->verdict.cause);
        snprintf(into, 16, "%u.%s", row->code / 100, row->enhanced);
    }
    return into;
}

/* ------------------------------------------------------------------ the JSON line */

static void json_text(struct line *line, const char *key, struct bytes value, size_t most)
{
    if (value.count == 0)
        return;
    line_add_text(line, ",\"");
    line_add_text(line, key);
    line_add_text(line, "\":\"");
    line_add_json(line, value, most);
    line_add_text(line, "\"");
}

static void json_word(struct line *line, const char *key, const char *value)
{
    json_text(line, key, bytes_of_text(value), 128);
}

static void json_id(struct line *line, const char *key, uint64_t id)
{
    if (id == 0)
        return;
    line_add_text(line, ",\"");
    line_add_text(line, key);
    line_add_text(line, "\":\"");
    line_add_id(line, id);
    line_add_text(line, "\"");
}

static void json_number(struct line *line, const char *key, uint64_t value)
{
    if (value == 0)
        return;
    line_add_text(line, ",\"");
    line_add_text(line, key);
    line_add_text(line, "\":");
    line_add_u64(line, value);
}

static void json_fate(struct line *line, const struct event *event)
{
    char enhanced[16];

    if (event->has_verdict && event->verdict.kind != VERDICT_ACCEPT) {
        json_word(line, "cause", cause_name(event->verdict.cause));
        json_word(line, "side", side_name(cause_row(event->verdict.cause)->side));
    }
    json_number(line, "code", event->code);
    json_word(line, "enhanced", event_enhanced(event, enhanced));
}

static void json_measures(struct line *line, const struct event *event)
{
    json_number(line, "attempt", event->attempt);
    if (event->next_wall_us != 0) {
        line_add_text(line, ",\"next\":\"");
        line_add_time(line, event->next_wall_us);
        line_add_text(line, "\"");
    }
    if (event->took_us != 0) {
        line_add_text(line, ",\"took_ms\":");
        line_add_ms(line, event->took_us);
    }
    json_number(line, "size", event->size_bytes);
}

/* The limits of the texts add up to less than a line, so the braces always close. */
void line_of_event_json(struct line *line, const struct event *event, int64_t wall_us)
{
    line_add_text(line, "{\"time\":\"");
    line_add_time(line, wall_us);
    line_add_text(line, "\"");
    json_word(line, "event", event_name(event->kind));
    json_id(line, "session", event->session);
    json_id(line, "message", event->message);
    json_id(line, "incident", event->incident);
    json_text(line, "client", event->client, 128);
    json_text(line, "helo", event->helo, 400);
    json_text(line, "from", event->from, 600);
    json_text(line, "to", event->to, 600);
    json_word(line, "stage", stage_name(event->stage));
    json_fate(line, event);
    json_text(line, "filter", event->filter, 128);
    json_text(line, "mx", event->mx, 300);
    json_text(line, "tls", event->tls, 96);
    json_text(line, "destination", event->destination, 200);
    json_measures(line, event);
    json_text(line, "text", event->text, 1000);
    line_add_text(line, "}\n");
}

void line_of_note_json(struct line *line, enum log_level level, const char *room,
                       struct bytes words)
{
    line_add_text(line, "{\"time\":\"");
    line_add_time(line, clock_wall_us());
    line_add_text(line, "\",\"event\":\"note\"");
    json_word(line, "level", level_name(level));
    json_word(line, "room", room);
    json_text(line, "text", words, 3000);
    line_add_text(line, "}\n");
}

/* ------------------------------------------------------------------ the way of an event */

void observe_configure(enum log_format format, enum log_level level)
{
    atomic_store(&journal_format, (int)format);
    atomic_store(&journal_level, (int)level);
}

static void event_print(const struct event *event, int64_t wall_us)
{
    struct line line;
    const enum log_level level = event_level(event->kind);
    const int format = atomic_load_explicit(&journal_format, memory_order_relaxed);

    if (format == LOG_NONE ||
        (int)level < atomic_load_explicit(&journal_level, memory_order_relaxed))
        return;
    line.count = 0;
    if (format == LOG_POSTFIX)
        line_of_event_postfix(&line, event, wall_us);
    else
        line_of_event_json(&line, event, wall_us);
    journal_put(line_view(&line), level >= LOG_WARNING);
}

void observe_event(const struct event *event)
{
    struct event stamped = *event;

    if (stamped.wall_us == 0)
        stamped.wall_us = clock_wall_us();
    metrics_count_event(&stamped);
    event_print(&stamped, stamped.wall_us);
    for (size_t i = 0; i < SINKS_MAX; i++) {
        observe_sink *function = atomic_load_explicit(&sinks[i].function, memory_order_acquire);
        if (function)
            function(atomic_load_explicit(&sinks[i].argument, memory_order_relaxed), &stamped);
    }
}

/* Rooms add their sinks one after the other while the server opens, so two never race for a place.
 */
bool observe_add_sink(observe_sink *sink, void *argument)
{
    for (size_t i = 0; i < SINKS_MAX; i++) {
        if (atomic_load(&sinks[i].function))
            continue;
        atomic_store(&sinks[i].argument, argument);
        atomic_store_explicit(&sinks[i].function, sink, memory_order_release);
        return true;
    }
    return false;
}

void observe_remove_sink(observe_sink *sink, const void *argument)
{
    for (size_t i = 0; i < SINKS_MAX; i++)
        if (atomic_load(&sinks[i].function) == sink && atomic_load(&sinks[i].argument) == argument)
            atomic_store(&sinks[i].function, NULL);
}

void observe_remove_sinks(void)
{
    for (size_t i = 0; i < SINKS_MAX; i++)
        atomic_store(&sinks[i].function, NULL);
}

void observe_note(enum log_level level, const char *room, const char *format, ...)
{
    char words[1024];
    struct line line;
    va_list arguments;
    const int form = atomic_load(&journal_format);

    if (form == LOG_NONE || (int)level < atomic_load(&journal_level))
        return;
    va_start(arguments, format);
    const int count = vsnprintf(words, sizeof words, format, arguments);
    va_end(arguments);
    const struct bytes view =
        bytes_of(words, count < 0 ? 0 : MIN_OF((size_t)count, sizeof words - 1));
    line.count = 0;
    if (form == LOG_POSTFIX)
        line_of_note_postfix(&line, room, view);
    else
        line_of_note_json(&line, level, room, view);
    journal_put(line_view(&line), true);
}
