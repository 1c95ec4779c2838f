/*
 * directory: who exists: file, SQLite, LDAP, PostgreSQL.
 *
 * Flow:   an address -> FOUND with where it leads, ABSENT by an authoritative answer, or FAILED.
 * Owns:   opened sources; each file is read again when it changes.
 * Sleeps: directory_find_*; blocking libraries run in the worker pool.
 * Fails:  LOOKUP_FAILED with a reason; a missing file or table is MISCONFIGURED, a lock
 * UNAVAILABLE. A domain without a `users` setting takes every local part.
 * Never:  says ABSENT because something broke.
 */
#ifndef DIRECTORY_DIRECTORY_H
#define DIRECTORY_DIRECTORY_H

#include "base/base.h"
#include "config/config.h"
#include "mail/mail.h"
#include "observe/observe.h"
#include "runtime/runtime.h"

struct directory; /* all domains of a configuration */

MUST_USE struct directory *directory_open(const struct config *config, char *why, size_t why_room);
void directory_close(struct directory *directory);

enum directory_flags { DIRECTORY_DISABLED = 1, DIRECTORY_OVER_QUOTA = 2 };

struct directory_user {
    struct address address; /* canonical: without tag */
    struct bytes tag;
    struct bytes password; /* crypt hash, SCRAM keys or empty */
    struct bytes scram;    /* SCRAM keys or empty */
    struct bytes senders;  /* addresses it may send from beside its own, separated by commas */
    struct bytes deliver;  /* his own way of delivery, as a setting has it, or empty */
    struct bytes handle;   /* LDAP: the name of its entry, which checks its password */
    unsigned flags;
};

/* One place an address leads to. */
struct directory_target {
    struct address address;
    bool local;                /* a user of a domain of ours, delivered by its `deliver` */
    struct bytes file_or_pipe; /* "|command" or "/path" from aliases; empty otherwise */
    struct address owner;      /* owner-LIST, when a list led here that has one; or empty */
    struct bytes deliver;      /* of a local user: as in struct directory_user */
    unsigned flags;            /* enum directory_flags, of a local user */
};
struct directory_targets {
    struct directory_target *targets;
    unsigned count;
};

/* Is it a user of this domain (tags removed, aliases not followed)? Sleeps. */
MUST_USE struct lookup directory_find_user(struct directory *directory, struct arena *arena,
                                           struct address address, struct directory_user *user);
/*
 * Follows aliases (bounded: 32 deep, 1,000 targets; a loop is MISCONFIGURED) to final targets.
 * ABSENT: no user, no alias, no catch-all. postmaster without domain is the first domain's. Sleeps.
 */
MUST_USE struct lookup directory_expand(struct directory *directory, struct arena *arena,
                                        struct address address, struct directory_targets *targets);

/* ------------------------------------------------------------------ forwarding (SRS) */

/*
 * The sender on the wire of what an alias leads to elsewhere: rewritten to the domain of
 * `forward { srs_domain }`, or as it is when that is off, for the null sender and for our own.
 * FAILED: the secrets cannot be read. Sleeps.
 */
MUST_USE struct lookup directory_srs_forward(struct directory *directory, struct arena *arena,
                                             struct address sender, struct address *rewritten);
/* Has it the form of such a sender? Then directory_expand leads to the one it stands for. */
bool directory_is_srs(const struct directory *directory, struct address address);

/* The breakers of servers, for `status`. Views live as long as the directory. */
struct directory_breaker {
    const char *dependency;
    bool open;
    unsigned failures;
    int64_t last_failure_wall_us, last_probe_wall_us;
    char words[160];
};
unsigned directory_breakers(struct directory *directory, struct directory_breaker *rows,
                            unsigned room);

/* ------------------------------------------------------------------ passwords */

struct directory_credentials {
    struct address user; /* a domain of ours, or it is unknown; tags are removed */
    struct bytes password;
};
/*
 * FOUND: it is the user's password, and *user is filled in. ABSENT: there is no such user, or it is
 * disabled or has no password, or another one; all take as long. A hash that cannot be read is
 * MISCONFIGURED. Users of LDAP are checked by a bind. Sleeps (worker pool, server).
 */
MUST_USE struct lookup directory_check_password(struct directory *directory, struct arena *arena,
                                                const struct directory_credentials *credentials,
                                                struct directory_user *user);

/* "SCRAM-SHA-256$ITERATIONS:SALT$STORED:SERVER", the last three in base 64 (as RFC 5803 has it). */
struct directory_scram {
    unsigned iterations;
    struct bytes salt, stored_key, server_key; /* decoded; keys have 32 octets */
};
MUST_USE bool directory_parse_scram(struct arena *arena, struct bytes text,
                                    struct directory_scram *scram);
/* False: only the directory's server can check passwords there (LDAP), so SCRAM is not possible. */
bool directory_has_keys(struct directory *directory, struct address address);
/* ABSENT: no such user, or none with such keys, or disabled. Sleeps. */
MUST_USE struct lookup directory_find_scram(struct directory *directory, struct arena *arena,
                                            struct address address, struct directory_scram *scram);

#endif
