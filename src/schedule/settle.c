/*
 * From outcomes to the record: each recipient's new state, the notification to the sender in the
 * same group, then the journal. Nothing is told as done before it is durable.
 *
 * When the record fails (our disk), the lease stays and the record is tried again, more and more
 * slowly: meanwhile this slot delivers nothing. After some tries the message is left under its
 * lease until the restart, because what was delivered must not be delivered again in a loop; the
 * journal then says what happened, and that it is not recorded.
 */
#include "schedule/inside.h"

/* ------------------------------------------------------------------ deciding */

static void decide_delivered(struct decision *decision, const struct attempt *attempt,
                             const struct queued_message *message)
{
    const struct outcome *outcome = decision->outcome;
    const struct recipient *recipient =
        &message->envelope.recipients[decision->settlement.recipient];

    decision->settlement.state = RECIPIENT_DELIVERED;
    decision->event = EVENT_DELIVERY_DONE;
    decision->action = attempt->to->kind == DELIVER_SMTP ? DSN_RELAYED : DSN_DELIVERED;
    if (bytes_equal_text(recipient->deliver, RECIPIENT_IS_ALIAS))
        decision->action = DSN_EXPANDED;
    decision->tells =
        !outcome->dsn_passed_on && notify_wanted(message, recipient, decision->action);
}

static void decide_failed(struct decision *decision, const struct queued_message *message,
                          enum event_kind event)
{
    const struct recipient *recipient =
        &message->envelope.recipients[decision->settlement.recipient];

    decision->settlement.state = RECIPIENT_FAILED;
    decision->event = event;
    decision->action = DSN_FAILED;
    decision->tells = notify_wanted(message, recipient, DSN_FAILED);
}

static void decide_deferred(struct decision *decision, const struct schedule *schedule,
                            const struct queued_message *message, int64_t accepted_wall_us)
{
    const struct config_retry *retry = &schedule->config->retry;
    const struct recipient *recipient =
        &message->envelope.recipients[decision->settlement.recipient];
    const int64_t age_us = clock_wall_us() - accepted_wall_us;

    decision->settlement.state = RECIPIENT_WAITING;
    decision->settlement.next_wall_us = retry_next_wall_us(
        retry, accepted_wall_us, decision->settlement.attempts, decision->outcome);
    decision->event = EVENT_DELIVERY_DEFERRED;
    if (decision->settlement.delay_notified || !retry_is_late(retry, age_us))
        return;
    decision->settlement.delay_notified = true;
    decision->action = DSN_DELAYED;
    decision->tells = notify_wanted(message, recipient, DSN_DELAYED);
}

/* While a place pauses, a try at it for one message is a try for all that wait, so the pauses count
 * towards the fair number of attempts; otherwise mail for a dead host would never expire. */
static void decide(struct decision *decision, const struct place *place,
                   const struct attempt *attempt)
{
    const struct schedule *schedule = place->schedule;
    const struct queued_message *message = attempt->message;
    const struct outcome *outcome = decision->outcome;
    const int64_t accepted = order_accepted_wall_us(place, message, decision->settlement.recipient);
    const struct verdict verdict = schedule_expire(
        &schedule->config->retry, decision->settlement.attempts + place->pool->pauses, accepted,
        clock_wall_us(), outcome->verdict);

    decision->settlement.cause = verdict.cause;
    switch (verdict.kind) {
    case VERDICT_ACCEPT:
        decide_delivered(decision, attempt, message);
        break;
    case VERDICT_REFUSE:
        decide_failed(decision, message,
                      verdict.cause == CAUSE_EXPIRED ? EVENT_MESSAGE_EXPIRED
                                                     : EVENT_DELIVERY_FAILED);
        break;
    case VERDICT_DEFER:
        decide_deferred(decision, schedule, message, accepted);
        break;
    }
}

/* ------------------------------------------------------------------ recording */

static struct verdict settle_once(const struct report *report)
{
    CLEANUP(spool_draft_close) struct spool_draft *draft = NULL;
    struct envelope envelope = {0};
    struct settlement *settlements =
        ARENA_NEW_ARRAY(report->arena, report->count, struct settlement);

    if (!settlements)
        return verdict_of(CAUSE_LOCAL_FAILED);
    for (uint32_t i = 0; i < report->count; i++)
        settlements[i] = report->decisions[i].settlement;
    REQUIRE(notify_prepare(report, &draft, &envelope));
    const struct settlement_group group = {.settlements = settlements,
                                           .count = report->count,
                                           .dsn = draft,
                                           .dsn_envelope = draft ? &envelope : NULL};
    return spool_settle(report->schedule->spool, report->message, &group);
}

/* The spool takes settlements when it takes no new message. So that a delivery gets recorded, what
 * cannot be notified now is left waiting: a failure is found again, and told then. */
static void report_without_notes(struct report *report)
{
    const int64_t later = clock_wall_us() + 300 * (int64_t)US_PER_S;

    for (uint32_t i = 0; i < report->count; i++) {
        struct decision *decision = &report->decisions[i];
        if (!decision->tells)
            continue;
        decision->tells = false;
        decision->settlement.delay_notified = false;
        if (decision->settlement.state == RECIPIENT_FAILED) {
            decision->settlement.state = RECIPIENT_WAITING;
            decision->settlement.next_wall_us = later;
            decision->event = EVENT_DELIVERY_DEFERRED;
        }
    }
}

/* More and more slowly. False: cancelled. */
static bool settle_pause(unsigned tries)
{
    const uint64_t wait_us = MIN_OF(UINT64_C(1) << tries, UINT64_C(60)) * US_PER_S;

    return fiber_sleep_until(deadline_in(wait_us)) == IO_OK;
}

static bool report_record(struct report *report)
{
    char id[ID_TEXT_MAX];

    for (unsigned tries = 0; tries < SETTLE_TRIES; tries++) {
        const struct verdict settled = settle_once(report);
        if (verdict_accepts(&settled))
            return true;
        observe_note(LOG_ERROR, "schedule", "%s: outcome not recorded (%s), kept under its lease",
                     id_print(report->message->id, id, sizeof(id)), cause_name(settled.cause));
        if (report->schedule->stopping)
            return false;
        if (tries >= 1)
            report_without_notes(report);
        if (!settle_pause(tries))
            return false;
    }
    return false;
}

/* ------------------------------------------------------------------ telling */

static bool ends_without_note(const struct decision *decision)
{
    return decision->event == EVENT_MESSAGE_ENDED ||
           (decision->settlement.state == RECIPIENT_FAILED && !decision->tells);
}

static void report_event(struct report *report, const struct decision *decision, bool recorded)
{
    static const struct outcome NONE = {0};
    const struct outcome *outcome = decision->outcome ? decision->outcome : &NONE;
    const struct settlement *settlement = &decision->settlement;
    const struct envelope *envelope = &report->message->envelope;
    const bool waits = recorded && settlement->state == RECIPIENT_WAITING;
    struct event event = {
        .kind = recorded ? decision->event : EVENT_DELIVERY_UNRECORDED,
        .stage = outcome->stage,
        .message = report->message->id,
        .verdict = verdict_with(settlement->cause, outcome->verdict.detail),
        .has_verdict = true,
        .from = address_text(report->arena, envelope->from),
        .to = address_text(report->arena, envelope->recipients[settlement->recipient].address),
        .mx = outcome->host,
        .tls = outcome->tls,
        .destination = report->destination,
        .filter = report->filter,
        .text = outcome->reply,
        .code = outcome->code,
        .enhanced = outcome->enhanced,
        .attempt = settlement->attempts,
        .next_wall_us = waits ? settlement->next_wall_us : 0,
        .took_us = report->took_us};

    if (decision->event != EVENT_DELIVERY_DONE) { /* once for all recipients of the attempt */
        event.transcript = report->transcript;
        report->transcript = BYTES_EMPTY;
    }
    observe_event(&event);
    event.transcript = BYTES_EMPTY;
    if (settlement->cause == CAUSE_BODY_DAMAGED) {
        event.kind = EVENT_MESSAGE_DAMAGED;
        observe_event(&event);
    }
    if (settlement->state != RECIPIENT_FAILED || !recorded)
        return;
    event.kind = decision->tells ? EVENT_MESSAGE_BOUNCED : EVENT_MESSAGE_ENDED;
    if (!decision->tells)
        event.text = address_is_null(envelope->from)
                         ? BYTES_LITERAL("no notification: the sender is null")
                         : BYTES_LITERAL("no notification: the sender asked for none");
    observe_event(&event);
}

static void report_apply(const struct report *report)
{
    struct queued_message *message = report->message;
    bool waits = false, changed = false, told = false;

    for (uint32_t i = 0; i < report->count; i++) {
        const struct settlement *settlement = &report->decisions[i].settlement;
        struct queued_recipient *recipient = &message->recipients[settlement->recipient];
        changed = changed || settlement->state != RECIPIENT_WAITING;
        told = told || ends_without_note(&report->decisions[i]);
        recipient->state = settlement->state;
        recipient->attempts = settlement->attempts;
        recipient->cause = settlement->cause;
        recipient->next_wall_us = settlement->next_wall_us;
        recipient->delay_notified = settlement->delay_notified;
    }
    for (uint32_t i = 0; i < message->envelope.recipient_count; i++)
        waits = waits || message->recipients[i].state == RECIPIENT_WAITING;
    if (changed && !waits && !told) {
        const struct event event = {.kind = EVENT_MESSAGE_ENDED, .message = message->id};
        observe_event(&event);
    }
}

static bool message_has_ended(const struct queued_message *message)
{
    for (uint32_t i = 0; i < message->envelope.recipient_count; i++)
        if (message->recipients[i].state == RECIPIENT_WAITING)
            return false;
    return true;
}

bool settle_report(struct report *report)
{
    const bool recorded = report_record(report);

    for (uint32_t i = 0; i < report->count; i++) {
        if (!report->decisions[i].quiet)
            report_event(report, &report->decisions[i], recorded);
    }
    if (recorded)
        report_apply(report);
    if (recorded && message_has_ended(report->message))
        orders_message_ended(report->schedule, report->message->id);
    return recorded;
}

/* A shortage of memory passes; to give up at once would keep the message under its lease until the
 * restart. NULL when it lasts. */
static struct decision *decisions_take(const struct schedule *schedule,
                                       const struct attempt *attempt)
{
    struct decision *decisions = NULL;

    for (unsigned tries = 0; tries < SETTLE_TRIES; tries++) {
        decisions = ARENA_NEW_ARRAY(attempt->arena, attempt->recipient_count, struct decision);
        if (decisions || schedule->stopping || !settle_pause(tries))
            break;
    }
    return decisions;
}

bool settle_attempt(const struct place *place, const struct attempt *attempt, uint64_t took_us)
{
    struct schedule *schedule = place->schedule;
    struct queued_message *message = (struct queued_message *)(uintptr_t)attempt->message;
    struct report report = {.schedule = schedule,
                            .message = message,
                            .arena = attempt->arena,
                            .decisions = decisions_take(schedule, attempt),
                            .took_us = took_us,
                            .destination = bytes_of_text(place->to.key),
                            .transcript = attempt->transcript};

    for (uint32_t i = 0; report.decisions && i < attempt->recipient_count; i++) {
        const struct outcome *outcome = &attempt->outcomes[i];
        const struct queued_recipient *recipient = &message->recipients[attempt->recipients[i]];
        struct decision *decision = &report.decisions[report.count];
        if (outcome->verdict.cause == CAUSE_UNDECIDED && schedule->stopping)
            continue; /* cancelled before anything came of it: not tried */
        *decision = (struct decision){.outcome = outcome,
                                      .settlement = {.recipient = attempt->recipients[i],
                                                     .reply = outcome->reply,
                                                     .attempts = recipient->attempts + 1,
                                                     .attempt_wall_us = clock_wall_us(),
                                                     .delay_notified = recipient->delay_notified}};
        decide(decision, place, attempt);
        report.count++;
    }
    if (!report.decisions)
        return false;
    return report.count == 0 || settle_report(&report);
}
