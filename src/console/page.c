/*
 * The page: what is wrong, who waits and why, what depends on what, and the last hour as a chart.
 * It works without scripts and loads itself anew; every foreign word is escaped.
 */
#include "console/console_private.h"

#include <string.h>

#include "diagnose/diagnose.h"

enum {
    CHART_WIDTH = 720,
    CHART_HEIGHT = 120,
    CHART_FOOT = 18,
    GROUPS_SHOWN = 30,
    ROWS_COUNTED = 20000
};

static const char HEAD[] =
    "<!doctype html><html lang=en><meta charset=utf-8><meta http-equiv=refresh content=5>"
    "<meta name=viewport content=\"width=device-width,initial-scale=1\"><style>"
    ":root{color-scheme:light dark;--text:#222;--dim:#666;--line:#ddd;--soft:#f3f3f3;--bad:#b00020;"
    "--fine:#1b6e2d;--blue:#1f5fbf;--gold:#b36b00}"
    "@media(prefers-color-scheme:dark){:root{--text:#e4e4e4;--dim:#a0a0a0;--line:#3a3a3a;"
    "--soft:#262626;--bad:#ff7b88;--fine:#6fcf82;--blue:#7fb0ff;--gold:#f0b050}"
    "body{background:#161616}a{color:var(--blue)}}"
    "body{font:14px/1.45 system-ui,sans-serif;margin:1.2em auto;padding:0 1em;max-width:1100px;"
    "color:var(--text);overflow-wrap:anywhere}"
    "h1{font-size:1.3em;margin:0 0 .6em}h2{font-size:1.05em;margin:1.6em 0 .4em}"
    ".bad{color:var(--bad);font-weight:bold}.fine{color:var(--fine)}.dim{color:var(--dim)}"
    ".tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(8.5em,1fr));gap:.6em}"
    ".tile{background:var(--soft);border-radius:4px;padding:.5em .9em}.tile "
    "b{display:block;font-size:1.25em}"
    ".wide{overflow-x:auto}table{border-collapse:collapse}td,th{border-bottom:1px solid "
    "var(--line);padding:.3em 1.1em .3em 0;text-align:left;vertical-align:top}"
    "th{color:var(--dim);font-weight:normal}td,th{white-space:nowrap}"
    "td:first-child{white-space:normal;min-width:9.5em}"
    ".incident{border-left:4px solid var(--bad);padding:.1em 0 .1em .9em;margin:.8em 0}"
    ".said{white-space:pre-line;font-family:monospace}.run{margin:.3em 0;padding-left:1.2em}"
    "code{background:var(--soft);padding:.05em .3em}svg{background:var(--soft);width:100%;"
    "max-width:720px;height:auto}svg text{fill:var(--dim);font-size:11px}"
    "@media(max-width:600px){svg text{font-size:20px}}polyline{fill:none;stroke-width:1.5}"
    ".key{display:inline-block;margin-right:1.2em}.s0{color:var(--fine);stroke:var(--fine)}"
    ".s1{color:var(--bad);stroke:var(--bad)}.s2{color:var(--blue);stroke:var(--blue)}"
    ".s3{color:var(--gold);stroke:var(--gold)}</style>";

/* Characters that turn the direction of text would reorder what stands beside them. */
void html_escape(struct buffer *into, const char *text)
{
    struct bytes rest = bytes_of_text(text ? text : "");

    while (rest.count > 0) {
        const uint8_t byte = rest.at[0];
        uint32_t code = 0;
        const size_t unfit = byte == '\n' || byte == '\t' ? 0 : bytes_unfit(rest, &code);
        const char *entity = byte == '<'   ? "&lt;"
                             : byte == '>' ? "&gt;"
                             : byte == '&' ? "&amp;"
                             : byte == '"' ? "&quot;"
                             : unfit > 0   ? "&#xfffd;"
                                           : NULL;
        const size_t length = unfit > 0 ? unfit : bytes_utf8_length(byte);
        if (entity)
            buffer_add_text(into, entity);
        else
            buffer_add(into, bytes_slice(rest, 0, length));
        rest = bytes_skip(rest, length);
    }
}

static const char *word(const json_t *row, const char *member)
{
    const char *text = json_string_value(json_object_get(row, member));

    return text ? text : "";
}

static long long number(const json_t *row, const char *member)
{
    return (long long)json_integer_value(json_object_get(row, member));
}

/* Words of ours with `commands` in them. */
static void add_advice(struct buffer *into, const char *text)
{
    struct bytes rest = bytes_of_text(text);

    for (bool code = false; rest.count > 0; code = !code) {
        struct bytes piece = BYTES_EMPTY;
        char plain[1024];
        rest = bytes_cut(rest, '`', &piece);
        snprintf(plain, sizeof plain, "%.*s", BYTES_PRINT(piece));
        buffer_add_text(into, code ? "<code>" : "");
        html_escape(into, plain);
        buffer_add_text(into, code ? "</code>" : "");
    }
}

static void add_size(struct buffer *into, long long bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double amount = (double)bytes;
    size_t unit = 0;

    for (; amount >= 1024 && unit + 1 < COUNT_OF(units); unit++)
        amount /= 1024;
    buffer_print(into, unit == 0 ? "%.0f %s" : "%.1f %s", amount, units[unit]);
}

/* "2026-11-30T01:21:08.117290Z" -> "2026-11-30 01:21:08 UTC" */
static void add_time(struct buffer *into, const char *time)
{
    if (strlen(time) < sizeof "2026-11-30T01:21:08" - 1)
        buffer_add_text(into, "-");
    else
        buffer_print(into, "%.10s %.8s UTC", time, time + 11);
}

/* A column: what stands above it, the member, and how that is shown. */
enum show { SHOW_PLAIN = 0, SHOW_SIZE, SHOW_TIME };
struct column {
    const char *head, *member;
    enum show show;
};

static void page_cell(struct buffer *into, const json_t *row, const struct column *column)
{
    const json_t *value = json_object_get(row, column->member);

    buffer_add_text(into, "<td>");
    if (column->show == SHOW_TIME)
        add_time(into, word(row, column->member));
    else if (column->show == SHOW_SIZE)
        add_size(into, number(row, column->member));
    else if (json_is_string(value))
        html_escape(into, json_string_value(value));
    else if (json_is_integer(value))
        buffer_print(into, "%lld", (long long)json_integer_value(value));
    else if (json_is_boolean(value))
        buffer_add_text(into, json_is_true(value) ? "yes" : "no");
    buffer_add_text(into, "</td>");
}

static void page_table(struct buffer *into, const json_t *rows, const struct column *columns)
{
    if (json_array_size(rows) == 0) {
        buffer_add_text(into, "<p class=fine>None.</p>");
        return;
    }
    buffer_add_text(into, "<div class=wide><table><tr>");
    for (const struct column *column = columns; column->head; column++)
        buffer_print(into, "<th>%s</th>", column->head);
    buffer_add_text(into, "</tr>");
    for (size_t i = 0; i < json_array_size(rows) && i < GROUPS_SHOWN; i++) {
        buffer_add_text(into, "<tr>");
        for (const struct column *column = columns; column->head; column++)
            page_cell(into, json_array_get(rows, i), column);
        buffer_add_text(into, "</tr>");
    }
    buffer_add_text(into, "</table></div>");
    if (json_array_size(rows) > GROUPS_SHOWN)
        buffer_print(into, "<p class=dim>and %zu more</p>", json_array_size(rows) - GROUPS_SHOWN);
}

/* ------------------------------------------------------------------ incidents */

static void print_incident(struct buffer *into, const json_t *incident)
{
    const json_t *explained = json_object_get(incident, "explained"),
                 *run = json_object_get(incident, "run");

    buffer_add_text(into, "<div class=incident><b>");
    html_escape(into, word(incident, "state"));
    buffer_add_text(into, strcmp(word(incident, "direction"), "out") == 0 ? ": sending, "
                                                                          : ": receiving, ");
    html_escape(into, word(incident, "cause"));
    buffer_add_text(into, "</b> at ");
    html_escape(into, word(incident, "subject"));
    buffer_print(into, " <span class=dim>side: %s; since ", word(incident, "side"));
    add_time(into, word(incident, "first"));
    buffer_print(into, "; failures: %lld; waiting: %lld</span><div class=said>",
                 number(incident, "failures"), number(incident, "waiting"));
    html_escape(into, word(incident, "text"));
    buffer_add_text(into, "</div><div>");
    add_advice(into, word(explained, "meaning"));
    buffer_add_text(into, " ");
    add_advice(into, word(explained, "advice"));
    buffer_add_text(into, "</div><ul class=run>");
    for (size_t i = 0; i < json_array_size(run); i++) {
        buffer_add_text(into, "<li><code>");
        html_escape(into, word(json_array_get(run, i), "command"));
        buffer_add_text(into, "</code> ");
        html_escape(into, word(json_array_get(run, i), "purpose"));
    }
    buffer_add_text(into, "</ul></div>");
}

static void print_incidents(struct buffer *into, const struct diagnose_place *place)
{
    const struct incident_query query = {.choice = INCIDENTS_OPEN};
    json_t *incidents = NULL;
    char why[256] = "";

    buffer_add_text(into, "<h2>Incidents</h2>");
    if (!diagnose_incidents(place, query, &incidents, why, sizeof why)) {
        html_escape(into, why);
        return;
    }
    if (json_array_size(incidents) == 0)
        buffer_add_text(into, "<p class=fine>None.</p>");
    for (size_t i = 0; i < json_array_size(incidents) && i < GROUPS_SHOWN; i++)
        print_incident(into, json_array_get(incidents, i));
    json_decref(incidents);
}

/* ------------------------------------------------------------------ the queue, grouped */

static void print_groups(struct buffer *into, const struct diagnose_place *place,
                         enum diagnose_grouping grouping, const char *head)
{
    static const struct column columns[] = {{"name", "name", SHOW_PLAIN},
                                            {"recipients", "recipients", SHOW_PLAIN},
                                            {"size", "bytes", SHOW_SIZE},
                                            {"oldest since", "oldest", SHOW_TIME},
                                            {0}};
    const struct spool_view_filter filter = {.most = ROWS_COUNTED};
    char why[DIAGNOSE_WHY_ROOM] = "";
    json_t *rows = NULL;

    buffer_print(into, "<h2>%s</h2>", head);
    if (diagnose_queue(place, &filter, grouping, &rows, why))
        page_table(into, rows, columns);
    else
        html_escape(into, why);
    json_decref(rows);
}

/* ------------------------------------------------------------------ the chart */

struct series {
    const char *name;
    size_t offset;
    bool is_level; /* a count as it stands, not one that grows */
};

static const struct series SERIES[] = {
    {"accepted /s", offsetof(struct console_sample, accepted), false},
    {"deferred to clients /s", offsetof(struct console_sample, deferred_in), false},
    {"delivered /s", offsetof(struct console_sample, delivered), false},
    {"deliveries deferred /s", offsetof(struct console_sample, deferred_out), false},
};

static double value_at(const struct console_sample *rows, unsigned i, const struct series *series)
{
    int64_t now = 0, before = 0;

    memcpy(&now, (const uint8_t *)&rows[i] + series->offset, sizeof now);
    if (series->is_level)
        return (double)now;
    memcpy(&before, (const uint8_t *)&rows[i - 1] + series->offset, sizeof before);
    return (double)(now - before) / CONSOLE_SAMPLE_S;
}

static double highest(const struct console_sample *rows, unsigned count)
{
    double most = 1;

    for (unsigned s = 0; s < COUNT_OF(SERIES); s++)
        for (unsigned i = 1; i < count; i++)
            most = MAX_OF(most, value_at(rows, i, &SERIES[s]));
    return most;
}

static void print_chart(struct buffer *into, struct console *console)
{
    struct console_sample *rows = calloc(CONSOLE_SAMPLES_MAX, sizeof *rows);
    const unsigned count = rows ? console_samples_copy(console, rows) : 0;
    const double most = highest(rows, count);

    buffer_print(into,
                 "<h2>The last hour</h2><svg viewBox=\"0 0 %d %d\" role=img "
                 "aria-label=\"rates of the last hour\">",
                 CHART_WIDTH, CHART_HEIGHT + CHART_FOOT);
    for (unsigned s = 0; s < COUNT_OF(SERIES) && count > 1; s++) {
        buffer_print(into, "<polyline class=s%u points=\"", s);
        for (unsigned i = 1; i < count; i++)
            buffer_print(into, "%.1f,%.1f ",
                         CHART_WIDTH - (double)(count - 1 - i) * CHART_WIDTH / CONSOLE_SAMPLES_MAX,
                         (CHART_HEIGHT - 4) -
                             value_at(rows, i, &SERIES[s]) / most * (CHART_HEIGHT - 20));
        buffer_add_text(into, "\"/>");
    }
    buffer_print(into,
                 "<text x=4 y=4 dominant-baseline=hanging>%.1f /s</text><text x=4 y=%d>1 h "
                 "ago%s</text><text x=%d y=%d text-anchor=end>now</text></svg><p>",
                 most, CHART_HEIGHT + CHART_FOOT - 4,
                 count > 1 ? "" : "; the first rates come in a minute", CHART_WIDTH - 4,
                 CHART_HEIGHT + CHART_FOOT - 4);
    for (unsigned s = 0; s < COUNT_OF(SERIES); s++)
        buffer_print(into, "<span class=key><span class=s%u>&#9632;</span> %s</span>", s,
                     SERIES[s].name);
    buffer_add_text(into, "</p>");
    free(rows);
}

/* ------------------------------------------------------------------ the whole */

static void print_tile(struct buffer *into, long long count, const char *what)
{
    buffer_print(into, "<div class=tile><b>%lld</b>%s</div>", count, what);
}

static void print_summary(struct buffer *into, const json_t *status)
{
    const json_t *queue = json_object_get(status, "queue"),
                 *ledger = json_object_get(status, "ledger"),
                 *spool = json_object_get(status, "spool");
    char uptime[64];

    buffer_add_text(into, "<title>");
    html_escape(into, word(status, "hostname"));
    buffer_add_text(into, " - Holdfast</title><h1>");
    html_escape(into, word(status, "hostname"));
    buffer_add_text(into, "</h1><div class=tiles>");
    print_tile(into, number(queue, "messages"), "in the queue");
    print_tile(into, number(queue, "deferred"), "of them deferred");
    print_tile(into, number(queue, "held"), "held");
    print_tile(into, number(queue, "in_delivery"), "in delivery");
    print_tile(into, number(ledger, "still_out"), "asked to come back, still out");
    print_tile(into, number(ledger, "overdue"), "of them overdue");
    print_tile(into, number(status, "sessions"), "sessions in");
    print_tile(into, number(json_object_get(status, "totals"), "sessions_out"), "sessions out");
    buffer_print(
        into, "</div><p class=dim>up %s; oldest message since ",
        duration_print((uint64_t)number(status, "uptime_s") * US_PER_S, uptime, sizeof uptime));
    add_time(into, word(queue, "oldest"));
    buffer_add_text(into, "</p>");
    if (json_is_true(json_object_get(spool, "read_only")) || *word(spool, "fault")) {
        buffer_add_text(into, "<p class=bad>spool: ");
        buffer_add_text(into,
                        json_is_true(json_object_get(spool, "read_only")) ? "READ-ONLY " : "");
        html_escape(into, word(spool, "fault"));
        buffer_add_text(into, "</p>");
    }
}

static void print_breakers(struct buffer *into, const json_t *rows)
{
    buffer_add_text(into, "<h2>Dependencies</h2><div class=wide><table>");
    for (size_t i = 0; i < json_array_size(rows); i++) {
        const json_t *row = json_array_get(rows, i);
        const bool open = json_is_true(json_object_get(row, "open"));
        buffer_add_text(into, "<tr><td>");
        html_escape(into, word(row, "dependency"));
        buffer_print(into, "<td class=%s>%s<td>", open ? "bad" : "fine", open ? "DOWN" : "up");
        if (number(row, "failures") > 0) {
            buffer_print(into, "failures: %lld; the last ", number(row, "failures"));
            add_time(into, word(row, "last_failure"));
            buffer_add_text(into, ", last probe ");
            add_time(into, word(row, "last_probe"));
            buffer_add_text(into, "<div class=said>");
            html_escape(into, word(row, "text"));
            buffer_add_text(into, "</div>");
        }
    }
    buffer_add_text(into, "</table></div>");
}

void console_page_print(struct buffer *into, struct console *console, const json_t *status)
{
    static const struct column destinations[] = {{"destination", "destination", SHOW_PLAIN},
                                                 {"waiting", "waiting", SHOW_PLAIN},
                                                 {"active", "active", SHOW_PLAIN},
                                                 {"limit", "limit", SHOW_PLAIN},
                                                 {"backing off", "backing_off", SHOW_PLAIN},
                                                 {"next try", "next", SHOW_TIME},
                                                 {"cause", "cause", SHOW_PLAIN},
                                                 {0}};
    const struct diagnose_place place = {.spool_directory = console->directory,
                                         .history_directory = console->history,
                                         .now_wall_us = clock_wall_us()};

    buffer_add_text(into, HEAD);
    print_summary(into, status);
    print_incidents(into, &place);
    print_chart(into, console);
    print_breakers(into, json_object_get(status, "breakers"));
    print_groups(into, &place, DIAGNOSE_BY_CAUSE, "Queue by cause");
    print_groups(into, &place, DIAGNOSE_BY_DESTINATION, "Queue by destination");
    buffer_add_text(into, "<h2>Deliveries under way</h2>");
    page_table(into, json_object_get(status, "destinations"), destinations);
    buffer_add_text(into,
                    "<p><a href=/metrics>metrics</a> &middot; <a href=/health>health</a></p>");
}
