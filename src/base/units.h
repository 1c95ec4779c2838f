/*
 * Units. Monotonic instants are uint64_t microseconds named *_us or deadline_us; wall-clock
 * instants are int64_t microseconds since 1970 UTC named wall_us. Durations carry their unit last.
 */
#ifndef BASE_UNITS_H
#define BASE_UNITS_H

#include "base/arena.h"
#include "base/bytes.h"

#define US_PER_MS UINT64_C(1000)
#define US_PER_S UINT64_C(1000000)
#define KIB UINT64_C(1024)
#define MIB (UINT64_C(1024) * KIB)
#define DEADLINE_NEVER UINT64_MAX

/* "2026-11-24T09:26:54.000123Z"; into needs TIME_TEXT_MAX. Returns into. */
#define TIME_TEXT_MAX 40
char *time_print_rfc3339(int64_t wall_us, char *into, size_t room);
/* RFC 5322 date-time in UTC: "Tue, 24 Nov 2026 09:26:54 +0000". */
char *time_print_rfc5322(int64_t wall_us, char *into, size_t room);

/* "300ms", "30s", "5m", "4h", "5d", "1h30m", "0"; microseconds. Refuses a bare number except 0. */
MUST_USE bool duration_parse(struct bytes text, uint64_t *duration_us);
char *duration_print(uint64_t duration_us, char *into, size_t room); /* "3 h 10 min", "300 ms" */
/* "50M", "64K", "1G", "1234" (bytes); powers of 1024. */
MUST_USE bool size_parse(struct bytes text, uint64_t *size_bytes);

/* Message and session ids: 64 bits as 13 characters of Crockford's base 32, upper case. */
#define ID_TEXT_MAX 16
char *id_print(uint64_t id, char *into, size_t room);
MUST_USE bool id_parse(struct bytes text,
                       uint64_t *id); /* accepts lower case, refuses other lengths */

/* "%41" -> "A" (RFC 3986 2.1), into the arena; false at a half escape or a NUL. */
MUST_USE bool percent_decode(struct arena *arena, struct bytes text, struct bytes *plain);

#endif
