/*
 * What the drivers of LDAP, PostgreSQL and SQLite share with those who ask them: a question, an
 * answer in plain memory, and the table of functions that a driver is. Nothing here knows a
 * library.
 *
 * The drivers with sockets of their own (ldap.c, postgresql.c) are a seam: the kernel's world links
 * them whole, the simulator does not, and then `users = "ldap://..."` is refused at start.
 */
#ifndef DIRECTORY_REMOTE_H
#define DIRECTORY_REMOTE_H

#include "base/base.h"
#include "mail/mail.h"
#include "runtime/runtime.h"

enum {
    REMOTE_FIELD_MAX = 512,
    REMOTE_HANDLE_MAX = 1024,
    REMOTE_WORDS_MAX = 200,
    REMOTE_TARGETS_MAX = 256 * 1024, /* bytes of one alias's values */
    REMOTE_QUERY_MAX = 4096,
};

struct remote_question {
    struct address address;
    char whole[MAIL_ADDRESS_MAX + 2]; /* local@domain in small letters, NUL-ended */
    size_t whole_count, local_count;
    bool of_alias;
    /* Not who it is, but whether this is the password of the entry with this handle (NULL: of
     * nobody, which takes about as long). FOUND or ABSENT. */
    bool is_login;
    const char *handle, *password;
    uint64_t deadline_us;
};
/* False: no directory can hold such an address (too long, a NUL byte, not UTF-8). */
MUST_USE bool remote_question_fill(struct remote_question *question, struct address address);
struct bytes remote_question_whole(const struct remote_question *question);
struct bytes remote_question_local(const struct remote_question *question);
struct bytes remote_question_domain(const struct remote_question *question);

/* Zero is FAILED. Lives in the asking fiber's arena while a worker fills it in. */
struct remote_answer {
    enum lookup_status status;
    enum lookup_reason reason;
    char words[REMOTE_WORDS_MAX];
    bool broken; /* the connection is of no more use */
    char found[REMOTE_FIELD_MAX], password[REMOTE_FIELD_MAX];
    char scram[REMOTE_FIELD_MAX], senders[REMOTE_FIELD_MAX], deliver[REMOTE_FIELD_MAX];
    char handle[REMOTE_HANDLE_MAX]; /* LDAP: the entry's name, to bind as */
    unsigned flags;
    struct buffer targets; /* of an alias: a value a line; freed by who asked */
};
void remote_answer_fail(struct remote_answer *answer, enum lookup_reason reason, const char *format,
                        ...) PRINTF_LIKE(3, 4);
/* One value of an alias; too many of them make the answer PARTIAL. */
void remote_answer_add_target(struct remote_answer *answer, struct bytes value);

/* ------------------------------------------------------------------ drivers */

struct remote_settings {
    const char *location; /* the whole setting, "ldap://..." */
    bool of_aliases;
    uint64_t timeout_us;
};

struct remote_driver {
    bool checks_passwords; /* its servers do, so we need not know any */
    /* Reads the setting; asks nobody. NULL with `why` filled in. */
    void *(*open)(const struct remote_settings *settings, char *why, size_t why_room);
    void (*close)(void *source);
    /* In the worker pool: a connection that is ready for questions, or NULL and why in the answer.
     * Ends by the deadline. */
    void *(*connect)(void *source, uint64_t deadline_us, struct remote_answer *answer);
    /* Ends by the question's deadline. Sleeps. */
    void (*ask)(void *source, void *connection, const struct remote_question *question,
                struct remote_answer *answer);
    void (*disconnect)(void *connection); /* never sleeps */
};
/* Absent (NULL) in a program that does not link them. */
extern const struct remote_driver ldap_driver __attribute__((weak));
extern const struct remote_driver postgresql_driver __attribute__((weak));

/* ------------------------------------------------------------------ a source: pool and breaker */

struct remote;
struct remote_pool_settings {
    const char *name; /* label of the breaker: "ldap://127.0.0.1:389 users" */
    unsigned connections;
    uint64_t timeout_us;
};
MUST_USE struct remote *remote_open(const struct remote_driver *driver, void *source,
                                    const struct remote_pool_settings *settings);
/* Ends the prober and waits for it, bounded. Sleeps. */
void remote_close(struct remote *remote);
/* Fills the answer in; question->deadline_us is set here. Sleeps. */
void remote_ask(struct remote *remote, struct remote_question *question,
                struct remote_answer *answer);

/* ------------------------------------------------------------------ settings as text (pure) */

enum ldap_scope { LDAP_SCOPE_OF_SUB = 0, LDAP_SCOPE_OF_ONE, LDAP_SCOPE_OF_BASE };

enum { LDAP_ATTRIBUTES_MAX = 8 };

/* RFC 4516: SCHEME://HOST:PORT/BASE?ATTRIBUTES?SCOPE?FILTER?EXTENSIONS, each part percent-coded. */
struct ldap_location {
    const char *server; /* "ldap://host:port" */
    const char *base;
    const char *attribute; /* of the canonical address, or of the alias's values */
    enum ldap_scope scope;
    struct bytes filter;                         /* with {address}, {local} and {domain} */
    const char *attributes[LDAP_ATTRIBUTES_MAX]; /* that the filter names */
    unsigned attribute_count;
    bool start_tls;
    const char *bind_name, *password_file, *ca_file; /* or "" */
    const char *deliver; /* attribute of a user's own way of delivery, or "" */
};
/* NULL, or what is wrong. Copies into the arena. */
MUST_USE const char *ldap_location_read(struct arena *arena, struct bytes text, bool of_aliases,
                                        struct ldap_location *location);
/* The template with its placeholders filled in, every inserted byte escaped (RFC 4515). */
void ldap_filter_fill(struct buffer *into, struct bytes filter,
                      const struct remote_question *question);

struct postgresql_location {
    const char *uri;   /* without what is ours, for libpq */
    const char *query; /* with $1 (address), $2 (local), $3 (domain) */
    bool uses[3];
};
MUST_USE const char *postgresql_location_read(struct arena *arena, struct bytes text,
                                              bool of_aliases,
                                              struct postgresql_location *location);

bool table_name_is_fine(struct bytes name);

#endif
