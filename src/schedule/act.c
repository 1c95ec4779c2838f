/*
 * The operator's actions. One by id goes straight to the spool or to the lease in memory; those by
 * destination, cause or all first read the ids from the spool's view, in the worker pool. A message
 * that is being delivered at this moment is left alone and not counted.
 */
#include "schedule/inside.h"

#define ACT_IDS_MAX 1000000

struct act {
    struct schedule *schedule;
    const struct schedule_request *request;
    uint64_t touched;
    struct lookup result;
    uint64_t *ids;
    size_t id_count, id_room;
    bool viewed;
    char why[256];
};

static const char *action_name(enum schedule_action action)
{
    switch (action) {
    case ACTION_RETRY:
        return "retry";
    case ACTION_HOLD:
        return "hold";
    case ACTION_RELEASE:
        return "release";
    case ACTION_DROP:
        return "drop";
    case ACTION_BOUNCE:
        return "bounce";
    }
    return "";
}

static void act_tell(const struct act *act, uint64_t id)
{
    char text[160];

    snprintf(text, sizeof(text), "%s by %.100s", action_name(act->request->action),
             act->request->who ? act->request->who : "operator");
    const struct event event = {
        .kind = EVENT_OPERATOR_ACTION, .message = id, .text = bytes_of_text(text)};
    observe_event(&event);
}

/* ------------------------------------------------------------------ one message */

/* Takes what waits in memory back; false when a slot works on the message. */
static bool act_withdraw(struct schedule *schedule, uint64_t id)
{
    struct hold *hold = hold_find(schedule, id);

    if (!hold)
        return true;
    for (const struct job *job = hold->jobs; job; job = job->hold_next) {
        if (!job->queued)
            return false;
    }
    if (hold->stuck)
        return false;
    for (struct job *job = hold->jobs, *next; job; job = next) {
        next = job->hold_next;
        place_withdraw(job->place, job);
        job_end(job); /* the last one releases the lease */
    }
    return true;
}

static struct lookup act_retry(struct schedule *schedule, uint64_t id)
{
    struct queued_message *message = NULL;
    struct hold *hold = hold_find(schedule, id);

    if (hold) { /* about to be tried already: do not let a pause stop it */
        for (struct job *job = hold->jobs; job; job = job->hold_next)
            place_clear_pause(job->place);
        return lookup_found();
    }
    const struct lookup taken = spool_take_id(schedule->spool, id, &message);
    if (taken.status != LOOKUP_FOUND)
        return taken;
    if (!hold_add(schedule, message, true))
        return lookup_failed(LOOKUP_REASON_OVERLOADED, BYTES_LITERAL("out of memory"));
    hold = hold_find(schedule, id);
    for (struct job *job = hold ? hold->jobs : NULL; job; job = job->hold_next)
        place_clear_pause(job->place);
    return lookup_found();
}

static void end_decide(const struct queued_message *message, enum schedule_action action,
                       uint32_t index, struct decision *decision)
{
    const struct queued_recipient *recipient = &message->recipients[index];
    const bool bounce = action == ACTION_BOUNCE;

    *decision = (struct decision){
        .event = bounce ? EVENT_DELIVERY_FAILED : EVENT_MESSAGE_ENDED,
        .action = DSN_FAILED,
        .tells = bounce && notify_wanted(message, &message->envelope.recipients[index], DSN_FAILED),
        .settlement = {.recipient = index,
                       .state = bounce ? RECIPIENT_FAILED : RECIPIENT_DROPPED,
                       .cause = bounce ? CAUSE_OPERATOR_BOUNCED : CAUSE_OPERATOR_DROPPED,
                       .reply = recipient->last_reply,
                       .attempts = recipient->attempts,
                       .attempt_wall_us = recipient->last_attempt_wall_us,
                       .delay_notified = recipient->delay_notified}};
}

/* Drop or bounce: ends every recipient that waits. */
static struct lookup end_message(struct act *act, struct queued_message *message)
{
    struct arena arena = ARENA_WITH_LIMIT(SLOT_ARENA_BYTES);
    struct report report = {
        .schedule = act->schedule,
        .message = message,
        .arena = &arena,
        .decisions = ARENA_NEW_ARRAY(&arena, message->envelope.recipient_count, struct decision)};

    for (uint32_t i = 0; report.decisions && i < message->envelope.recipient_count; i++) {
        if (message->recipients[i].state == RECIPIENT_WAITING)
            end_decide(message, act->request->action, i, &report.decisions[report.count++]);
    }
    const bool masked = fiber_mask_cancel(true);
    const bool settled = report.decisions && (report.count == 0 || settle_report(&report));
    fiber_mask_cancel(masked);
    spool_release(act->schedule->spool, message); /* unrecorded, it is as it was */
    arena_clear(&arena);
    return settled ? lookup_found()
                   : lookup_failed(LOOKUP_REASON_UNAVAILABLE, BYTES_LITERAL("not recorded"));
}

static struct lookup act_end(struct act *act, uint64_t id)
{
    struct queued_message *message = NULL;

    if (!act_withdraw(act->schedule, id))
        return lookup_absent();
    const struct lookup taken = spool_take_id(act->schedule->spool, id, &message);
    return taken.status == LOOKUP_FOUND ? end_message(act, message) : taken;
}

static struct lookup act_on(struct act *act, uint64_t id)
{
    const struct schedule_request *request = act->request;

    switch (request->action) {
    case ACTION_RETRY:
        return act_retry(act->schedule, id);
    case ACTION_HOLD:
        if (!act_withdraw(act->schedule, id))
            return lookup_absent();
        return spool_hold(act->schedule->spool, id, true,
                          bytes_of_text(request->who ? request->who : "operator"));
    case ACTION_RELEASE:
        return spool_hold(act->schedule->spool, id, false, BYTES_EMPTY);
    case ACTION_DROP:
    case ACTION_BOUNCE:
        return act_end(act, id);
    }
    return lookup_absent();
}

/* ------------------------------------------------------------------ many */

static bool act_collect(void *argument, const struct spool_row *row)
{
    struct act *act = argument;

    if (row->state != RECIPIENT_WAITING ||
        (act->id_count > 0 && act->ids[act->id_count - 1] == row->id))
        return true;
    if (act->id_count == act->id_room) {
        const size_t room = act->id_room ? act->id_room * 2 : 256;
        uint64_t *ids = reallocarray(act->ids, room, sizeof(*ids));
        if (!ids)
            return false;
        act->ids = ids;
        act->id_room = room;
    }
    act->ids[act->id_count++] = row->id;
    return act->id_count < ACT_IDS_MAX;
}

/* In the worker pool. */
static void act_view(void *argument)
{
    struct act *act = argument;
    const struct spool_view_filter filter = {.domain = act->request->destination_domain,
                                             .cause = act->request->cause};

    act->viewed = spool_view(act->schedule->config->spool, &filter, act_collect, act, act->why,
                             sizeof(act->why));
}

static void act_on_many(struct act *act)
{
    const enum io_status status = work_run(act_view, act);

    if (status != IO_OK || !act->viewed) {
        act->result = lookup_failed(LOOKUP_REASON_UNAVAILABLE, bytes_of_text("queue view failed"));
        observe_note(LOG_ERROR, "schedule", "operator action: %s", act->why);
        return;
    }
    act->result = act->id_count > 0 ? lookup_found() : lookup_absent();
    for (size_t i = 0; i < act->id_count && !act->schedule->stopping; i++) {
        while (act->request->action == ACTION_RETRY &&
               act->schedule->leased >= SCHEDULE_MESSAGES_MAX) {
            if (fiber_sleep_until(deadline_in(100 * US_PER_MS)) != IO_OK)
                return;
        }
        const struct lookup one = act_on(act, act->ids[i]);
        if (one.status == LOOKUP_FAILED)
            act->result = one;
        if (one.status != LOOKUP_FOUND)
            continue;
        act->touched++;
        act_tell(act, act->ids[i]);
    }
}

static void act_main(void *argument)
{
    struct act *act = argument;
    const struct schedule_request *request = act->request;

    if (request->id == 0) {
        if (request->all || request->destination_domain || request->cause)
            act_on_many(act);
        else
            act->result = lookup_absent();
        return;
    }
    act->result = act_on(act, request->id);
    if (act->result.status != LOOKUP_FOUND)
        return;
    act->touched = 1;
    act_tell(act, request->id);
}

struct lookup schedule_act(struct schedule *schedule, const struct schedule_request *request,
                           uint64_t *touched)
{
    struct act act = {.schedule = schedule, .request = request, .result = lookup_absent()};

    *touched = 0;
    if (!schedule_on_loop(schedule, act_main, &act))
        return lookup_failed(LOOKUP_REASON_OVERLOADED, BYTES_LITERAL("no fiber"));
    *touched = act.touched;
    free(act.ids);
    return act.result;
}
