/*
 * Flushes: what waits in the spool for its next time is brought back at once, because a destination
 * answers again, or an operator wants it tried. A flush takes from a list of ids only what can be
 * tried now, so a recovered destination is met by as many connections as its window grows to, not
 * by its whole queue; when it fails again, the rest waits for its own time.
 */
#include "schedule/inside.h"

#include <string.h>

#define FLUSH_IDS_MAX 10000000
#define FLUSH_LOOK_US (20 * US_PER_MS)

struct flush {
    struct flush *next;
    struct schedule *schedule;
    struct fiber *fiber;
    struct id_list list;
    bool has_key;
    uint64_t beyond_us;
    char key[320], domain[256], aside[256], cause[64], sender[MAIL_ADDRESS_MAX];
};

/* ------------------------------------------------------------------ what is brought back */

struct collect {
    struct schedule *schedule;
    const struct flush_request *request;
    struct id_list *list;
    int64_t beyond_wall_us;
    char last_domain[256]; /* a queue is often for few domains in a row */
    bool last_matched, viewed;
    char why[256];
};

/* Pure but for the configuration, which does not change: it may run on another thread. */
static bool goes_there(struct collect *collect, struct bytes domain)
{
    const struct recipient anybody = {.address.domain = domain};
    struct destination to;

    if (!collect->request->key)
        return true;
    const char *aside = collect->request->aside;
    if (aside && (strcmp(aside, ANY_DOMAIN) == 0 || bytes_equal_text_nocase(domain, aside)))
        return true; /* who takes it looks whether it really goes there */
    if (bytes_equal_text(domain, collect->last_domain))
        return collect->last_matched;
    deliver_route(collect->schedule->deliver, &anybody, &to);
    snprintf(collect->last_domain, sizeof(collect->last_domain), "%.*s", BYTES_PRINT(domain));
    collect->last_matched = strcmp(to.key, collect->request->key) == 0;
    return collect->last_matched;
}

static bool collect_row(void *argument, const struct spool_row *row)
{
    struct collect *collect = argument;
    struct id_list *list = collect->list;

    if (row->state != RECIPIENT_WAITING || row->next_wall_us <= collect->beyond_wall_us ||
        !goes_there(collect, row->domain) ||
        (list->count > 0 && list->ids[list->count - 1] == row->id))
        return true;
    if (list->count == list->room) {
        const size_t room = list->room ? list->room * 2 : 256;
        uint64_t *ids = reallocarray(list->ids, room, sizeof(*ids));
        if (!ids)
            return false;
        list->ids = ids;
        list->room = room;
    }
    list->ids[list->count++] = row->id;
    return list->count < FLUSH_IDS_MAX;
}

static void collect_main(void *argument)
{
    struct collect *collect = argument;
    const struct flush_request *request = collect->request;
    const struct spool_view_filter filter = {.domain = request->domain,
                                             .cause = request->cause,
                                             .sender = request->sender,
                                             .brief = true};

    collect->viewed = spool_view(collect->schedule->config->spool, &filter, collect_row, collect,
                                 collect->why, sizeof(collect->why));
}

bool flush_collect(struct schedule *schedule, const struct flush_request *request,
                   struct id_list *list)
{
    struct collect collect = {
        .schedule = schedule, .request = request, .list = list, .beyond_wall_us = INT64_MIN};

    if (request->beyond_us > 0)
        collect.beyond_wall_us = clock_wall_us() + (int64_t)request->beyond_us;
    const enum io_status status = work_run(collect_main, &collect);

    if (status == IO_OK && collect.viewed)
        return true;
    observe_note(LOG_ERROR, "schedule", "the queue could not be listed: %s", collect.why);
    return false;
}

/* ------------------------------------------------------------------ at its pace */

static bool flush_may_take(const struct flush *flush)
{
    struct schedule *schedule = flush->schedule;
    const struct place *place = flush->has_key ? place_known(schedule, flush->key) : NULL;

    return schedule->leased < SCHEDULE_MESSAGES_MAX / 4 * 3 &&
           (!place || place->waiting < 2 * pool_limit(place->pool) + 2);
}

/* The destination fails again, or somebody suspended it. */
static bool flush_is_vain(const struct flush *flush)
{
    const struct place *place = flush->has_key ? place_known(flush->schedule, flush->key) : NULL;

    return place && (place_pauses(place) || order_that_suspends(flush->schedule, flush->key,
                                                                bytes_of_text(place->to.domain)));
}

static bool flush_goes_on(const struct flush *flush)
{
    return !flush->schedule->stopping && !fiber_cancelled() && !flush_is_vain(flush);
}

static void flush_take(const struct flush *flush, uint64_t id)
{
    struct queued_message *message = NULL;
    const struct hold_choice choice = {.untimely = true,
                                       .only = flush->has_key ? flush->key : NULL};
    const struct lookup taken = spool_take_id(flush->schedule->spool, id, &message);

    /* Whoever held it meant it for this day too: only a release sends it. */
    if (taken.status == LOOKUP_FOUND && message->envelope.held)
        spool_release(flush->schedule->spool, message);
    else if (taken.status == LOOKUP_FOUND && !hold_add(flush->schedule, message, &choice))
        observe_note(LOG_ERROR, "schedule", "out of memory: a message waits for its own time");
}

static void flush_run(struct flush *flush)
{
    for (size_t i = 0; i < flush->list.count && flush_goes_on(flush);) {
        if (flush_may_take(flush))
            flush_take(flush, flush->list.ids[i++]);
        else if (fiber_sleep_until(deadline_in(FLUSH_LOOK_US)) != IO_OK)
            return;
    }
}

static void flush_end(struct flush *flush)
{
    struct flush **at = &flush->schedule->flushes;

    while (*at != flush)
        at = &(*at)->next;
    *at = flush->next;
    flush->schedule->flush_count--;
    free(flush->list.ids);
    free(flush);
}

static const char *text_or_null(const char *text)
{
    return *text ? text : NULL;
}

static void flush_main(void *argument)
{
    struct flush *flush = argument;
    const struct flush_request request = {.key = flush->has_key ? flush->key : NULL,
                                          .domain = text_or_null(flush->domain),
                                          .aside = text_or_null(flush->aside),
                                          .cause = text_or_null(flush->cause),
                                          .sender = text_or_null(flush->sender),
                                          .beyond_us = flush->beyond_us};

    if (flush->list.count > 0 || flush_collect(flush->schedule, &request, &flush->list))
        flush_run(flush);
    else if (flush->beyond_us > 0)
        flush->schedule->strays_wanted = true;
    flush_end(flush);
}

static bool flush_is_under_way(const struct schedule *schedule, const char *key)
{
    for (const struct flush *flush = schedule->flushes; key && flush; flush = flush->next)
        if (flush->has_key && strcmp(flush->key, key) == 0)
            return true;
    return false;
}

bool flush_start(struct schedule *schedule, const struct flush_request *request)
{
    struct flush *flush = NULL;

    if (schedule->flush_count < FLUSHES_MAX && !schedule->stopping &&
        !flush_is_under_way(schedule, request->key))
        flush = calloc(1, sizeof(*flush));
    if (!flush) {
        free(request->ids);
        return false;
    }
    *flush = (struct flush){.next = schedule->flushes,
                            .schedule = schedule,
                            .has_key = request->key != NULL,
                            .beyond_us = request->beyond_us,
                            .list = {request->ids, request->id_count, request->id_count}};
    snprintf(flush->key, sizeof(flush->key), "%s", request->key ? request->key : "");
    snprintf(flush->domain, sizeof(flush->domain), "%s", request->domain ? request->domain : "");
    snprintf(flush->aside, sizeof(flush->aside), "%s", request->aside ? request->aside : "");
    snprintf(flush->cause, sizeof(flush->cause), "%s", request->cause ? request->cause : "");
    snprintf(flush->sender, sizeof(flush->sender), "%s", request->sender ? request->sender : "");
    schedule->flushes = flush;
    schedule->flush_count++;
    flush->fiber = fiber_start("flush", flush_main, flush);
    if (flush->fiber)
        return true;
    flush_end(flush);
    return false;
}

/* ------------------------------------------------------------------ a clock that was wrong */

#define CLOCK_SLACK_US (60 * US_PER_S)
#define STRAYS_PAUSE_US (60 * US_PER_S)

/* Nothing waits longer than that by any rule. */
static uint64_t longest_wait_us(const struct config_retry *retry)
{
    uint64_t longest_us = retry->ambiguous_pause_us;

    for (unsigned i = 0; i < retry->step_count; i++)
        longest_us = MAX_OF(longest_us, retry->steps[i].every_us);
    return 2 * longest_us + 3600 * US_PER_S;
}

/*
 * Times of retries are on the disk by the wall clock. What was put off while that was years ahead
 * would wait for years when it is right again, so after the start, and when it has gone back, mail
 * that is not due for longer than any rule says is tried now.
 */
void flush_watch_clock(struct schedule *schedule)
{
    const int64_t offset_us = clock_wall_us() - (int64_t)clock_now_us();
    const struct flush_request strays = {.beyond_us = longest_wait_us(&schedule->config->retry)};

    if (offset_us < schedule->clock_offset_us - (int64_t)CLOCK_SLACK_US)
        schedule->strays_wanted = true;
    schedule->clock_offset_us = offset_us;
    if (!schedule->strays_wanted || clock_now_us() < schedule->strays_next_look_us)
        return;
    schedule->strays_next_look_us = deadline_in(STRAYS_PAUSE_US);
    schedule->strays_wanted = !flush_start(schedule, &strays);
}

void flushes_cancel(struct schedule *schedule)
{
    for (struct flush *flush = schedule->flushes; flush; flush = flush->next)
        fiber_cancel(flush->fiber);
}
