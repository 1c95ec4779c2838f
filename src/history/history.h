/*
 * history: what happened: the events of messages and sessions, ended messages, the ledger of what
 * we deferred. Bounded in rows and days; written asynchronously, read by `why`.
 *
 * Flow:   observe_event -> history's sink queues a copy (bounded; drops are counted) -> its own
 * loop writes batches into SQLite -> `why` reads. Owns:   history.db in the spool's directory, one
 * writer. Sleeps: only its own loop. Fails:  never towards mail: a full or broken history loses
 * history, counted in a metric. Never:  is asked for a decision about a message's fate.
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
struct history_settings {
    const char *directory; /* the spool's */
    uint64_t keep_rows;    /* 0: 1,000,000 */
    uint64_t keep_us;      /* 0: 14 days */
    uint64_t overdue_us;   /* when a deferred mail that has not come back is overdue; 0: 24 h */
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

/* The ledger (faults.md, section 2): one row a fingerprint of client network, sender and recipient.
 */
enum ledger_state { LEDGER_STILL_OUT = 0, LEDGER_CAME_BACK, LEDGER_REFUSED_LATER, LEDGER_OVERDUE };
struct ledger_row {
    struct bytes client_network, from, to, cause;
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

#endif
