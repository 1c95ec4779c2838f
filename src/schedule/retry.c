/*
 * When to try again and when to give up: pure arithmetic on the `retry` section.
 *
 * A step without "until" is one try; one with "until" repeats while the message is younger than
 * that; the last step repeats for ever.
 */
#include "schedule/inside.h"

#define RETRY_FALLBACK_US (1800 * US_PER_S) /* no schedule configured */
#define NAMED_DEFAULT_US (300 * US_PER_S)
#define NAMED_MAX_US (3600 * US_PER_S)
#define MARK_MAX_US (1000 * 86400 * US_PER_S)
#define NAMED_TRIES_MAX 5 /* a reply that names a short time for ever gets the schedule instead */

static uint64_t step_after(const struct config_retry *retry, uint32_t attempts, uint64_t age_us)
{
    uint32_t single = attempts > 0 ? attempts - 1 : 0;

    for (unsigned i = 0; i < retry->step_count; i++) {
        const struct config_retry_step *step = &retry->steps[i];
        if (i + 1 == retry->step_count)
            return step->every_us;
        if (step->until_us > 0) {
            if (age_us < step->until_us)
                return step->every_us;
        } else if (single == 0) {
            return step->every_us;
        } else {
            single--;
        }
    }
    return RETRY_FALLBACK_US;
}

static uint64_t age_of(int64_t accepted_wall_us, int64_t now_wall_us)
{
    return now_wall_us > accepted_wall_us ? (uint64_t)(now_wall_us - accepted_wall_us) : 0;
}

int64_t schedule_next_wall_us(const struct config_retry *retry, uint32_t attempts,
                              int64_t accepted_wall_us, int64_t now_wall_us, unsigned chance)
{
    const uint64_t step_us = step_after(retry, attempts, age_of(accepted_wall_us, now_wall_us));
    const int64_t percent = (int64_t)MIN_OF(retry->jitter_percent, 50u);
    const int64_t share = (int64_t)MIN_OF(chance, 1000u) - 500; /* -500..500 of the jitter */

    return now_wall_us + (int64_t)step_us + (int64_t)step_us / 100 * percent * share / 500;
}

uint32_t schedule_fair_attempts(const struct config_retry *retry)
{
    uint64_t age_us = 0;
    uint32_t count = 1;

    while (count < 24) {
        age_us += MAX_OF(step_after(retry, count, age_us), UINT64_C(1));
        if (age_us > retry->expire_after_us)
            break;
        count++;
    }
    return MAX_OF(count / 2, 1u);
}

struct verdict schedule_expire(const struct config_retry *retry, uint32_t attempts,
                               int64_t accepted_wall_us, int64_t now_wall_us,
                               struct verdict verdict)
{
    if (verdict.kind != VERDICT_DEFER || cause_row(verdict.cause)->side == SIDE_OURS)
        return verdict;
    if (age_of(accepted_wall_us, now_wall_us) < retry->expire_after_us ||
        attempts < schedule_fair_attempts(retry))
        return verdict;
    return verdict_with(CAUSE_EXPIRED, verdict.detail);
}

/* ------------------------------------------------------------------ greylisting */

static bool says(struct bytes text, const char *word)
{
    return bytes_find_nocase(text, bytes_of_text(word)) < text.count;
}

/* The unit behind a number: "300 seconds", "5min", "10 m"; 0: this number is no time. */
static uint64_t unit_of(struct bytes rest)
{
    while (rest.count > 0 && (rest.at[0] == ' ' || rest.at[0] == '-'))
        rest = bytes_skip(rest, 1);
    if (bytes_starts_with_nocase(rest, BYTES_LITERAL("sec")))
        return US_PER_S;
    if (bytes_starts_with_nocase(rest, BYTES_LITERAL("min")))
        return 60 * US_PER_S;
    if (bytes_starts_with_nocase(rest, BYTES_LITERAL("hour")))
        return 3600 * US_PER_S;
    const bool one_letter = rest.count > 0 && (rest.count == 1 || !ascii_is_alnum(rest.at[1]));
    if (one_letter && ascii_lower(rest.at[0]) == 's')
        return US_PER_S;
    return one_letter && ascii_lower(rest.at[0]) == 'm' ? 60 * US_PER_S : 0;
}

static uint64_t first_time_in(struct bytes text)
{
    for (size_t i = 0; i < text.count;) {
        size_t end = i;
        uint64_t number = 0;
        while (end < text.count && ascii_is_digit(text.at[end]))
            end++;
        if (end == i) {
            i++;
            continue;
        }
        const uint64_t unit_us = unit_of(bytes_skip(text, end));
        if (unit_us > 0 && bytes_to_u64(bytes_slice(text, i, end - i), &number))
            return number < NAMED_MAX_US / unit_us ? number * unit_us : NAMED_MAX_US;
        i = end;
    }
    return 0;
}

uint64_t schedule_named_delay_us(struct bytes reply)
{
    if (!says(reply, "greylist") && !says(reply, "graylist") && !says(reply, "grey-list") &&
        !says(reply, "grey list") && !says(reply, "try again in") && !says(reply, "retry in"))
        return 0;
    const uint64_t named_us = first_time_in(reply);
    return named_us > 0 ? named_us : NAMED_DEFAULT_US;
}

/* ------------------------------------------------------------------ the next try */

/* Not before the named time: a second too early starts a greylisting anew. Never a hot loop. */
static int64_t next_as_named(const struct config_retry *retry, uint64_t named_us, int64_t now)
{
    const uint64_t first_us = step_after(retry, 1, 0);
    const uint64_t wait_us = MAX_OF(named_us, MIN_OF(first_us, 30 * US_PER_S));

    return now + (int64_t)(wait_us + US_PER_S + random_u64() % (wait_us / 10 + 1));
}

bool retry_is_late(const struct config_retry *retry, int64_t age_us)
{
    return retry->warn_after_us > 0 && age_us >= (int64_t)retry->warn_after_us;
}

/* The mark that comes first, warning or expiry, when it lies between now and the next try. */
int64_t retry_before_mark(const struct config_retry *retry, int64_t accepted_wall_us,
                          int64_t next_wall_us)
{
    const int64_t now = clock_wall_us();
    const uint64_t marks_us[] = {retry->warn_after_us, retry->expire_after_us};

    for (unsigned i = 0; i < COUNT_OF(marks_us); i++) {
        const int64_t mark = accepted_wall_us + (int64_t)MIN_OF(marks_us[i], MARK_MAX_US);
        if (marks_us[i] > 0 && now < mark && mark < next_wall_us)
            next_wall_us = mark;
    }
    return next_wall_us;
}

int64_t retry_next_wall_us(const struct config_retry *retry, int64_t accepted_wall_us,
                           uint32_t attempts, const struct outcome *outcome)
{
    const int64_t now = clock_wall_us();
    const bool full = bytes_equal_text(outcome->enhanced, "4.2.2"); /* a full mailbox: go slow */
    const uint64_t named_us = outcome->verdict.cause == CAUSE_REMOTE_DEFERRED
                                  ? schedule_named_delay_us(outcome->reply)
                                  : 0;
    int64_t next = schedule_next_wall_us(retry, full ? attempts + 3 : attempts, accepted_wall_us,
                                         now, (unsigned)(random_u64() % 1001));

    if (named_us > 0 && attempts <= NAMED_TRIES_MAX)
        next = next_as_named(retry, named_us, now);
    next = retry_before_mark(retry, accepted_wall_us, next); /* a try when each is reached */
    if (outcome->verdict.cause == CAUSE_AMBIGUOUS_DOT)
        next = MAX_OF(next, now + (int64_t)retry->ambiguous_pause_us);
    return next;
}
