/*
 * The operator's actions. One by id goes straight to the spool or to the lease in memory; those by
 * destination, cause, sender or all first read the ids from the spool's view, in the worker pool,
 * and are then done by some fibers side by side, so that they share the spool's syncs. A message
 * that is being delivered at this moment is left alone and not counted.
 *
 * Each message's own journal tells what was done to it and by whom; an action on many has a line of
 * its own besides.
 */
#include "schedule/inside.h"

#include <string.h>

#define ACT_FIBERS 512 /* the spool's writer takes so many in one batch, under one sync */

struct act {
    struct schedule *schedule;
    const struct schedule_request *request;
    uint64_t touched;
    struct lookup result;
    struct id_list list;
    size_t next;      /* of the list */
    unsigned working; /* fibers */
    struct fiber *owner;
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
    case ACTION_REROUTE:
        return "reroute";
    case ACTION_SUSPEND:
        return "suspend";
    case ACTION_RESUME:
        return "resume";
    }
    return "";
}

static const char *act_who(const struct act *act)
{
    return act->request->who ? act->request->who : "operator";
}

static void act_tell(const struct act *act, uint64_t id)
{
    const struct schedule_request *request = act->request;
    char text[512];

    snprintf(text, sizeof(text), "%s by %.100s%s%.200s", action_name(request->action), act_who(act),
             request->via ? " via " : "", request->via ? request->via : "");
    const struct event event = {
        .kind = EVENT_OPERATOR_ACTION, .message = id, .text = bytes_of_text(text)};
    observe_event(&event);
}

/* The line of an action on many, or on a destination. */
static void act_tell_all(const struct act *act)
{
    const struct schedule_request *request = act->request;
    const struct {
        const char *name, *value;
    } chosen[] = {{"dest", request->destination_domain},
                  {"cause", request->cause},
                  {"sender", request->sender},
                  {"via", request->via}};
    CLEANUP(buffer_free) struct buffer text = BUFFER_WITH_LIMIT(4 * KIB);

    buffer_print(&text, "%s by %.100s:", action_name(request->action), act_who(act));
    for (size_t i = 0; i < COUNT_OF(chosen); i++)
        if (chosen[i].value)
            buffer_print(&text, " %s=%.300s", chosen[i].name, chosen[i].value);
    if (request->all)
        buffer_add_text(&text, " all");
    buffer_print(&text, ": %llu message(s)", (unsigned long long)act->touched);
    const struct event event = {.kind = EVENT_OPERATOR_ACTION, .text = buffer_view(&text)};
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
    const struct hold_choice all = {.untimely = true};
    if (!hold_add(schedule, message, &all))
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

/* The next recipients that wait and have their return path in common; false when none is left. */
static bool end_collect(const struct act *act, const struct queued_message *message,
                        struct report *report)
{
    const struct recipient *recipients = message->envelope.recipients, *first = NULL;

    report->count = 0;
    for (uint32_t i = 0; i < message->envelope.recipient_count; i++) {
        if (message->recipients[i].state != RECIPIENT_WAITING ||
            (first && !deliver_may_share(act->schedule->deliver, first, &recipients[i])))
            continue;
        if (!first)
            first = &recipients[i];
        end_decide(message, act->request->action, i, &report->decisions[report->count++]);
    }
    return first != NULL;
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

    bool settled = report.decisions != NULL;
    const bool masked = fiber_mask_cancel(true);
    while (settled && end_collect(act, message, &report))
        settled = settle_report(&report);
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
        return spool_hold(act->schedule->spool, id, true, bytes_of_text(act_who(act)));
    case ACTION_RELEASE:
        return spool_hold(act->schedule->spool, id, false, BYTES_EMPTY);
    case ACTION_DROP:
    case ACTION_BOUNCE:
        return act_end(act, id);
    case ACTION_REROUTE: /* what waits in memory by the old way goes back, and is tried now */
        if (!act_withdraw(act->schedule, id))
            return lookup_absent();
        return act_retry(act->schedule, id);
    case ACTION_SUSPEND:
    case ACTION_RESUME:
        break;
    }
    return lookup_absent();
}

/* ------------------------------------------------------------------ many */

static void act_worker(void *argument)
{
    struct act *act = argument;

    while (act->next < act->list.count && !act->schedule->stopping) {
        const uint64_t id = act->list.ids[act->next++];
        const struct lookup one = act_on(act, id);
        if (one.status == LOOKUP_FAILED)
            act->result = one;
        if (one.status != LOOKUP_FOUND)
            continue;
        act->touched++;
        act_tell(act, id);
    }
    if (--act->working == 0)
        fiber_wake(act->owner);
}

static void act_on_list(struct act *act)
{
    const bool masked = fiber_mask_cancel(true); /* the workers stand on this stack */

    act->owner = fiber_self();
    act->working = 1; /* this fiber itself: it works, too, when no other can be had */
    for (unsigned i = 1; i < ACT_FIBERS && i < act->list.count; i++) {
        if (!fiber_start("operator", act_worker, act))
            break;
        act->working++;
    }
    act_worker(act);
    while (act->working > 0) {
        const enum io_status status = fiber_park(deadline_in(US_PER_S));
        (void)status; /* only the count counts */
    }
    fiber_mask_cancel(masked);
}

static void act_clear_pauses(struct schedule *schedule, const char *domain)
{
    for (unsigned i = 0; i < SCHEDULE_BUCKETS; i++)
        for (struct place *place = schedule->buckets[i]; place; place = place->next_in_bucket)
            if (!domain || place->to.via || strcmp(place->to.domain, domain) == 0)
                place_clear_pause(place);
}

/* Goes on by itself: so many cannot be tried at once. */
static void act_retry_list(struct act *act)
{
    const struct flush_request flush = {.ids = act->list.ids, .id_count = act->list.count};

    act->touched = act->list.count;
    for (size_t i = 0; i < act->list.count; i++)
        act_tell(act, act->list.ids[i]);
    act_clear_pauses(act->schedule, act->request->destination_domain);
    act->list = (struct id_list){0};
    if (!flush_start(act->schedule, &flush)) {
        act->touched = 0;
        act->result = lookup_failed(LOOKUP_REASON_OVERLOADED, BYTES_LITERAL("too many under way"));
    }
}

/* "mx:there.example", "smtp:192.0.2.1:25", not "[IPv6:2001:db8::1]". */
static bool is_key(const char *what)
{
    return what && *what != '[' && strchr(what, ':');
}

static bool act_list(struct act *act)
{
    const struct schedule_request *request = act->request;
    const bool by_key = is_key(request->destination_domain);
    const struct flush_request chosen = {.key = by_key ? request->destination_domain : NULL,
                                         .domain = by_key ? NULL : request->destination_domain,
                                         .cause = request->cause,
                                         .sender = request->sender};

    if (flush_collect(act->schedule, &chosen, &act->list)) {
        act->result = act->list.count > 0 ? lookup_found() : lookup_absent();
        return true;
    }
    act->result = lookup_failed(LOOKUP_REASON_UNAVAILABLE, bytes_of_text("queue view failed"));
    return false;
}

static bool act_list_one(struct act *act, uint64_t id)
{
    act->list.ids = calloc(1, sizeof(*act->list.ids));
    if (!act->list.ids)
        return false;
    act->list.ids[0] = id;
    act->list.count = act->list.room = 1;
    return true;
}

static void act_on_many(struct act *act)
{
    if (!act_list(act))
        return;
    if (act->request->action == ACTION_RETRY && act->list.count > 0)
        act_retry_list(act);
    else
        act_on_list(act);
}

/* ------------------------------------------------------------------ standing orders */

/* What waits in memory for a destination goes back to the spool, to be taken anew under the new
 * order. What is being delivered ends as it began. */
static void act_take_back(struct schedule *schedule, const char *what)
{
    for (unsigned i = 0; i < HOLD_BUCKETS; i++) {
        for (struct hold *hold = schedule->holds[i], *next; hold; hold = next) {
            const struct envelope *envelope = &hold->message->envelope;
            bool concerned = false;
            next = hold->next;
            for (const struct job *job = hold->jobs; job && !concerned; job = job->hold_next)
                concerned = strcmp(job->place->to.key, what) == 0;
            for (uint32_t r = 0; r < envelope->recipient_count && !concerned; r++)
                concerned = bytes_equal_text_nocase(envelope->recipients[r].address.domain, what);
            if (concerned && !act_withdraw(schedule, hold->message->id))
                continue; /* a slot works on it */
        }
    }
}

static void act_suspend(struct act *act)
{
    const char *what = act->request->destination_domain;

    act->result = order_suspend(act->schedule, what, act_who(act));
    if (act->result.status != LOOKUP_FOUND)
        return;
    act_take_back(act->schedule, what);
    if (act_list(act))
        act->touched = act->list.count;
    act->result = lookup_found();
}

static void act_resume(struct act *act)
{
    const char *what = act->request->destination_domain;
    const struct recipient anybody = {.address.domain = bytes_of_text(what)};
    struct destination to;

    act->result = order_resume(act->schedule, what);
    if (act->result.status != LOOKUP_FOUND || !act_list(act))
        return;
    deliver_route(act->schedule->deliver, &anybody, &to);
    const struct flush_request flush = {
        .key = is_key(what) ? what : to.key, .ids = act->list.ids, .id_count = act->list.count};
    act->touched = act->list.count;
    act->list = (struct id_list){0};
    if (act->touched > 0 && !flush_start(act->schedule, &flush))
        observe_note(LOG_WARNING, "schedule", "%s: its queue is tried when each message is due",
                     what);
    act->result = lookup_found();
}

/* A destination by one order, which holds for what comes later as well; others one by one. */
static void act_reroute(struct act *act)
{
    const struct schedule_request *request = act->request;
    const bool by_domain =
        request->destination_domain && !request->id && !request->cause && !request->sender;
    struct order_route route = {.via = request->via, .who = act_who(act)};

    if (request->id ? !act_list_one(act, request->id) : !act_list(act))
        return;
    route.domain = by_domain ? request->destination_domain : NULL;
    route.messages = by_domain ? NULL : act->list.ids;
    route.message_count = by_domain ? 0 : act->list.count;
    act->result = order_reroute(act->schedule, &route);
    if (act->result.status != LOOKUP_FOUND)
        return;
    if (by_domain)
        act_take_back(act->schedule, request->destination_domain);
    act_on_list(act);
}

static bool act_is_sound(const struct schedule_request *request)
{
    const bool chosen = request->id || request->all || request->destination_domain ||
                        request->cause || request->sender;

    if (request->action == ACTION_SUSPEND || request->action == ACTION_RESUME)
        return request->destination_domain &&
               strpbrk(request->destination_domain, "\t\n\r") == NULL;
    return chosen;
}

static void act_main(void *argument)
{
    struct act *act = argument;
    const struct schedule_request *request = act->request;

    if (!act_is_sound(request))
        return;
    if (request->id && request->action != ACTION_REROUTE) {
        act->result = act_on(act, request->id);
        act->touched = act->result.status == LOOKUP_FOUND;
        if (act->touched)
            act_tell(act, request->id);
        return;
    }
    if (request->action == ACTION_SUSPEND)
        act_suspend(act);
    else if (request->action == ACTION_RESUME)
        act_resume(act);
    else if (request->action == ACTION_REROUTE)
        act_reroute(act);
    else
        act_on_many(act);
    if (act->result.status == LOOKUP_FOUND)
        act_tell_all(act);
}

struct lookup schedule_act(struct schedule *schedule, const struct schedule_request *request,
                           uint64_t *touched)
{
    struct act act = {.schedule = schedule, .request = request, .result = lookup_absent()};

    *touched = 0;
    if (!schedule_on_loop(schedule, act_main, &act))
        return lookup_failed(LOOKUP_REASON_OVERLOADED, BYTES_LITERAL("no fiber"));
    *touched = act.touched;
    free(act.list.ids);
    return act.result;
}
