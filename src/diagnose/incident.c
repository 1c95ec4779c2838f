/*
 * Incidents as JSON and as text: what fails for one reason, whose fault it is, who waits, what to
 * run. Facts of the history; meaning and advice of the catalogue, or of the reply as it came.
 */
#include "diagnose/report.h"

#include <string.h>

/* "mx:example.org" -> "example.org"; "" for what has no domain of the other side. */
const char *diagnose_domain_of(const char *subject, bool out)
{
    if (!out)
        return strchr(subject, '.') && !strchr(subject, '/') ? subject : "";
    return strncmp(subject, "mx:", 3) == 0 ? subject + 3 : "";
}

/* What the other side's reply means; of our own side what the catalogue says. */
json_t *diagnose_explained(const char *cause_name_, const char *reply, const char *stage)
{
    enum cause cause = CAUSE_UNDECIDED;
    const bool known = cause_parse(bytes_of_text(cause_name_), &cause);
    const struct explain_question question = {.reply = bytes_of_text(reply),
                                              .stage = bytes_of_text(stage)};
    struct explanation explanation;

    if (known && cause != CAUSE_REMOTE_DEFERRED && cause != CAUSE_REMOTE_REFUSED)
        return diagnose_cause(cause);
    if (!*reply)
        return known ? diagnose_cause(cause) : json_object();
    explain_reply(&question, &explanation);
    return explain_json(&explanation, BYTES_EMPTY);
}

static json_t *told_json(const struct incident_row *row)
{
    return json_pack(
        "{s:s, s:s}", "mail",
        row->told[INCIDENT_BY_MAIL] ? incident_state_name(row->told[INCIDENT_BY_MAIL]) : "",
        "command",
        row->told[INCIDENT_BY_COMMAND] ? incident_state_name(row->told[INCIDENT_BY_COMMAND]) : "");
}

static json_t *incident_steps(const struct diagnose_place *place, const struct incident_row *row,
                              const char *subject, const char *id)
{
    const bool out = row->direction == INCIDENT_OUT;
    char cause[64];
    const char *domain = diagnose_domain_of(subject, out);
    uint64_t messages[INCIDENT_MESSAGES_MAX];
    unsigned count = 0;
    char message[ID_TEXT_MAX] = "", recipient[512];

    snprintf(recipient, sizeof recipient, "%.*s", BYTES_PRINT(row->to));
    snprintf(cause, sizeof cause, "%.*s", BYTES_PRINT(row->cause));
    if (incident_messages(place->history_directory, row->id, messages, &count) && count > 0)
        id_print(messages[count - 1], message, sizeof message);
    const struct step_facts facts = {.cause = cause,
                                     .out = out,
                                     .subject = subject,
                                     .domain = domain,
                                     .queued = domain,
                                     .recipient = recipient,
                                     .id = message,
                                     .incident = out ? id : "",
                                     .spool = place->spool_directory};
    return diagnose_steps(&facts);
}

/* When the letter to the other side was drafted, if it was since this began. */
static void add_draft(const struct diagnose_place *place, const struct incident_row *row,
                      const char *subject, json_t *incident)
{
    char site[256];
    int64_t wall_us = 0;

    if (row->direction == INCIDENT_OUT &&
        report_drafted(place->spool_directory, report_site(subject, site, sizeof site), &wall_us) &&
        wall_us >= row->first_wall_us)
        json_object_set_new(incident, "report_drafted", diagnose_time(wall_us));
}

json_t *diagnose_incident_json(const struct diagnose_place *place, const struct incident_row *row)
{
    char id[ID_TEXT_MAX], subject[512], text[1024], cause[64];

    id_print(row->id, id, sizeof id);
    snprintf(subject, sizeof subject, "%.*s", BYTES_PRINT(row->subject));
    snprintf(text, sizeof text, "%.*s", BYTES_PRINT(row->text));
    snprintf(cause, sizeof cause, "%.*s", BYTES_PRINT(row->cause));
    json_t *incident = json_pack(
        "{s:s, s:s, s:s, s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:I, s:I, s:I}", "id", id,
        "direction", row->direction == INCIDENT_OUT ? "out" : "in", "state",
        incident_state_name(row->state), "mark", incident_state_name(row->mark), "cause",
        diagnose_text(row->cause), "side", diagnose_text(row->side), "subject",
        diagnose_text(row->subject), "first", diagnose_time(row->first_wall_us), "last",
        diagnose_time(row->last_wall_us), "over", diagnose_time(row->over_wall_us), "last_success",
        diagnose_time(row->good_wall_us), "failures", (json_int_t)row->count, "successes_since",
        (json_int_t)row->good, "waiting", (json_int_t)row->waiting);
    if (!incident)
        return NULL;
    json_object_set_new(incident, "age_s",
                        json_integer(((row->over_wall_us ? row->over_wall_us : place->now_wall_us) -
                                      row->first_wall_us) /
                                     1000000));
    json_object_set_new(incident, "text", diagnose_text(row->text));
    json_object_set_new(incident, row->direction == INCIDENT_OUT ? "host" : "client",
                        diagnose_text(row->host));
    json_object_set_new(incident, "from", diagnose_text(row->from));
    json_object_set_new(incident, "to", diagnose_text(row->to));
    json_object_set_new(incident, "explained", diagnose_explained(cause, text, ""));
    json_object_set_new(incident, "told", told_json(row));
    add_draft(place, row, subject, incident);
    json_object_set_new(incident, "run", incident_steps(place, row, subject, id));
    return incident;
}

struct incident_list {
    const struct diagnose_place *place;
    json_t *list;
};

static bool list_add(void *argument, const struct incident_row *row)
{
    const struct incident_list *list = argument;

    json_array_append_new(list->list, diagnose_incident_json(list->place, row));
    return json_array_size(list->list) < DIAGNOSE_EVENTS_MAX;
}

bool diagnose_incidents(const struct diagnose_place *place, struct incident_query query,
                        json_t **incidents, char *why, size_t why_room)
{
    struct incident_list list = {.place = place, .list = json_array()};

    *incidents = NULL;
    if (!incident_view(place->history_directory, query, list_add, &list, why, why_room)) {
        json_decref(list.list);
        return false;
    }
    *incidents = list.list;
    return true;
}

/* ------------------------------------------------------------------ text */

static void add_upper(struct buffer *into, const char *word)
{
    for (; *word; word++)
        buffer_add_byte(into, (uint8_t)(*word >= 'a' && *word <= 'z' ? *word - 'a' + 'A' : *word));
}

/* Nobody waits because of a state of the host. */
static bool is_of_the_host(const char *name)
{
    enum cause cause = CAUSE_UNDECIDED;

    return cause_parse(bytes_of_text(name), &cause) && cause_row(cause)->happening;
}

static void print_time_line(struct buffer *into, const json_t *incident)
{
    char first[40], last[40], over[40], good[40], age[64];

    diagnose_moment(incident, "first", first, sizeof first);
    diagnose_moment(incident, "last", last, sizeof last);
    diagnose_moment(incident, "over", over, sizeof over);
    diagnose_moment(incident, "last_success", good, sizeof good);
    duration_print((uint64_t)diagnose_number(incident, "age_s") * US_PER_S, age, sizeof age);
    buffer_print(into, "  since %s (%s), %lld failure(s), the last %s", first, age,
                 (long long)diagnose_number(incident, "failures"), last);
    if (json_is_string(json_object_get(incident, "over")))
        buffer_print(into, ", over %s", over);
    if (is_of_the_host(diagnose_word(incident, "cause"))) {
        buffer_add_text(into, "\n");
        return;
    }
    buffer_print(into, "\n  %lld %s", (long long)diagnose_number(incident, "waiting"),
                 strcmp(diagnose_word(incident, "direction"), "out") == 0
                     ? "recipient(s) wait"
                     : "deferred and not back yet");
    if (diagnose_number(incident, "successes_since") > 0)
        buffer_print(into, "; %lld passed since it began, the last %s",
                     (long long)diagnose_number(incident, "successes_since"), good);
    else if (json_is_string(json_object_get(incident, "last_success")))
        buffer_print(into, "; nothing passed since it began, the last success was %s", good);
    else
        buffer_add_text(into, "; nothing passed since it began");
    buffer_add_text(into, "\n");
}

static void print_draft_line(struct buffer *into, const json_t *incident)
{
    char moment[40];

    if (json_is_string(json_object_get(incident, "report_drafted")))
        buffer_print(into, "  report drafted %s: `holdfast report %s` prints it\n",
                     diagnose_moment(incident, "report_drafted", moment, sizeof moment),
                     diagnose_word(incident, "id"));
}

void diagnose_print_incident(struct buffer *into, const json_t *incident)
{
    const json_t *explained = json_object_get(incident, "explained");
    const bool out = strcmp(diagnose_word(incident, "direction"), "out") == 0;

    buffer_print(into, "%s  ", diagnose_word(incident, "id"));
    add_upper(into, diagnose_word(incident, "state"));
    buffer_print(into, "  %s: %s (side: %s)  %s ", out ? "sending" : "receiving",
                 diagnose_word(incident, "cause"), diagnose_word(incident, "side"),
                 out ? "to" : "at");
    diagnose_add_safe(into, diagnose_word(incident, "subject"), "");
    buffer_add_text(into, "\n");
    print_time_line(into, incident);
    if (*diagnose_word(incident, "text")) {
        buffer_add_text(into, "  said:  ");
        diagnose_add_safe(into, diagnose_word(incident, "text"), "         ");
        const char *host = diagnose_word(incident, out ? "host" : "client");
        buffer_add_text(into, *host ? (out ? "  by " : "  for client ") : "");
        diagnose_add_safe(into, host, "");
        buffer_add_text(into, "\n");
    }
    if (*diagnose_word(explained, "meaning"))
        buffer_print(into, "  means: %s (confidence: %s)\n  do:    %s\n",
                     diagnose_word(explained, "meaning"), diagnose_word(explained, "confidence"),
                     diagnose_word(explained, "advice"));
    print_draft_line(into, incident);
    buffer_add_text(into, "  run:\n");
    diagnose_print_steps(into, json_object_get(incident, "run"), "    ");
}

void diagnose_print_incidents(struct buffer *into, const json_t *incidents)
{
    for (size_t i = 0; i < json_array_size(incidents); i++)
        diagnose_print_incident(into, json_array_get(incidents, i));
    if (json_array_size(incidents) == 0)
        buffer_add_text(into, "No incident.\n");
}
