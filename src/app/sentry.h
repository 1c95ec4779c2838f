/*
 * sentry: what no session notices: the own certificate's end that comes near, and a wall clock that
 * jumps.
 *
 * Flow:   a fiber compares once a second and tells events; the history makes incidents of them.
 * Owns:   what was told last.
 * Sleeps: sentry_close. Fails: never; without memory nobody is warned, which is noted.
 */
#ifndef APP_SENTRY_H
#define APP_SENTRY_H

#include "app/house.h"

struct sentry;

/* The house may change its certificate and configuration on this loop: they are looked at each
 * time. NULL: out of memory. */
MUST_USE struct sentry *sentry_open(const struct house *house);
void sentry_close(struct sentry *sentry); /* NULL is fine. Sleeps. */

/* Which warning a certificate that has so long to live deserves. */
enum certificate_mark {
    CERTIFICATE_FINE = 0,
    CERTIFICATE_DAYS_14,
    CERTIFICATE_DAYS_7,
    CERTIFICATE_DAY_1,
    CERTIFICATE_EXPIRED,
};
enum certificate_mark certificate_mark_of(int64_t left_us);
/* Did the wall clock jump, between two looks, against the one that only goes on? By how much? */
bool clock_has_jumped(int64_t wall_us, int64_t steady_us, int64_t *by_us);

#endif
