/*
 * The order of the rooms: from the disk upwards when they open, doors first when they stop, and the
 * spool last when they close, since all the others write to it.
 */
#include "app/house.h"

static bool open_storage(struct house *house)
{
    const struct config *config = house->config;
    const struct config_incidents *times = &config->incidents;
    const struct history_settings history = {.directory = config->history,
                                             .overdue_us = config->ledger_overdue_us,
                                             .incidents = {.notice_us = times->notice_us,
                                                           .sustained_us = times->sustained_us,
                                                           .escalate_us = times->escalate_us,
                                                           .settle_us = times->settle_us,
                                                           .calm_us = times->calm_us},
                                             .transcripts_us = config->transcripts_us,
                                             .transcripts_bytes = config->transcripts_bytes};
    struct spool_settings spool = house->spool_sizes;

    spool.directory = config->spool;
    if (!spool_open(&spool, &house->spool, house->why, HOUSE_WHY_ROOM))
        return false;
    house->history = history_open(&history, house->why, HOUSE_WHY_ROOM);
    return house->history != NULL;
}

static bool open_knowledge(struct house *house)
{
    const struct config *config = house->config;
    const struct resolver_settings resolver = {
        .forward = config->resolver.forward,
        .forward_count = config->resolver.forward_count,
        .timeout_us = config->resolver.timeout_us,
        .patience_us = config->resolver.patience_us,
        .serve_stale_us = config->resolver.serve_stale_us,
        .trust_anchor = *config->resolver.trust_anchor ? config->resolver.trust_anchor : NULL,
    };

    house->resolver = resolver_open(&resolver, house->why, HOUSE_WHY_ROOM);
    if (!house->resolver)
        return false;
    house->directory = directory_open(config, house->why, HOUSE_WHY_ROOM);
    if (!house->directory)
        return false;
    const struct policy_settings policy = {.config = config,
                                           .directory = house->directory,
                                           .resolver = house->resolver,
                                           .keys = house->keys,
                                           .directory_of_poison = config->spool};
    house->policy = policy_open(&policy, house->why, HOUSE_WHY_ROOM);
    return house->policy != NULL;
}

/* ------------------------------------------------------------------ scanning later */

static struct io_result body_read(void *body, struct span into, uint64_t offset)
{
    return spool_body_read(body, into, offset);
}

/* What was taken unscanned, brought by schedule to policy. */
static struct verdict scan_later(void *argument, const struct schedule_scan *scan)
{
    const struct house *house = argument;
    const struct unscanned_message unscanned = {
        .id = scan->message,
        .envelope = scan->envelope,
        .source = {body_read, scan->body, spool_body_size(scan->body)}};

    return policy_rescan(house->policy, scan->arena, &unscanned, scan->filter);
}

/* ------------------------------------------------------------------ signing anew */

static void sign_changed(void *argument, struct arena *arena, const struct deliver_changed *changed,
                         struct buffer *into)
{
    struct policy *policy = argument;
    const struct policy_message message = {
        .source = {changed->source->read, changed->source->argument, changed->source->size_bytes},
        .head = changed->head};

    policy_sign_changed(policy, arena, changed->envelope, &message, into);
}

static bool open_delivery(struct house *house)
{
    const struct deliver_settings deliver = {.config = house->config,
                                             .resolver = house->resolver,
                                             .directory = house->directory,
                                             .spool = house->spool,
                                             .tls = house->tls_out,
                                             .tls_directory = house->config->spool,
                                             .runner = house->runner,
                                             .sign = sign_changed,
                                             .sign_argument = house->policy};

    house->deliver = deliver_open(&deliver, house->why, HOUSE_WHY_ROOM);
    return house->deliver != NULL;
}

static bool open_schedule(struct house *house)
{
    const struct schedule_settings schedule = {.config = house->config,
                                               .spool = house->spool,
                                               .deliver = house->deliver,
                                               .scan = scan_later,
                                               .scan_argument = house};
    house->schedule = schedule_open(&schedule, house->why, HOUSE_WHY_ROOM);
    return house->schedule != NULL;
}

static bool open_operator(struct house *house)
{
    const struct operator_settings desk = {.config = house->config,
                                           .spool = house->spool,
                                           .history = house->history,
                                           .directory = house->directory,
                                           .resolver = house->resolver};

    house->desk = operator_open(&desk);
    if (!house->desk)
        snprintf(house->why, HOUSE_WHY_ROOM, "operator: out of memory");
    return house->desk != NULL;
}

bool house_open(struct house *house)
{
    return open_storage(house) && open_knowledge(house) && open_delivery(house) &&
           open_schedule(house) && open_operator(house);
}

static bool open_doors(struct house *house, struct receive *former)
{
    const struct receive_settings receive = {.config = house->config,
                                             .policy = house->policy,
                                             .spool = house->spool,
                                             .directory = house->directory,
                                             .tls = house->tls_in,
                                             .picks_up = house->picks_up,
                                             .connections_max = house->connections_max,
                                             .former = former};

    house->receive = receive_open(&receive, house->why, HOUSE_WHY_ROOM);
    return house->receive != NULL;
}

bool house_open_doors(struct house *house)
{
    return open_doors(house, NULL);
}

/* What a configuration of its own has. */
static void close_knowledge(struct house *house)
{
    if (house->deliver)
        deliver_close(house->deliver);
    if (house->policy)
        policy_close(house->policy);
    if (house->directory)
        directory_close(house->directory);
    if (house->resolver)
        resolver_close(house->resolver);
}

bool house_renew(struct house *house, struct house *next)
{
    next->spool = house->spool;
    next->history = house->history;
    next->schedule = house->schedule;
    bool fine = open_knowledge(next) && open_delivery(next) && open_doors(next, house->receive);
    if (fine && !schedule_renew(next->schedule, next->config, next->deliver)) {
        snprintf(next->why, HOUSE_WHY_ROOM, "no fiber");
        receive_stop(next->receive, clock_now_us());
        fine = false;
    }
    if (!fine) {
        if (receive_close(next->receive))
            close_knowledge(next);
        return false;
    }
    receive_retire(house->receive, next->receive);
    const struct house former = *house;
    *house = *next;
    *next = former;
    /* One desk at a time; what is found out meanwhile stands in the history. */
    if (!operator_close(next->desk) || !open_operator(house))
        observe_note(LOG_ERROR, "app", "nobody will be told of incidents until the next start");
    next->desk = NULL;
    return true;
}

bool house_has_left(const struct house *house, const struct house *former)
{
    return receive_has_left(former->receive) && schedule_has_left(house->schedule, former->deliver);
}

void house_leave(struct house *former)
{
    if (receive_close(former->receive))
        close_knowledge(former);
}

void house_stop(struct house *house, uint64_t deadline_us)
{
    if (house->receive)
        receive_stop(house->receive, deadline_us);
    if (house->schedule)
        schedule_stop(house->schedule, deadline_us);
}

bool house_close(struct house *house)
{
    const bool received = receive_close(house->receive);
    const bool scheduled = schedule_close(house->schedule);
    const bool told = operator_close(house->desk);

    if (!received || !scheduled || !told)
        return false;
    close_knowledge(house);
    if (house->history)
        history_close(house->history);
    if (house->spool)
        spool_close(house->spool);
    return true;
}
