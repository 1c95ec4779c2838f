/*
 * The story of one message or session: recorded facts gathered into one JSON document.
 */
#include "diagnose/diagnose_private.h"

#include <string.h>

json_t *diagnose_text(struct bytes view)
{
    json_t *text = json_stringn((const char *)view.at, view.count);

    /* Foreign bytes that are no UTF-8 are shown as question marks rather than lost with their line.
     */
    if (!text && view.count > 0) {
        CLEANUP(buffer_free) struct buffer safe = BUFFER_WITH_LIMIT(view.count);
        for (size_t i = 0; i < view.count; i++)
            buffer_add_byte(&safe, view.at[i] < 0x80 ? view.at[i] : '?');
        text = json_stringn((const char *)safe.at, safe.count);
    }
    return text ? text : json_string("");
}

json_t *diagnose_time(int64_t wall_us)
{
    char text[TIME_TEXT_MAX];

    return wall_us == 0 ? json_null() : json_string(time_print_rfc3339(wall_us, text, sizeof text));
}

static void set_text(json_t *object, const char *member, struct bytes view)
{
    if (view.count > 0)
        json_object_set_new(object, member, diagnose_text(view));
}

static void set_number(json_t *object, const char *member, int64_t value)
{
    if (value != 0)
        json_object_set_new(object, member, json_integer(value));
}

static void set_id(json_t *object, const char *member, uint64_t id)
{
    char text[ID_TEXT_MAX];

    if (id != 0)
        json_object_set_new(object, member, json_string(id_print(id, text, sizeof text)));
}

struct diagnose_place diagnose_place_of(const struct config *config, int64_t now_wall_us)
{
    return (struct diagnose_place){.spool_directory = config->spool,
                                   .history_directory = config->history,
                                   .now_wall_us = now_wall_us,
                                   .config = config};
}

static bool story_add_event(void *argument, const struct history_row *row)
{
    json_t *event = json_object();

    json_object_set_new(event, "time", diagnose_time(row->wall_us));
    set_text(event, "event", row->event);
    set_id(event, "message", row->message);
    set_id(event, "session", row->session);
    set_text(event, "stage", row->stage);
    set_text(event, "cause", row->cause);
    set_text(event, "side", row->side);
    set_text(event, "client", row->client);
    set_text(event, "helo", row->helo);
    set_text(event, "from", row->from);
    set_text(event, "to", row->to);
    set_text(event, "mx", row->mx);
    set_text(event, "tls", row->tls);
    set_text(event, "destination", row->destination);
    set_text(event, "filter", row->filter);
    set_text(event, "text", row->text);
    set_text(event, "enhanced", row->enhanced);
    set_number(event, "code", row->code);
    set_number(event, "attempt", row->attempt);
    set_number(event, "took_ms", (int64_t)(row->took_us / US_PER_MS));
    set_number(event, "size", (int64_t)row->size_bytes);
    if (row->next_wall_us != 0)
        json_object_set_new(event, "next", diagnose_time(row->next_wall_us));
    json_array_append_new(argument, event);
    return json_array_size(argument) < DIAGNOSE_EVENTS_MAX;
}

static const char *state_word(const struct spool_row *row)
{
    if (row->held && row->state == RECIPIENT_WAITING)
        return "held";
    switch (row->state) {
    case RECIPIENT_WAITING:
        if (row->cause == CAUSE_AMBIGUOUS_DOT)
            return "maybe delivered";
        return row->attempts == 0 && row->cause == CAUSE_UNDECIDED ? "ready" : "deferred";
    case RECIPIENT_DELIVERED:
        return "delivered";
    case RECIPIENT_FAILED:
        return "failed";
    case RECIPIENT_DROPPED:
        return "dropped";
    }
    return "ready";
}

json_t *diagnose_queue_row(const struct spool_row *row)
{
    json_t *object = json_object();

    set_id(object, "message", row->id);
    json_object_set_new(object, "from", diagnose_text(row->from));
    json_object_set_new(object, "to", diagnose_text(row->to));
    json_object_set_new(object, "domain", diagnose_text(row->domain));
    json_object_set_new(object, "state", json_string(state_word(row)));
    json_object_set_new(object, "accepted", diagnose_time(row->accepted_wall_us));
    json_object_set_new(object, "attempts", json_integer(row->attempts));
    json_object_set_new(object, "size", json_integer((json_int_t)row->size_bytes));
    json_object_set_new(object, "next", diagnose_time(row->next_wall_us));
    json_object_set_new(object, "last_attempt", diagnose_time(row->last_attempt_wall_us));
    if (row->attempts > 0 || row->cause != CAUSE_UNDECIDED) {
        json_object_set_new(object, "cause", json_string(cause_name(row->cause)));
        json_object_set_new(object, "side", json_string(side_name(cause_row(row->cause)->side)));
        set_text(object, "reply", row->last_reply);
    }
    return object;
}

struct recipient_list {
    const struct diagnose_place *place;
    json_t *rows;
};

/* A fault of ours does not expire, so nothing is said of it then. */
static bool story_add_recipient(void *argument, const struct spool_row *row)
{
    const struct recipient_list *list = argument;
    const struct config *config = list->place->config;
    json_t *object = diagnose_queue_row(row);

    if (config && (row->attempts == 0 || cause_row(row->cause)->side != SIDE_OURS))
        json_object_set_new(
            object, "expires",
            diagnose_time(row->accepted_wall_us + (int64_t)config->retry.expire_after_us));
    json_array_append_new(list->rows, object);
    return json_array_size(list->rows) < DIAGNOSE_EVENTS_MAX;
}

static bool story_add_earlier(void *argument, const struct ledger_row *row)
{
    json_array_append_new(argument, diagnose_ledger_row(row));
    return json_array_size(argument) < DIAGNOSE_EVENTS_MAX;
}

static void explain_causes_of(const json_t *rows, json_t *known)
{
    for (size_t i = 0; i < json_array_size(rows); i++) {
        const char *name = json_string_value(json_object_get(json_array_get(rows, i), "cause"));
        enum cause cause = CAUSE_UNDECIDED;
        if (name && !json_object_get(known, name) && cause_parse(bytes_of_text(name), &cause) &&
            cause_row(cause)->kind != VERDICT_ACCEPT)
            json_object_set_new(known, name, diagnose_cause(cause));
    }
}

/* The causes that the story names, each once, with what they mean and what to do. */
static json_t *story_explanations(const json_t *story)
{
    json_t *known = json_object();

    explain_causes_of(json_object_get(story, "earlier"), known);
    explain_causes_of(json_object_get(story, "events"), known);
    explain_causes_of(json_object_get(story, "recipients"), known);
    return known;
}

static const char *story_state(const json_t *events, const json_t *queued)
{
    const char *state = "unknown";

    if (json_array_size(queued) > 0)
        return "queued";
    for (size_t i = 0; i < json_array_size(events); i++) {
        const char *event = json_string_value(json_object_get(json_array_get(events, i), "event"));
        if (!event)
            continue;
        if (strcmp(event, "message.ended") == 0 || strcmp(event, "delivery.done") == 0 ||
            strcmp(event, "delivery.failed") == 0 || strcmp(event, "message.discarded") == 0)
            state = "ended";
        else if (strcmp(event, "message.accepted") == 0)
            state = "accepted";
        else if (strcmp(state, "unknown") == 0 && strcmp(event, "message.deferred") == 0)
            state = "deferred to the client";
        else if (strcmp(state, "unknown") == 0 && strcmp(event, "message.refused") == 0)
            state = "refused to the client";
    }
    return state;
}

/* A dead spool hides what waits, not what happened: the history may be on another disk. */
static bool story_read(const struct diagnose_place *place, uint64_t id, json_t *story, char *why,
                       size_t why_room)
{
    const struct spool_view_filter filter = {.id = id};
    json_t *events = json_object_get(story, "events"),
           *queued = json_object_get(story, "recipients");
    json_t *earlier = json_object_get(story, "earlier");
    struct recipient_list recipients = {.place = place, .rows = queued};

    if (!history_of_message(place->history_directory, id, story_add_event, events, why, why_room) ||
        !ledger_of_message(place->history_directory, id, story_add_earlier, earlier, why, why_room))
        return false;
    if (!spool_view(place->spool_directory, &filter, story_add_recipient, &recipients, why,
                    why_room))
        json_object_set_new(story, "queue_unreadable", json_string(why));
    if (json_array_size(events) > 0 || json_array_size(queued) > 0)
        return true;
    return history_of_session(place->history_directory, id, story_add_event, events, why, why_room);
}

struct lookup diagnose_story(const struct diagnose_place *place, uint64_t id, json_t **story,
                             char *why, size_t why_room)
{
    char text[ID_TEXT_MAX];
    json_t *document = json_pack("{s:s, s:[], s:[], s:[]}", "id", id_print(id, text, sizeof text),
                                 "earlier", "recipients", "events");
    json_t *events = json_object_get(document, "events"),
           *queued = json_object_get(document, "recipients");

    *story = NULL;
    if (id == 0) { /* no message has this id, and to the views below it means: all */
        json_decref(document);
        return lookup_absent();
    }
    if (!document || !story_read(place, id, document, why, why_room)) {
        json_decref(document);
        return lookup_failed(LOOKUP_REASON_UNAVAILABLE, BYTES_EMPTY);
    }
    if (json_array_size(events) == 0 && json_array_size(queued) == 0) {
        const bool hidden = json_object_get(document, "queue_unreadable") != NULL;
        json_decref(document);
        return hidden ? lookup_failed(LOOKUP_REASON_UNAVAILABLE, BYTES_EMPTY) : lookup_absent();
    }
    json_object_set_new(document, "state", json_string(story_state(events, queued)));
    diagnose_add_outlook(place, document);
    json_object_set_new(document, "causes", story_explanations(document));
    *story = document;
    return lookup_found();
}
