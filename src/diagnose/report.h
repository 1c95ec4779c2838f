/* What the files of the postmaster's report share. Private to the room. */
#ifndef DIAGNOSE_REPORT_H
#define DIAGNOSE_REPORT_H

#include "diagnose/diagnose_private.h"

enum { REPORT_ATTEMPTS_MAX = 60, REPORT_MESSAGES = 3 };

/* The recorded facts of one incident of sending. NULL with why: it cannot be read, or is none. */
json_t *report_facts(const struct diagnose_place *place, uint64_t incident, char *why,
                     size_t why_room);
/* Adds what DNS says of both sides: "addresses", "mx", "records", "spf", "findings". Sleeps. */
void report_add_records(struct arena *arena, const struct report_request *request, json_t *report);
/* The folder's file for this site: SPOOL/reports/SITE.txt */
void report_path(const char *spool, const char *site, char *into, size_t room);
/* The name of the other side, by an incident's subject; returns into. */
const char *report_site(const char *subject, char *into, size_t room);
/* When that file was written; false: there is none. Blocks a moment. */
MUST_USE bool report_drafted(const char *spool, const char *site, int64_t *wall_us);

#endif
