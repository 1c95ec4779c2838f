/*
 * Greylisting (RFC 6647): the first mail of an unknown client network, sender and recipient is
 * deferred; a repeat after `delay` and before `retry` passes, and so does all that follows within
 * `keep` of the last.
 *
 * The table is a SQLite file in the spool's folder, of digests only, bounded in rows. It is asked
 * in the worker pool. Sleeps: there. Fails: a table that cannot be read or written stops nobody,
 * with a note. Never: asks about own networks, users who logged in, or other listeners than SMTP.
 */
#include <sqlite3.h>
#include <string.h>

#include "receive/session.h"

enum { KEY_BYTES = 16, ROWS_MAX = 1000000, PRUNE_EVERY = 1000, BUSY_MS = 2000 };

struct greylist {
    pthread_mutex_t lock; /* one question at a time, on the pool's threads */
    sqlite3 *database;
    const struct config_greylist *settings;
    unsigned questions;
};

struct question {
    struct greylist *greylist;
    uint8_t key[KEY_BYTES];
    int64_t now_s;
    bool failed, passes;
    char why[160];
};

/* ------------------------------------------------------------------ opening */

static const char SCHEMA[] =
    "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;"
    "CREATE TABLE IF NOT EXISTS seen (key BLOB PRIMARY KEY, first INTEGER NOT NULL,"
    " last INTEGER NOT NULL, passed INTEGER NOT NULL) WITHOUT ROWID;"
    "CREATE INDEX IF NOT EXISTS seen_last ON seen (last);";

struct opening {
    struct greylist *greylist;
    char path[4200];
    char why[160];
    bool opened;
};

static void open_in_pool(void *argument)
{
    struct opening *opening = argument;
    sqlite3 **database = &opening->greylist->database;
    const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_FULLMUTEX;

    opening->opened =
        sqlite3_open_v2(opening->path, database, flags, disk_sqlite_vfs()) == SQLITE_OK &&
        sqlite3_busy_timeout(*database, BUSY_MS) == SQLITE_OK &&
        sqlite3_exec(*database, SCHEMA, NULL, NULL, NULL) == SQLITE_OK;
    if (!opening->opened)
        snprintf(opening->why, sizeof opening->why, "%s",
                 *database ? sqlite3_errmsg(*database) : "out of memory");
}

struct greylist *greylist_open(const struct config *config, char *why, size_t why_room)
{
    struct greylist *greylist = calloc(1, sizeof *greylist);
    struct opening *opening = calloc(1, sizeof *opening);

    if (greylist && opening) {
        greylist->settings = &config->greylist;
        pthread_mutex_init(&greylist->lock, NULL);
        opening->greylist = greylist;
        snprintf(opening->path, sizeof opening->path, "%s/greylist.db", config->spool);
        snprintf(opening->why, sizeof opening->why, "no thread");
        if (work_run(open_in_pool, opening) == IO_OK && opening->opened) {
            free(opening);
            return greylist;
        }
        sqlite3_close(greylist->database);
        snprintf(why, why_room, "%s: %s", opening->path, opening->why);
    } else {
        snprintf(why, why_room, "greylist: out of memory");
    }
    free(opening);
    free(greylist);
    return NULL;
}

void greylist_close(struct greylist *greylist)
{
    if (!greylist)
        return;
    sqlite3_close(greylist->database);
    pthread_mutex_destroy(&greylist->lock);
    free(greylist);
}

/* ------------------------------------------------------------------ one question, in the pool */

static int run(sqlite3 *database, const char *text, const struct question *question,
               const int64_t numbers[2], int64_t row[3])
{
    sqlite3_stmt *statement = NULL;
    int result = sqlite3_prepare_v2(database, text, -1, &statement, NULL);

    if (result == SQLITE_OK) {
        sqlite3_bind_blob(statement, 1, question->key, KEY_BYTES, SQLITE_STATIC);
        for (int i = 0; numbers && i < 2; i++)
            sqlite3_bind_int64(statement, i + 2, numbers[i]);
        result = sqlite3_step(statement);
        for (int i = 0; row && result == SQLITE_ROW && i < 3; i++)
            row[i] = sqlite3_column_int64(statement, i);
    }
    sqlite3_finalize(statement);
    return result;
}

/* Rows that no longer mean anything go; when there are still too many, the oldest. */
static int prune(struct greylist *greylist, const struct question *question)
{
    const int64_t keep_s = (int64_t)(greylist->settings->keep_us / US_PER_S);
    const int64_t retry_s = (int64_t)(greylist->settings->retry_us / US_PER_S);
    const int64_t old[2] = {question->now_s - keep_s, question->now_s - retry_s};
    const int64_t most[2] = {ROWS_MAX, 0};

    if (greylist->questions++ % PRUNE_EVERY != 0)
        return SQLITE_DONE;
    const int result =
        run(greylist->database, "DELETE FROM seen WHERE last < ?2 OR (passed = 0 AND first < ?3)",
            question, old, NULL);
    return result != SQLITE_DONE
               ? result
               : run(greylist->database,
                     "DELETE FROM seen WHERE key IN (SELECT key FROM seen ORDER BY last DESC"
                     " LIMIT -1 OFFSET ?2)",
                     question, most, NULL);
}

static int ask(struct greylist *greylist, struct question *question)
{
    const struct config_greylist *settings = greylist->settings;
    const int64_t delay_s = (int64_t)(settings->delay_us / US_PER_S);
    const int64_t retry_s = (int64_t)(settings->retry_us / US_PER_S);
    const int64_t keep_s = (int64_t)(settings->keep_us / US_PER_S);
    int64_t row[3] = {0}, numbers[2] = {question->now_s, 0};
    const int found = run(greylist->database, "SELECT first, last, passed FROM seen WHERE key = ?1",
                          question, NULL, row);

    if (found != SQLITE_ROW && found != SQLITE_DONE)
        return found;
    const int64_t age = question->now_s - row[0];
    const bool known = found == SQLITE_ROW && age >= 0 &&
                       (row[2] ? question->now_s - row[1] <= keep_s : age <= retry_s);
    question->passes = known && (row[2] || age >= delay_s);
    numbers[1] = question->passes;
    return known ? run(greylist->database,
                       "UPDATE seen SET last = ?2, passed = max(passed, ?3) WHERE key = ?1",
                       question, numbers, NULL)
                 : run(greylist->database, "INSERT OR REPLACE INTO seen VALUES (?1, ?2, ?2, ?3)",
                       question, numbers, NULL);
}

static void ask_in_pool(void *argument)
{
    struct question *question = argument;
    struct greylist *greylist = question->greylist;

    pthread_mutex_lock(&greylist->lock);
    int result = prune(greylist, question);
    if (result == SQLITE_DONE)
        result = ask(greylist, question);
    question->failed = result != SQLITE_DONE;
    if (question->failed)
        snprintf(question->why, sizeof question->why, "%s", sqlite3_errmsg(greylist->database));
    pthread_mutex_unlock(&greylist->lock);
}

/* ------------------------------------------------------------------ the session's side */

/* A /24 or /64 stands for the client: senders with many hosts repeat from another one. */
static bool question_key(const struct session *session, struct address to,
                         struct question *question)
{
    const struct endpoint *remote = &session->client.remote;
    const struct address from = session->transaction.envelope.from;
    struct digest *digest = digest_open(DIGEST_SHA256);
    uint8_t whole[DIGEST_MAX];
    const struct bytes parts[] = {
        bytes_of(remote->ip.octets, remote->family == ENDPOINT_IPV6 ? 8 : 3),
        from.local,
        from.domain,
        to.local,
        to.domain,
    };

    for (size_t i = 0; digest && i < COUNT_OF(parts); i++) {
        for (size_t k = 0; k < parts[i].count; k++) {
            const uint8_t octet = i == 0 ? parts[i].at[k] : ascii_lower(parts[i].at[k]);
            digest_add(digest, bytes_of(&octet, 1));
        }
        digest_add(digest, BYTES_LITERAL("\0"));
    }
    const size_t count = digest ? digest_finish(digest, (struct span){whole, sizeof whole}) : 0;
    digest_close(&digest);
    if (count >= KEY_BYTES)
        memcpy(question->key, whole, KEY_BYTES);
    return count >= KEY_BYTES;
}

struct verdict greylist_judge(struct session *session, struct address to)
{
    struct greylist *greylist = session->receive->greylist;
    struct question question = {.greylist = greylist, .now_s = clock_wall_us() / (int64_t)US_PER_S};
    const bool asked = greylist && session->listen->kind == LISTEN_SMTP &&
                       !session->client.may_relay && session->client.user.count == 0 &&
                       session->client.remote.family != ENDPOINT_UNIX;

    if (!asked || !question_key(session, to, &question))
        return verdict_accept();
    if (work_run(ask_in_pool, &question) != IO_OK || question.failed) {
        observe_note(LOG_WARNING, "receive", "greylist: %s; nobody is deferred by it",
                     question.why[0] ? question.why : "no thread");
        return verdict_accept();
    }
    return question.passes ? verdict_accept() : verdict_of(CAUSE_GREYLISTED);
}
