/*
 * rescan: mail that was taken while a filter could not be asked (`on_fault = scan_later`). It waits
 * in the queue like any other, but before anything of it is tried it is scanned here. Clean: it is
 * delivered. Refused: it goes back to its sender. Not to be scanned now: it is deferred with the
 * filter's cause and asked about again; that is no attempt, and nothing expires by it.
 *
 * An attempt is made only of what was scanned, so a recipient with an attempt proves the scan: no
 * other mark is needed, and a restart changes nothing.
 */
#include "schedule/inside.h"

enum { RESCANS_MOST = 16 };
#define AGAIN_MOST_US (300 * US_PER_S) /* until a filter is asked again about the same message */

struct rescan {
    struct schedule *schedule;
    struct queued_message *message; /* the lease */
    bool force;                     /* the operator wants it tried now */
    struct fiber *fiber;
    struct rescan *next, *previous;
};

bool rescan_is_due(const struct queued_message *message)
{
    if (!message->envelope.unscanned)
        return false;
    for (uint32_t i = 0; i < message->envelope.recipient_count; i++)
        if (message->recipients[i].attempts > 0 ||
            message->recipients[i].state != RECIPIENT_WAITING)
            return false;
    return true;
}

/* ------------------------------------------------------------------ the scan, and what follows */

MUST_USE static struct verdict rescan_ask(const struct rescan *rescan, struct arena *arena,
                                          struct bytes *filter)
{
    CLEANUP(spool_body_close) struct spool_body *body = NULL;
    struct schedule *schedule = rescan->schedule;

    if (!schedule->scan)
        return verdict_of(CAUSE_FILTER_MISCONFIGURED);
    REQUIRE(spool_body_open(schedule->spool, rescan->message->id, &body));
    return schedule->scan(schedule->scan_argument,
                          &(struct schedule_scan){rescan->message->id, &rescan->message->envelope,
                                                  body, arena, filter});
}

static void decide_refused(struct decision *decision, const struct queued_message *message,
                           const struct recipient *recipient)
{
    decision->settlement.state = RECIPIENT_FAILED;
    decision->event = EVENT_DELIVERY_FAILED;
    decision->action = DSN_FAILED;
    decision->tells = notify_wanted(message, recipient, DSN_FAILED);
}

static void decide_waits(struct decision *decision, const struct config_retry *retry,
                         const struct queued_message *message, const struct recipient *recipient)
{
    const uint64_t step_us = retry->step_count > 0 ? retry->steps[0].every_us : AGAIN_MOST_US;
    const int64_t now_us = clock_wall_us();

    decision->settlement.state = RECIPIENT_WAITING;
    decision->settlement.next_wall_us = now_us + (int64_t)MIN_OF(step_us, AGAIN_MOST_US);
    decision->event = EVENT_DELIVERY_DEFERRED;
    if (decision->settlement.delay_notified ||
        !retry_is_late(retry, now_us - message->envelope.accepted_wall_us))
        return;
    decision->settlement.delay_notified = true;
    decision->action = DSN_DELAYED;
    decision->tells = notify_wanted(message, recipient, DSN_DELAYED);
}

static void rescan_decide(struct report *report, uint32_t index, const struct outcome *outcome)
{
    const struct queued_message *message = report->message;
    const struct recipient *recipient = &message->envelope.recipients[index];
    const struct queued_recipient *queued = &message->recipients[index];
    struct decision *decision = &report->decisions[report->count++];

    *decision = (struct decision){.outcome = outcome,
                                  .settlement = {.recipient = index,
                                                 .cause = outcome->verdict.cause,
                                                 .reply = outcome->reply,
                                                 .attempts = queued->attempts,
                                                 .attempt_wall_us = clock_wall_us(),
                                                 .delay_notified = queued->delay_notified}};
    if (outcome->verdict.kind == VERDICT_REFUSE)
        decide_refused(decision, message, recipient);
    else
        decide_waits(decision, &report->schedule->config->retry, message, recipient);
}

static void rescan_settle(const struct rescan *rescan, struct arena *arena,
                          const struct verdict *verdict, struct bytes filter)
{
    const uint32_t count = rescan->message->envelope.recipient_count;
    const struct outcome outcome = {.verdict = *verdict, .reply = verdict->detail};
    struct report report = {.schedule = rescan->schedule,
                            .message = rescan->message,
                            .arena = arena,
                            .decisions = ARENA_NEW_ARRAY(arena, count, struct decision),
                            .filter = filter,
                            .destination = BYTES_LITERAL("scan")};

    for (uint32_t i = 0; report.decisions && i < count; i++)
        rescan_decide(&report, i, &outcome);
    const bool masked = fiber_mask_cancel(true);
    if (report.decisions && !settle_report(&report))
        observe_note(LOG_ERROR, "schedule", "the outcome of a later scan was not recorded");
    fiber_mask_cancel(masked);
}

/* ------------------------------------------------------------------ its fiber */

static void rescan_leave(struct rescan *rescan)
{
    struct schedule *schedule = rescan->schedule;

    if (rescan->previous)
        rescan->previous->next = rescan->next;
    else
        schedule->rescans = rescan->next;
    if (rescan->next)
        rescan->next->previous = rescan->previous;
    schedule->rescan_count--;
    schedule->leased--;
    free(rescan);
}

static void rescan_main(void *argument)
{
    struct rescan *rescan = argument;
    struct schedule *schedule = rescan->schedule;
    struct queued_message *message = rescan->message;
    const bool force = rescan->force;
    struct arena arena = ARENA_WITH_LIMIT(SLOT_ARENA_BYTES);
    struct bytes filter = BYTES_EMPTY;
    const struct verdict verdict = rescan_ask(rescan, &arena, &filter);
    const bool clean = verdict_accepts(&verdict) && !schedule->stopping;

    if (!verdict_accepts(&verdict) && !schedule->stopping)
        rescan_settle(rescan, &arena, &verdict, filter);
    rescan_leave(rescan);
    arena_clear(&arena);
    if (!clean) {
        spool_release(schedule->spool, message);
        return;
    }
    observe_event(&(struct event){.kind = EVENT_MESSAGE_RELEASED,
                                  .message = message->id,
                                  .text = BYTES_LITERAL("scanned, and found clean")});
    /* None of its recipients was tried, so none has a pause of his own. */
    const struct hold_choice now = {.untimely = true};
    if (!hold_add_scanned(schedule, message, force ? &now : NULL))
        observe_note(LOG_WARNING, "schedule", "out of memory: a scanned message waits");
}

bool rescan_begin(struct schedule *schedule, struct queued_message *message, bool force)
{
    struct rescan *rescan =
        schedule->rescan_count < RESCANS_MOST ? calloc(1, sizeof *rescan) : NULL;

    if (rescan)
        rescan->fiber = fiber_start("schedule.rescan", rescan_main, rescan);
    if (!rescan || !rescan->fiber) {
        free(rescan);
        spool_release(schedule->spool, message); /* it is offered again in a second */
        return false;
    }
    rescan->schedule = schedule;
    rescan->message = message;
    rescan->force = force;
    rescan->next = schedule->rescans;
    if (rescan->next)
        rescan->next->previous = rescan;
    schedule->rescans = rescan;
    schedule->rescan_count++;
    schedule->leased++;
    return true;
}

void rescans_cancel(struct schedule *schedule)
{
    for (struct rescan *rescan = schedule->rescans; rescan; rescan = rescan->next)
        fiber_cancel(rescan->fiber);
}
