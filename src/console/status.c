/*
 * The answers to `status` and `health`, from memory. Runs on the console's loop; nothing here
 * sleeps.
 */
#include "console/console_private.h"

#include <string.h>

enum { MOST_DESTINATIONS = 100, MOST_BREAKERS = 64 };

static json_t *time_or_null(int64_t wall_us)
{
    char text[TIME_TEXT_MAX];

    return wall_us == 0 ? json_null() : json_string(time_print_rfc3339(wall_us, text, sizeof text));
}

static json_t *queue_json(const struct spool_counts *counts)
{
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:o}", "messages", (json_int_t)counts->messages,
                     "ready", (json_int_t)counts->ready, "deferred", (json_int_t)counts->deferred,
                     "held", (json_int_t)counts->held, "in_delivery", (json_int_t)counts->leased,
                     "oldest", time_or_null(counts->oldest_wall_us));
}

static json_t *breakers_json(struct console *console)
{
    struct breaker_row rows[MOST_BREAKERS];
    const unsigned count = policy_breakers(console->settings.policy, rows, MOST_BREAKERS);
    json_t *list = json_array();

    for (unsigned i = 0; i < count; i++)
        json_array_append_new(
            list, json_pack("{s:s, s:b, s:i, s:o, s:o, s:s}", "dependency", rows[i].dependency,
                            "open", rows[i].open, "failures", (int)rows[i].failures, "last_failure",
                            time_or_null(rows[i].last_failure_wall_us), "last_probe",
                            time_or_null(rows[i].last_probe_wall_us), "text", rows[i].words));
    return list;
}

static json_t *destinations_json(struct console *console)
{
    struct destination_row *rows = calloc(MOST_DESTINATIONS, sizeof *rows);
    json_t *list = json_array();

    if (!rows)
        return list;
    const unsigned count =
        schedule_destinations(console->settings.schedule, rows, MOST_DESTINATIONS);
    for (unsigned i = 0; i < count; i++)
        json_array_append_new(
            list,
            json_pack("{s:s, s:i, s:i, s:i, s:b, s:b, s:o, s:s}", "destination", rows[i].key,
                      "waiting", (int)rows[i].waiting, "active", (int)rows[i].active, "limit",
                      (int)rows[i].limit, "suspended", rows[i].suspended, "backing_off",
                      rows[i].backing_off, "next", time_or_null(rows[i].next_wall_us), "cause",
                      rows[i].last_cause == CAUSE_UNDECIDED ? "" : cause_name(rows[i].last_cause)));
    free(rows);
    return list;
}

/* What happened since the start, for rates: `top` and the page take the differences. */
static json_t *totals_json(void)
{
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "accepted",
                     (json_int_t)metric_get(COUNTER_ACCEPTED), "deferrals",
                     (json_int_t)metric_total(METRIC_DEFERRALS), "refusals",
                     (json_int_t)metric_total(METRIC_REFUSALS), "delivered",
                     (json_int_t)metric_total(METRIC_DELIVERED), "delivery_deferrals",
                     (json_int_t)metric_total(METRIC_DELIVERY_DEFERRALS), "delivery_failures",
                     (json_int_t)metric_total(METRIC_DELIVERY_FAILURES), "sessions_out",
                     (json_int_t)metric_get(COUNTER_SESSIONS_OUT));
}

static json_t *ledger_json(void)
{
    return json_pack("{s:I, s:I, s:I}", "still_out", (json_int_t)metric_get(COUNTER_LEDGER_OUT),
                     "came_back", (json_int_t)metric_get(COUNTER_LEDGER_BACK), "overdue",
                     (json_int_t)metric_get(COUNTER_LEDGER_OVERDUE));
}

static json_t *incidents_json(void)
{
    return json_pack("{s:I, s:I, s:I, s:I}", "open", (json_int_t)metric_get(COUNTER_INCIDENTS_OPEN),
                     "notice", (json_int_t)metric_get(COUNTER_INCIDENTS_NOTICE), "sustained",
                     (json_int_t)metric_get(COUNTER_INCIDENTS_SUSTAINED), "escalated",
                     (json_int_t)metric_get(COUNTER_INCIDENTS_ESCALATED));
}

static json_t *incident_rows_json(struct console *console)
{
    struct incident_brief *rows = calloc(INCIDENT_BRIEFS_MAX, sizeof *rows);
    const unsigned count = rows ? history_incidents(console->settings.history, rows) : 0;
    json_t *list = json_array();
    char id[ID_TEXT_MAX];

    for (unsigned i = 0; i < count; i++)
        json_array_append_new(
            list,
            json_pack("{s:s, s:s, s:s, s:s, s:s, s:s*, s:o, s:o, s:I, s:I, s:s*}", "id",
                      id_print(rows[i].id, id, sizeof id), "direction",
                      rows[i].direction == INCIDENT_OUT ? "out" : "in", "state",
                      incident_state_name(rows[i].state), "cause", cause_name(rows[i].cause),
                      "side", side_name(cause_row(rows[i].cause)->side), "subject", rows[i].subject,
                      "first", time_or_null(rows[i].first_wall_us), "last",
                      time_or_null(rows[i].last_wall_us), "waiting", (json_int_t)rows[i].waiting,
                      "failures", (json_int_t)rows[i].count, "text", rows[i].text));
    free(rows);
    return list;
}

static void add_limits(json_t *status, const struct console_settings *settings)
{
    const uint32_t configured = (uint32_t)settings->config->limits.connections;
    const uint32_t possible = settings->sessions_by_descriptors;
    const bool fewer = possible > 0 && possible < configured;
    const int64_t end_wall_us = settings->certificate_end_wall_us;
    const struct verdict admits = spool_admits(settings->spool, 0);

    if (!verdict_accepts(&admits))
        json_object_set_new(json_object_get(status, "spool"), "cause",
                            json_string(cause_name(admits.cause)));
    json_object_set_new(status, "sessions_most", json_integer(fewer ? possible : configured));
    json_object_set_new(status, "sessions_by_descriptors", json_boolean(fewer));
    if (end_wall_us != 0)
        json_object_set_new(
            status, end_wall_us < clock_wall_us() ? "certificate_expired" : "certificate_ends",
            time_or_null(end_wall_us));
    json_object_set_new(status, "time", time_or_null(clock_wall_us()));
}

json_t *console_status(struct console *console)
{
    const struct console_settings *settings = &console->settings;
    struct spool_counts counts = {0};

    spool_counts(settings->spool, &counts);
    json_t *status = json_pack(
        "{s:s, s:s, s:o, s:I, s:i, s:o, s:{s:s, s:b, s:s, s:I}, s:o, s:o, s:o, s:o, s:o, s:o}",
        "hostname", settings->config->hostname, "locks", settings->locks ? settings->locks : "none",
        "started", time_or_null(settings->started_wall_us), "uptime_s",
        (json_int_t)((clock_wall_us() - settings->started_wall_us) / 1000000), "sessions",
        (int)settings->session_count(settings->session_argument), "queue", queue_json(&counts),
        "spool", "directory", console->directory, "read_only", counts.read_only, "fault",
        counts.fault, "bytes", (json_int_t)counts.bytes_live, "breakers", breakers_json(console),
        "destinations", destinations_json(console), "totals", totals_json(), "ledger",
        ledger_json(), "incidents", incidents_json(), "incident_rows", incident_rows_json(console));
    add_limits(status, settings);
    return status;
}

/* Healthy means: a new message would be taken now. Each reason against it is a cause with its
 * words. */
json_t *console_health(struct console *console)
{
    struct breaker_row rows[MOST_BREAKERS];
    const unsigned count = policy_breakers(console->settings.policy, rows, MOST_BREAKERS);
    const struct verdict admits = spool_admits(console->settings.spool, 0);
    json_t *reasons = json_array();

    if (!verdict_accepts(&admits))
        json_array_append_new(reasons, json_pack("{s:s, s:s}", "cause", cause_name(admits.cause),
                                                 "text", cause_row(admits.cause)->meaning));
    for (unsigned i = 0; i < count; i++)
        if (rows[i].open)
            json_array_append_new(reasons, json_pack("{s:s, s:s, s:s}", "cause", "breaker.open",
                                                     "dependency", rows[i].dependency, "text",
                                                     rows[i].words));
    return json_pack("{s:b, s:o}", "healthy", json_array_size(reasons) == 0, "reasons", reasons);
}

/* A domain as the queue knows it: lower case. A destination's key stays. */
static const char *domain_of(const json_t *request, char *into, size_t room)
{
    const char *given = json_string_value(json_object_get(request, "dest"));
    const bool is_domain = given && (*given == '[' || !strchr(given, ':'));

    if (!given)
        return NULL;
    snprintf(into, room, "%s", given);
    for (char *at = into; is_domain && *at; at++)
        *at = (char)ascii_lower((uint8_t)*at);
    return into;
}

/* Who says so is whoever may open the socket; it is for the record, in one line. */
static const char *who_of(const json_t *request, char *into, size_t room)
{
    const char *given = json_string_value(json_object_get(request, "who"));

    snprintf(into, room, "%s", given && *given ? given : "control socket");
    for (char *at = into; *at; at++)
        if ((unsigned char)*at < ' ' || *at == 0x7f)
            *at = '?';
    return into;
}

/* NULL: sound. */
static const char *act_objection(const struct schedule_request *order)
{
    const bool by_destination = order->action == ACTION_SUSPEND || order->action == ACTION_RESUME;
    enum cause known;
    struct config_deliver via;

    if (order->cause && !cause_parse(bytes_of_text(order->cause), &known))
        return "no such cause";
    if (by_destination &&
        (!order->destination_domain || order->id || order->cause || order->sender || order->all))
        return "name a destination, and nothing else";
    if (!order->id && !order->destination_domain && !order->cause && !order->sender && !order->all)
        return "name a message, a destination, a cause, a sender, or all";
    if (order->via && !config_parse_next_hop(bytes_of_text(order->via), &via))
        return "via is not smtp:HOST:PORT, lmtp:HOST:PORT or lmtp:unix:PATH";
    return NULL;
}

static json_t *act_answer(struct lookup done, uint64_t touched)
{
    const struct bytes words =
        done.detail.count ? done.detail : BYTES_LITERAL("the spool could not record it");

    if (done.status == LOOKUP_FAILED)
        return json_pack("{s:s%, s:I}", "error", (const char *)words.at, words.count, "touched",
                         (json_int_t)touched);
    return json_pack("{s:b, s:I}", "found", done.status == LOOKUP_FOUND, "touched",
                     (json_int_t)touched);
}

json_t *console_act(struct console *console, enum schedule_action action, const json_t *request)
{
    const char *id = json_string_value(json_object_get(request, "id"));
    const char *via = json_string_value(json_object_get(request, "via"));
    char domain[320], who[96];
    const struct schedule_request asked = {
        .action = action,
        .destination_domain = domain_of(request, domain, sizeof domain),
        .cause = json_string_value(json_object_get(request, "cause")),
        .sender = json_string_value(json_object_get(request, "sender")),
        .via = via && strcmp(via, "none") != 0 ? via : NULL,
        .all = json_is_true(json_object_get(request, "all")),
        .who = who_of(request, who, sizeof who),
    };
    struct schedule_request order = asked;
    uint64_t touched = 0;

    if (id && (!id_parse(bytes_of_text(id), &order.id) || order.id == 0))
        return json_pack("{s:s}", "error", "not a message id");
    if (action == ACTION_REROUTE && !via)
        return json_pack("{s:s}", "error", "say by which next hop: via, or via none");
    const char *objection = act_objection(&order);
    if (objection)
        return json_pack("{s:s}", "error", objection);
    const struct lookup done = schedule_act(console->settings.schedule, &order, &touched);
    return act_answer(done, touched);
}
