/*
 * What the server itself says: its journal, as a sink of observe, and what it knows to be durable,
 * by standing in front of spool_settle (the linker's --wrap). Neither changes what happens.
 */
#include "server.h"

#include <string.h>

static bool is_a_fate(enum event_kind kind)
{
    return kind != EVENT_SESSION_OPEN && kind != EVENT_SESSION_CLOSE &&
           kind != EVENT_RECIPIENT_ACCEPTED && kind != EVENT_RECIPIENT_DEFERRED &&
           kind != EVENT_RECIPIENT_REFUSED;
}

static void listen_to(void *argument, const struct event *event)
{
    enum place place;

    CHECK(argument == &book, "an argument of our own");
    if (!is_a_fate(event->kind))
        return;
    tale_add(event->message, -1, "journal: %s from=%.*s to=%.*s %s %u %.*s %.*s",
             event_name(event->kind), BYTES_PRINT(event->from), BYTES_PRINT(event->to),
             event->has_verdict ? cause_name(event->verdict.cause) : "", event->code,
             BYTES_PRINT(bytes_slice(event->text, 0, 60)),
             BYTES_PRINT(bytes_slice(event->verdict.detail, 0, 60)));
    if (event->kind == EVENT_MESSAGE_ACCEPTED && planted == PLANT_KEPT)
        message_note(event->message)->held = true;
    const bool seen = planted != PLANT_DROPPED || setting.milter_accepts;
    if (event->kind == EVENT_MESSAGE_DISCARDED && seen)
        message_note(event->message)->discarded = true;
    if (event->kind == EVENT_MESSAGE_HELD && !event->has_verdict) /* with one: to be scanned yet */
        message_note(event->message)->held = true;
    const bool maybe = event->verdict.cause == CAUSE_AMBIGUOUS_DOT ||
                       event->verdict.cause == CAUSE_PIPE_INTERRUPTED ||
                       event->verdict.cause == CAUSE_PIPE_TIMEOUT;
    if (event->kind == EVENT_DELIVERY_DEFERRED && maybe && place_named(event->to, &place))
        message_note(event->message)->ambiguous[place]++;
}

void journal_listen(void)
{
    observe_remove_sinks(); /* of rooms that a crash left behind */
    CHECK(observe_add_sink(listen_to, &book), "room for a sink");
}

/* ------------------------------------------------------------------ what is durable */

struct verdict __real_spool_settle(struct spool *spool, struct queued_message *message,
                                   const struct settlement_group *group);
struct verdict __wrap_spool_settle(struct spool *spool, struct queued_message *message,
                                   const struct settlement_group *group);

static void note_settled(const struct queued_message *message, const struct settlement *settlement)
{
    const struct address address = message->envelope.recipients[settlement->recipient].address;
    char text[320];
    enum place place;

    snprintf(text, sizeof text, "%.*s@%.*s", BYTES_PRINT(address.local),
             BYTES_PRINT(address.domain));
    if (settlement->state != RECIPIENT_DELIVERED || !place_named(bytes_of_text(text), &place))
        return;
    struct message_note *note = message_note(message->id);
    note->settled[place] = true;
    note->lives_settled[place] |= UINT32_C(1) << book.life;
}

struct verdict __wrap_spool_settle(struct spool *spool, struct queued_message *message,
                                   const struct settlement_group *group)
{
    const struct verdict verdict = __real_spool_settle(spool, message, group);

    if (!verdict_accepts(&verdict))
        tale_add(message->id, -1, "not recorded: %s", cause_name(verdict.cause));
    for (uint32_t i = 0; verdict_accepts(&verdict) && i < group->count; i++)
        note_settled(message, &group->settlements[i]);
    return verdict;
}
