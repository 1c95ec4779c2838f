/*
 * The page: what is wrong, who waits and why, what depends on what, and the last hour as a chart.
 * It works without scripts and loads itself anew; every foreign word is escaped.
 */
#include "console/console_private.h"

#include <string.h>

#include "diagnose/diagnose.h"

enum { CHART_WIDTH = 720, CHART_HEIGHT = 120, GROUPS_SHOWN = 30, ROWS_COUNTED = 20000 };

static const char HEAD[] =
    "<!doctype html><html lang=en><meta charset=utf-8><meta http-equiv=refresh content=5>"
    "<meta name=viewport content=\"width=device-width\"><title>Holdfast</title><style>"
    "body{font:14px/1.4 system-ui,sans-serif;margin:1.5em;max-width:1100px;color:#222}"
    "h1{font-size:1.3em}h2{font-size:1.05em;margin:1.4em 0 .4em}"
    "table{border-collapse:collapse}td,th{border-bottom:1px solid #ddd;padding:.25em .7em;"
    "text-align:left;vertical-align:top}th{color:#666;font-weight:normal}"
    ".bad{color:#b00020;font-weight:bold}.fine{color:#1b6e2d}.incident{border-left:4px solid "
    "#b00020;padding:.2em .8em;margin:.6em 0}code{background:#f3f3f3;padding:0 .3em}"
    "svg{background:#fafafa;border:1px solid #ddd}.key{margin-right:1.2em}</style>";

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

static void page_cell(struct buffer *into, const json_t *row, const char *member)
{
    const json_t *value = json_object_get(row, member);

    buffer_add_text(into, "<td>");
    if (json_is_string(value))
        html_escape(into, json_string_value(value));
    else if (json_is_integer(value))
        buffer_print(into, "%lld", (long long)json_integer_value(value));
    else if (json_is_boolean(value))
        buffer_add_text(into, json_is_true(value) ? "yes" : "no");
    buffer_add_text(into, "</td>");
}

static void page_table(struct buffer *into, const json_t *rows, const char *const *members)
{
    buffer_add_text(into, "<table><tr>");
    for (const char *const *member = members; *member; member++)
        buffer_print(into, "<th>%s</th>", *member);
    buffer_add_text(into, "</tr>");
    for (size_t i = 0; i < json_array_size(rows) && i < GROUPS_SHOWN; i++) {
        buffer_add_text(into, "<tr>");
        for (const char *const *member = members; *member; member++)
            page_cell(into, json_array_get(rows, i), *member);
        buffer_add_text(into, "</tr>");
    }
    buffer_add_text(into, "</table>");
    if (json_array_size(rows) > GROUPS_SHOWN)
        buffer_print(into, "<p>and %zu more</p>", json_array_size(rows) - GROUPS_SHOWN);
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
    buffer_print(into, " (side: %s), since %.16s UTC, %lld failures, %lld waiting<br>",
                 word(incident, "side"), word(incident, "first"), number(incident, "failures"),
                 number(incident, "waiting"));
    html_escape(into, word(incident, "text"));
    buffer_add_text(into, "<br>");
    html_escape(into, word(explained, "meaning"));
    buffer_add_text(into, " ");
    html_escape(into, word(explained, "advice"));
    for (size_t i = 0; i < json_array_size(run); i++) {
        buffer_add_text(into, "<br><code>");
        html_escape(into, word(json_array_get(run, i), "command"));
        buffer_add_text(into, "</code> ");
        html_escape(into, word(json_array_get(run, i), "purpose"));
    }
    buffer_add_text(into, "</div>");
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
    static const char *const columns[] = {"name", "recipients", "bytes", "oldest", NULL};
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
    const char *name, *colour;
    size_t offset;
    bool is_level; /* a count as it stands, not one that grows */
};

static const struct series SERIES[] = {
    {"accepted /s", "#1b6e2d", offsetof(struct console_sample, accepted), false},
    {"deferred to clients /s", "#b00020", offsetof(struct console_sample, deferred_in), false},
    {"delivered /s", "#1f5fbf", offsetof(struct console_sample, delivered), false},
    {"deliveries deferred /s", "#d08000", offsetof(struct console_sample, deferred_out), false},
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
                 "<h2>The last hour</h2><svg width=%d height=%d viewBox=\"0 0 %d %d\" role=img "
                 "aria-label=\"rates of the last hour\">",
                 CHART_WIDTH, CHART_HEIGHT, CHART_WIDTH, CHART_HEIGHT);
    for (unsigned s = 0; s < COUNT_OF(SERIES) && count > 1; s++) {
        buffer_print(into, "<polyline fill=none stroke=\"%s\" stroke-width=1.5 points=\"",
                     SERIES[s].colour);
        for (unsigned i = 1; i < count; i++)
            buffer_print(into, "%.1f,%.1f ",
                         CHART_WIDTH - (double)(count - 1 - i) * CHART_WIDTH / CONSOLE_SAMPLES_MAX,
                         (CHART_HEIGHT - 4) -
                             value_at(rows, i, &SERIES[s]) / most * (CHART_HEIGHT - 20));
        buffer_add_text(into, "\"/>");
    }
    buffer_print(into, "<text x=4 y=12 font-size=11 fill=\"#666\">%.1f /s</text></svg><p>", most);
    for (unsigned s = 0; s < COUNT_OF(SERIES); s++)
        buffer_print(into, "<span class=key><span style=\"color:%s\">&#9632;</span> %s%s</span>",
                     SERIES[s].colour, SERIES[s].name, "");
    buffer_add_text(into, "</p>");
    free(rows);
}

/* ------------------------------------------------------------------ the whole */

static void print_summary(struct buffer *into, const json_t *status)
{
    const json_t *queue = json_object_get(status, "queue"),
                 *ledger = json_object_get(status, "ledger"),
                 *spool = json_object_get(status, "spool");
    char uptime[64];

    buffer_add_text(into, "<h1>");
    html_escape(into, word(status, "hostname"));
    buffer_print(
        into,
        "</h1><p>up %s; %lld sessions in, %lld out; queue: %lld messages, %lld "
        "ready, %lld deferred, %lld held, %lld in delivery, oldest %.19s; deferred "
        "to clients: %lld still out, %lld overdue</p>",
        duration_print((uint64_t)number(status, "uptime_s") * US_PER_S, uptime, sizeof uptime),
        number(status, "sessions"), number(json_object_get(status, "totals"), "sessions_out"),
        number(queue, "messages"), number(queue, "ready"), number(queue, "deferred"),
        number(queue, "held"), number(queue, "in_delivery"),
        *word(queue, "oldest") ? word(queue, "oldest") : "-", number(ledger, "still_out"),
        number(ledger, "overdue"));
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
    buffer_add_text(into, "<h2>Dependencies</h2><table>");
    for (size_t i = 0; i < json_array_size(rows); i++) {
        const json_t *row = json_array_get(rows, i);
        const bool open = json_is_true(json_object_get(row, "open"));
        buffer_add_text(into, "<tr><td>");
        html_escape(into, word(row, "dependency"));
        buffer_print(into, "<td class=%s>%s<td>", open ? "bad" : "fine", open ? "DOWN" : "up");
        if (number(row, "failures") > 0) {
            buffer_print(into,
                         "%lld failures, last %.19s, last probe %.19s: ", number(row, "failures"),
                         word(row, "last_failure"), word(row, "last_probe"));
            html_escape(into, word(row, "text"));
        }
    }
    buffer_add_text(into, "</table>");
}

void console_page_print(struct buffer *into, struct console *console, const json_t *status)
{
    static const char *const destinations[] = {"destination", "waiting", "active", "limit",
                                               "backing_off", "next",    "cause",  NULL};
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
    buffer_add_text(into, "<p><a href=/metrics>metrics</a> <a href=/health>health</a></p>");
}
