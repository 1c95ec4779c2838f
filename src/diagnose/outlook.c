/*
 * From a message's recorded facts to its outlook: what the last failure means, who else waits for
 * the same destination, which incident it belongs to, when it is given back, what to run.
 */
#include "diagnose/diagnose_private.h"

#include <string.h>

enum { ROWS_SHOWN = 20 };

/* ------------------------------------------------------------------ the last failure */

static bool is_failure(const json_t *event)
{
    const char *name = diagnose_word(event, "event");

    return strcmp(name, "delivery.deferred") == 0 || strcmp(name, "delivery.failed") == 0 ||
           strcmp(name, "message.deferred") == 0 || strcmp(name, "message.expired") == 0;
}

static bool is_success(const json_t *event)
{
    return strcmp(diagnose_word(event, "event"), "delivery.done") == 0;
}

/* The last failure, unless a success of the same recipient followed it. */
static const json_t *last_failure(const json_t *events)
{
    for (size_t i = json_array_size(events); i > 0; i--) {
        const json_t *event = json_array_get(events, i - 1);
        if (is_failure(event))
            return event;
        if (is_success(event))
            return NULL;
    }
    return NULL;
}

/* ------------------------------------------------------------------ who else waits */

struct neighbours {
    uint64_t id; /* of the message itself; 0: count all */
    const char *cause;
    json_t *by_cause, *rows;
    json_int_t recipients, same_cause;
    int64_t oldest_wall_us;
    uint64_t sample; /* a message that was tried */
};

static bool neighbours_add(void *argument, const struct spool_row *row)
{
    struct neighbours *neighbours = argument;
    const char *cause = row->attempts > 0 ? cause_name(row->cause) : "not tried yet";

    if (row->state != RECIPIENT_WAITING || row->id == neighbours->id)
        return true;
    neighbours->recipients++;
    neighbours->same_cause += strcmp(cause, neighbours->cause) == 0;
    if (neighbours->oldest_wall_us == 0 || row->accepted_wall_us < neighbours->oldest_wall_us)
        neighbours->oldest_wall_us = row->accepted_wall_us;
    if (row->attempts > 0)
        neighbours->sample = row->id;
    if (neighbours->by_cause) {
        const json_int_t count = diagnose_number(neighbours->by_cause, cause);
        json_object_set_new(neighbours->by_cause, cause, json_integer(count + 1));
    }
    if (neighbours->rows && json_array_size(neighbours->rows) < ROWS_SHOWN)
        json_array_append_new(neighbours->rows, diagnose_queue_row(row));
    return true;
}

static void add_others(const struct diagnose_place *place, json_t *story, const char *domain,
                       const char *cause)
{
    struct neighbours neighbours = {.cause = cause};
    const struct spool_view_filter filter = {.domain = domain};
    char why[DIAGNOSE_WHY_ROOM];

    if (!id_parse(bytes_of_text(diagnose_word(story, "id")), &neighbours.id) ||
        !spool_view(place->spool_directory, &filter, neighbours_add, &neighbours, why, sizeof why))
        return;
    json_object_set_new(story, "others",
                        json_pack("{s:s, s:I, s:I, s:o}", "domain", domain, "recipients",
                                  neighbours.recipients, "same_cause", neighbours.same_cause,
                                  "oldest", diagnose_time(neighbours.oldest_wall_us)));
}

/* ------------------------------------------------------------------ incidents */

struct incident_search {
    const struct diagnose_place *place;
    const char *subject;
    bool out;
    json_t *found;
};

static bool incident_match(void *argument, const struct incident_row *row)
{
    const struct incident_search *search = argument;

    if ((row->direction == INCIDENT_OUT) == search->out &&
        bytes_equal_text_nocase(row->subject, search->subject))
        json_array_append_new(search->found, diagnose_incident_json(search->place, row));
    return true;
}

/* Open ones of this destination, or dependency. Gives the id of the first for the commands. */
static const char *add_incidents(const struct diagnose_place *place, json_t *story,
                                 const char *subject, bool out)
{
    struct incident_search search = {
        .place = place, .subject = subject, .out = out, .found = json_array()};
    const struct incident_query query = {.choice = INCIDENTS_OPEN};
    char why[DIAGNOSE_WHY_ROOM];

    if (*subject &&
        !incident_view(place->history_directory, query, incident_match, &search, why, sizeof why))
        json_array_clear(search.found);
    json_object_set_new(story, "incidents", search.found);
    return diagnose_word(json_array_get(search.found, 0), "id");
}

/* ------------------------------------------------------------------ one message */

static const char *domain_of(const char *address)
{
    const char *at = strrchr(address, '@');

    return at ? at + 1 : "";
}

/* What it happened at, as the incident is named. */
static const char *subject_of(const json_t *failure, bool out)
{
    if (out && strncmp(diagnose_word(failure, "cause"), "dns.resolver.", 13) == 0)
        return "resolver";
    return diagnose_word(failure, out ? "destination" : "filter");
}

static void add_steps(const struct diagnose_place *place, json_t *story, const json_t *failure,
                      const char *incident)
{
    const bool out = strncmp(diagnose_word(failure, "event"), "message.deferred", 16) != 0;
    const json_t *recipients = json_object_get(story, "recipients");
    const char *to = diagnose_word(failure, "to");
    const struct step_facts facts = {
        .cause = diagnose_word(failure, "cause"),
        .out = out,
        .subject = subject_of(failure, out),
        .domain = domain_of(out ? to : diagnose_word(failure, "from")),
        .queued = json_array_size(recipients) > 0 ? domain_of(to) : "",
        .id = !out || json_array_size(recipients) > 0 ? diagnose_word(story, "id") : "",
        .recipient = to,
        .incident = incident,
        .spool = place->spool_directory};

    json_object_set_new(story, "run", diagnose_steps(&facts));
}

void diagnose_add_outlook(const struct diagnose_place *place, json_t *story)
{
    const json_t *failure = last_failure(json_object_get(story, "events"));

    if (!failure)
        return;
    const bool out = strcmp(diagnose_word(failure, "event"), "message.deferred") != 0;
    const char *cause = diagnose_word(failure, "cause");
    json_object_set_new(story, "explained",
                        diagnose_explained(cause, out ? diagnose_word(failure, "text") : "",
                                           diagnose_word(failure, "stage")));
    if (out)
        add_others(place, story, domain_of(diagnose_word(failure, "to")), cause);
    const char *incident = add_incidents(place, story, subject_of(failure, out), out);
    add_steps(place, story, failure, incident);
}

/* ------------------------------------------------------------------ one destination */

/* The last failure of a message that waits there, from its own record. */
static json_t *sample_story(const struct diagnose_place *place, uint64_t id)
{
    json_t *story = NULL;
    char why[DIAGNOSE_WHY_ROOM];
    const struct lookup found =
        id ? diagnose_story(place, id, &story, why, sizeof why) : lookup_absent();

    return found.status == LOOKUP_FOUND ? story : NULL;
}

static void adopt(json_t *story, const json_t *sample, const char *member)
{
    json_t *value = json_object_get(sample, member);

    if (value)
        json_object_set(story, member, value);
}

bool diagnose_destination(const struct diagnose_place *place, const char *domain, json_t **story,
                          char *why, size_t why_room)
{
    struct neighbours all = {.cause = "", .by_cause = json_object(), .rows = json_array()};
    const struct spool_view_filter filter = {.domain = domain};

    *story = NULL;
    if (!spool_view(place->spool_directory, &filter, neighbours_add, &all, why, why_room)) {
        json_decref(all.by_cause);
        json_decref(all.rows);
        return false;
    }
    *story = json_pack("{s:s, s:I, s:o, s:o, s:o}", "domain", domain, "waiting", all.recipients,
                       "oldest", diagnose_time(all.oldest_wall_us), "by_cause", all.by_cause,
                       "recipients", all.rows);
    json_t *sample = sample_story(place, all.sample);
    adopt(*story, sample, "explained");
    adopt(*story, sample, "incidents");
    adopt(*story, sample, "run");
    json_decref(sample);
    return *story != NULL;
}
