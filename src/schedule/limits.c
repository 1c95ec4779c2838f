/*
 * Bounds by destination and by provider (the `destination` sections): how many connections at once,
 * how many messages an hour. A provider is known by the names of its mail hosts, so that one bound
 * holds for all the domains that it serves. What a bound keeps back is put off untried.
 */
#include "schedule/inside.h"

#include <string.h>

#define HOUR_US (3600 * US_PER_S)
#define FULL_US (2 * US_PER_S) /* all connections are in use: again so soon, give or take */

/* "mx.google.com" is of "google.com", "notgoogle.com" is not. */
static bool name_is_of(struct bytes name, const char *suffix)
{
    const struct bytes wanted = bytes_of_text(suffix);

    if (name.count < wanted.count)
        return false;
    const size_t before = name.count - wanted.count;
    return bytes_equal_nocase(bytes_skip(name, before), wanted) &&
           (before == 0 || name.at[before - 1] == '.');
}

static struct limit *limit_named(struct schedule *schedule, struct bytes name, bool exact)
{
    const struct config *config = schedule->config;

    for (unsigned i = 0; i < config->destination_count; i++) {
        const char *title = config->destinations[i].name;
        if (exact ? bytes_equal_text_nocase(name, title) : name_is_of(name, title))
            return &schedule->limits[i];
    }
    return NULL;
}

/* The domain's own bound, else the one of who receives its mail. Sleeps on DNS. */
static struct limit *limit_find(struct slot *slot)
{
    struct place *place = slot->place;
    struct limit *limit = NULL;

    if (!place->to.via)
        limit = limit_named(slot->schedule, bytes_of_text(place->to.domain), true);
    if (!limit)
        limit = limit_named(slot->schedule, deliver_channel_mail_host(slot->channel, &slot->arena),
                            false);
    return limit;
}

bool limits_open(struct schedule *schedule)
{
    const unsigned count = schedule->config->destination_count;

    schedule->limits = count > 0 ? calloc(count, sizeof(*schedule->limits)) : NULL;
    for (unsigned i = 0; schedule->limits && i < count; i++)
        schedule->limits[i].config = &schedule->config->destinations[i];
    return count == 0 || schedule->limits != NULL;
}

void limit_leave(struct slot *slot)
{
    if (slot->limit)
        slot->limit->active--;
    slot->limit = NULL;
}

/* A connection's share is the slot's for as long as it lives, and serves what that bound is for. */
static bool limit_enter(struct slot *slot)
{
    struct limit *limit = slot->limit_known ? slot->limit : limit_find(slot);

    if (limit && limit != slot->limit && limit->active >= limit->config->connections)
        return false;
    slot->limit_known = true;
    if (limit == slot->limit)
        return true;
    limit_leave(slot);
    if (limit)
        limit->active++;
    slot->limit = limit;
    return true;
}

int64_t limits_delay_until(struct slot *slot)
{
    const uint64_t now_us = clock_now_us();

    if (!slot->schedule->limits || place_pauses(slot->place))
        return 0;
    if (!limit_enter(slot))
        return clock_wall_us() + (int64_t)(FULL_US / 2 + random_u64() % FULL_US);
    struct limit *limit = slot->limit;
    if (!limit || limit->config->messages == 0)
        return 0;
    const uint64_t step_us = HOUR_US / limit->config->messages;
    if (now_us >= limit->next_us) {
        limit->next_us = now_us + step_us;
        return 0;
    }
    /* Spread over the time that those who wait will take. */
    const uint64_t spread_us = step_us * (slot->place->waiting + 1);
    return clock_wall_us() + (int64_t)(limit->next_us - now_us + random_u64() % (spread_us + 1));
}
