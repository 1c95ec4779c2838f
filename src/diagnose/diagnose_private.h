/* What the files of this room share. */
#ifndef DIAGNOSE_PRIVATE_H
#define DIAGNOSE_PRIVATE_H

#include "diagnose/diagnose.h"

#define DIAGNOSE_EVENTS_MAX 10000 /* of one story */

json_t *diagnose_text(struct bytes view);
json_t *diagnose_time(int64_t wall_us); /* null for 0 */
json_t *diagnose_queue_row(const struct spool_row *row);
json_t *diagnose_ledger_row(const struct ledger_row *row);

/* Reading members of a document; "" and 0 when absent. */
const char *diagnose_word(const json_t *object, const char *member);
int64_t diagnose_number(const json_t *object, const char *member);
/* "2026-11-24 09:26:54Z" from the RFC 3339 text of a member; "-" for null. */
const char *diagnose_moment(const json_t *object, const char *member, char *into, size_t room);
/* Adds text with control characters shown as '?', lines indented. */
void diagnose_add_safe(struct buffer *into, const char *text, const char *indent);

#endif
