/*
 * history: what happened: the events of messages and sessions, ended messages, the ledger of what
 * we deferred. Bounded in rows and days; written asynchronously, read by `why`.
 *
 * Flow:   observe_event -> history's sink queues a copy (bounded; drops are counted) -> its own
 * loop writes batches into SQLite -> `why` reads. Owns:   history.db in a directory that may be the
 * spool's, one writer. Sleeps: only its own loop. Fails:  never towards mail: a full or broken
 * history loses history, counted in a metric. Never:  is asked for a decision about a message's
 * fate.
 */
#ifndef HISTORY_HISTORY_H
#define HISTORY_HISTORY_H

#include "base/base.h"
#include "config/config.h"
#include "mail/mail.h"
#include "observe/observe.h"
#include "runtime/runtime.h"
#include "verdict/verdict.h"

struct history;

/* When an incident is told of again, and when it is over. A zero member takes the default. */
struct incident_times {
    uint64_t notice_us, sustained_us, escalate_us; /* 15 min, 4 h, 24 h after the first failure */
    uint64_t settle_us; /* no failure for so long, and a success since the last: over; 1 min */
    uint64_t calm_us;   /* no failure for so long, though nothing succeeded either: over; 6 h */
};
struct history_settings {
    const char *directory; /* of history.db */
    uint64_t keep_rows;    /* 0: 1,000,000 */
    uint64_t keep_us;      /* 0: 14 days */
    uint64_t overdue_us;   /* when a deferred mail that has not come back is overdue; 0: 24 h */
    struct incident_times incidents;
    uint64_t transcripts_us, transcripts_bytes; /* 0: 7 days, 64 MiB */
};
/* Registers itself as a sink of observe. Sleeps. */
MUST_USE struct history *history_open(const struct history_settings *settings, char *why,
                                      size_t why_room);
void history_flush(struct history *history); /* sleeps until what was queued is written */
void history_close(struct history *history);

/* One event as it was kept. */
struct history_row {
    int64_t wall_us;
    struct bytes event; /* "delivery.deferred" */
    uint64_t message, session;
    struct bytes stage, cause, side, client, helo, from, to, mx, filter, text, enhanced;
    struct bytes tls, destination;
    unsigned code;
    uint32_t attempt;
    int64_t next_wall_us;
    uint64_t took_us, size_bytes;
};
typedef bool history_each(void *argument, const struct history_row *row);
/* In order of time; read-only, works with the server up or down. */
MUST_USE bool history_of_message(const char *directory, uint64_t message, history_each *each,
                                 void *argument, char *why, size_t why_room);
MUST_USE bool history_of_session(const char *directory, uint64_t session, history_each *each,
                                 void *argument, char *why, size_t why_room);

/* All events since then that are kept, in the order of writing. */
MUST_USE bool history_since(const char *directory, int64_t since_wall_us, history_each *each,
                            void *argument, char *why, size_t why_room);

/* The ledger (faults.md, section 2): one row a fingerprint of client network, sender and recipient.
 */
enum ledger_state { LEDGER_STILL_OUT = 0, LEDGER_CAME_BACK, LEDGER_REFUSED_LATER, LEDGER_OVERDUE };
struct ledger_row {
    struct bytes client_network, from, to, cause, dependency;
    int64_t first_wall_us, last_wall_us, ended_wall_us;
    uint32_t attempts;
    enum ledger_state state;   /* OVERDUE by the writer's last setting */
    uint64_t session, message; /* last deferred session; the message it came back as */
};
typedef bool ledger_each(void *argument, const struct ledger_row *row);
MUST_USE bool ledger_view(const char *directory, int64_t since_wall_us, ledger_each *each,
                          void *argument, char *why, size_t why_room);
/* Rows that came back as this message. */
MUST_USE bool ledger_of_message(const char *directory, uint64_t message, ledger_each *each,
                                void *argument, char *why, size_t why_room);

/*
 * An incident groups what fails for one reason (faults.md, section 4): a direction, a cause, and
 * the dependency (in) or the destination (out) that it happens at.
 */
enum incident_direction { INCIDENT_IN = 0, INCIDENT_OUT };
enum incident_state {
    INCIDENT_OPEN = 0,
    INCIDENT_NOTICE,
    INCIDENT_SUSTAINED,
    INCIDENT_ESCALATED,
    INCIDENT_OVER
};
const char *incident_state_name(enum incident_state state);
enum { INCIDENT_MESSAGES_MAX = 24 }; /* remembered by each: the first ones and the latest */

/* Which way a summary reached the operator. */
enum incident_way { INCIDENT_BY_MAIL = 0, INCIDENT_BY_COMMAND, INCIDENT_WAYS };

struct incident_row {
    uint64_t id;
    enum incident_direction direction;
    struct bytes cause, side;
    struct bytes subject; /* "clamav", "resolver", "sick.example"; "mx:example.org" */
    int64_t first_wall_us, last_wall_us, over_wall_us; /* over 0: open */
    int64_t good_wall_us; /* last success at the same place, before or since; 0: none known */
    uint64_t count, good; /* failures; successes since the first of them */
    uint64_t waiting; /* recipients: of ours that wait, or of clients' that have not come back */
    enum incident_state state, mark; /* mark: the highest one it reached, also when it is over */
    enum incident_state told[INCIDENT_WAYS]; /* up to which mark the operator was told */
    struct bytes text, host, from, to;       /* of the latest failure */
};
typedef bool incident_each(void *argument, const struct incident_row *row);
enum incident_choice { INCIDENTS_ALL = 0, INCIDENTS_OPEN, INCIDENTS_TO_TELL };
struct incident_query {
    uint64_t id; /* 0: by the choice */
    enum incident_choice choice;
};
/* The latest first. */
MUST_USE bool incident_view(const char *directory, struct incident_query query, incident_each *each,
                            void *argument, char *why, size_t why_room);
/* Ids of messages that failed because of it: the first ones, then the latest. */
MUST_USE bool incident_messages(const char *directory, uint64_t id,
                                uint64_t messages[INCIDENT_MESSAGES_MAX], unsigned *count);

/* The open ones from memory, as of a moment ago: for `status`, which must not wait for a disk. */
struct incident_brief {
    uint64_t id;
    enum incident_direction direction;
    enum cause cause;
    enum incident_state state;
    char subject[256], text[256];
    int64_t first_wall_us, last_wall_us;
    uint64_t count, waiting;
};
enum { INCIDENT_BRIEFS_MAX = 50 };
unsigned history_incidents(struct history *history,
                           struct incident_brief rows[INCIDENT_BRIEFS_MAX]);

/* The dialogues of failed attempts and deferred sessions, under the id of the message or the
 * session, in order of time. */
struct transcript_row {
    int64_t wall_us;
    uint64_t message, session;
    struct bytes text; /* lines: "< 220 mx", "> EHLO us"; secrets and bodies were never in it */
};
typedef bool transcript_each(void *argument, const struct transcript_row *row);
MUST_USE bool transcript_view(const char *directory, uint64_t id, transcript_each *each,
                              void *argument, char *why, size_t why_room);

#endif
