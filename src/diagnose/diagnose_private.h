/* What the files of this room share. */
#ifndef DIAGNOSE_PRIVATE_H
#define DIAGNOSE_PRIVATE_H

#include "diagnose/diagnose.h"

#define DIAGNOSE_EVENTS_MAX 10000 /* of one story */

json_t *diagnose_text(struct bytes view);
json_t *diagnose_time(int64_t wall_us); /* null for 0 */
json_t *diagnose_queue_row(const struct spool_row *row);
json_t *diagnose_ledger_row(const struct ledger_row *row);

json_t *diagnose_incident_json(const struct diagnose_place *place, const struct incident_row *row);

/* steps.c: what is known for filling in the commands; NULL and "": not known. */
struct step_facts {
    const char *cause; /* its name */
    bool out;
    const char *subject, *domain, *queued, *id, *recipient, *incident, *spool;
};
json_t *diagnose_steps(const struct step_facts *facts); /* [{"command","purpose"}] */
void diagnose_print_steps(struct buffer *into, const json_t *steps, const char *indent);
/* "mx:example.org" -> "example.org"; "" when the subject is no domain of the other side. */
const char *diagnose_domain_of(const char *subject, bool out);
/* The reply of another side explained, or the row of a cause of ours. */
json_t *diagnose_explained(const char *cause, const char *reply, const char *stage);

/* outlook.c: what a story's recorded facts mean now: "explained", "others", "expires", "incidents",
 * "run". */
void diagnose_add_outlook(const struct diagnose_place *place, json_t *story);
void diagnose_print_outlook(struct buffer *into, const json_t *story); /* print.c */

/* Reading members of a document; "" and 0 when absent. */
const char *diagnose_word(const json_t *object, const char *member);
int64_t diagnose_number(const json_t *object, const char *member);
/* "2026-11-24 09:26:54Z" from the RFC 3339 text of a member; "-" for null. */
const char *diagnose_moment(const json_t *object, const char *member, char *into, size_t room);
/* Adds text with control characters shown as '?', lines indented. */
/* Printable ASCII on one line, for header fields: everything else is '?'. */
void diagnose_add_plain(struct buffer *into, const char *text);
void diagnose_add_safe(struct buffer *into, const char *text, const char *indent);

#endif
