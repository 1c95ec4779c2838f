/* What the files of this room share: cached files, name tables, the sources of a domain. */
#ifndef DIRECTORY_SOURCE_H
#define DIRECTORY_SOURCE_H

#include <pthread.h>

#include "directory/directory.h"
#include "directory/known.h"
#include "directory/remote.h"

/* ------------------------------------------------------------------ names -> values, ASCII case
 * ignored */

struct name_slot {
    struct bytes name;
    void *value;
};
struct name_table {
    struct name_slot *slots;
    size_t room; /* a power of two, at least twice the count */
    size_t count;
};
MUST_USE bool name_table_open(struct name_table *table, struct arena *arena, size_t most);
/* False when the name is there already, or the table is full. */
MUST_USE bool name_table_add(struct name_table *table, struct bytes name, void *value);
void *name_table_find(const struct name_table *table, struct bytes name); /* NULL: absent */

/* ------------------------------------------------------------------ files that are read again
 * when they change */

#define SNAPSHOT_FILES_MAX 64
#define SNAPSHOT_FILE_BYTES_MAX (64 * MIB)

struct watched_file {
    const char *path;
    struct file_facts facts;
    bool read; /* its text was read whole */
};

/* A file (and what it includes) as it was read once. Immutable, shared, freed by its last holder.
 */
struct snapshot {
    _Atomic unsigned holders;
    struct arena arena;
    struct lookup state; /* FOUND: the table stands; FAILED: why it does not */
    struct watched_file files[SNAPSHOT_FILES_MAX];
    unsigned file_count;
    bool fresh; /* changed less than a second before it was read: a writer may be half way */
    struct name_table names;
};

/* Fills snapshot->names from the text, or sets snapshot->state. May read further files. */
typedef void snapshot_parse(struct snapshot *snapshot, struct bytes text);

struct cached_file {
    const char *path;
    snapshot_parse *parse;
    pthread_mutex_t lock; /* around the members below only */
    struct snapshot *now;
    uint64_t looked_us; /* when the look began that gave or confirmed `now` */
    bool looking;       /* a fiber looks at it */
    struct waitlist looked;
};

void cached_file_open(struct cached_file *file, const char *path, snapshot_parse *parse);
void cached_file_close(struct cached_file *file);
/*
 * The file as it stands, looked at again once a second at most, and as it was at `since_us` or
 * later. NULL when memory is out or a look takes too long. Give it back with snapshot_release.
 * Sleeps.
 */
MUST_USE struct snapshot *cached_file_take(struct cached_file *file, uint64_t since_us);
void snapshot_release(struct snapshot *snapshot);

/* For parsers: reads a file whole into the snapshot's arena and watches it. Sleeps. */
MUST_USE struct lookup snapshot_read(struct snapshot *snapshot, const char *path,
                                     struct bytes *text);
/* "FILE:LINE: what"; the state becomes MISCONFIGURED, since a guess could refuse mail. */
void snapshot_malformed(struct snapshot *snapshot, unsigned line, const char *what);

/* ------------------------------------------------------------------ users and aliases in files */

struct file_user {
    struct bytes name; /* as written: "bob" or "bob@example.com" */
    struct bytes password, scram, senders, deliver;
    unsigned flags;
};
void users_parse(struct snapshot *snapshot, struct bytes text); /* names -> struct file_user */

enum alias_kind {
    ALIAS_NAME,    /* a local part of the same domain */
    ALIAS_USER,    /* "\name": the user itself, aliases not followed */
    ALIAS_ADDRESS, /* local@domain */
    ALIAS_PROGRAM, /* "|command" or "/file" */
    ALIAS_INCLUDE, /* ":include:/file" */
};
struct alias_item {
    enum alias_kind kind;
    struct bytes text;
    struct address address;  /* ALIAS_ADDRESS */
    struct alias_list *list; /* ALIAS_INCLUDE */
    struct alias_item *next;
};
struct alias_list {
    struct bytes name;
    struct lookup state; /* FOUND, or why the included file could not be read */
    struct alias_item *items, **end;
};
void aliases_parse(struct snapshot *snapshot, struct bytes text); /* names -> struct alias_list */

/* A value a line, as a table or an LDAP entry has them. Commands, files and includes are refused:
 * only a file of this machine may name those. NULL or what is wrong. */
MUST_USE const char *alias_values_parse(struct arena *arena, struct bytes values,
                                        struct alias_list **list);

/* ------------------------------------------------------------------ tables in SQLite */

struct sqlite_source;
/* `location`: FILE, FILE?table=NAME or FILE?query=SELECT ... NULL with `why` filled in. */
MUST_USE struct sqlite_source *sqlite_source_open(const char *location, bool of_aliases, char *why,
                                                  size_t why_room);
void sqlite_source_close(struct sqlite_source *source);
const char *sqlite_source_name(const struct sqlite_source *source); /* its file */
/* Sleeps (worker pool). */
void sqlite_ask(struct sqlite_source *source, const struct remote_question *question,
                struct remote_answer *answer);

/* ------------------------------------------------------------------ passwords */

#define PASSWORD_HASH_MAX 512

/* Few at once, so that a flood of logins leaves threads of the pool to the disk. */
struct password_desk {
    pthread_mutex_t lock; /* around the members below only */
    unsigned busy;
    struct waitlist freed;
    char decoy[PASSWORD_HASH_MAX]; /* the last hash met: checked when there is no user */
};
void password_desk_open(struct password_desk *desk);
void password_desk_close(struct password_desk *desk);

/* ------------------------------------------------------------------ a domain's sources */

enum source_kind {
    SOURCE_NONE = 0, /* users: every local part is one; aliases: there are none */
    SOURCE_FILE,
    SOURCE_SQLITE,
    SOURCE_REMOTE,
};
struct source {
    enum source_kind kind;
    struct cached_file file;
    struct sqlite_source *sqlite;
    struct remote *remote; /* domains with the same setting share it */
    /* Of users in LDAP: connections that bind as users, and therefore are never searched with.
     * NULL: passwords are hashes. */
    struct remote *logins;
};
struct directory_domain {
    const struct config_domain *config;
    struct source users, aliases;
};
struct directory {
    const struct config *config;
    struct directory_domain *domains;
    unsigned domain_count;
    struct password_desk passwords;
    struct cached_file srs_secrets;
    struct remote **remotes; /* with the setting of each */
    const char **remote_settings;
    unsigned remote_count;
    struct known_table known;
};
/* NULL: not ours. An empty domain with the local part postmaster is the first domain's. */
struct directory_domain *directory_domain_of(struct directory *directory, struct address address);

/* One look-up of a caller: what it has to remember beside the answer. */
struct search {
    struct directory *directory;
    struct arena *arena;
    uint64_t since_us; /* what a file said before this is of no use */
    bool fresh;        /* a file that was asked had just changed */
};
/* One form of the local part; tags are not looked at. Sleeps. */
MUST_USE struct lookup search_user(struct search *search, struct directory_domain *domain,
                                   struct address address, struct directory_user *user);
/*
 * The alias of this address. *list stays valid while *held is held; release it with
 * snapshot_release (NULL is fine). Sleeps.
 */
MUST_USE struct lookup search_alias(struct search *search, struct directory_domain *domain,
                                    struct address address, struct snapshot **held,
                                    const struct alias_list **list);

/* The secrets of a file, the first of which makes addresses. */
enum { SRS_SECRETS_MAX = 16, SRS_DAYS = 1024 };
struct srs_secrets {
    struct bytes secrets[SRS_SECRETS_MAX];
    unsigned count;
};
void srs_secrets_parse(struct snapshot *snapshot, struct bytes text);
/* The local part that stands for this sender on that day (modulo SRS_DAYS); empty: no memory. */
struct bytes srs_encode(struct arena *arena, const struct srs_secrets *secrets,
                        struct address sender, unsigned day);
/* The sender behind a local part, when one of the secrets made it and it is at most `most` days
 * old; else ABSENT. */
struct srs_time {
    unsigned day;
    uint64_t most;
};
MUST_USE struct lookup srs_decode(struct arena *arena, const struct srs_secrets *secrets,
                                  struct bytes local, struct srs_time time,
                                  struct address *original);
/* An address of directory_is_srs: FOUND with the sender that it stands for, ABSENT when it is not
 * ours or too old. Sleeps on the file of secrets. */
MUST_USE struct lookup srs_reverse(struct directory *directory, struct arena *arena,
                                   struct address address, struct address *original);

void remote_fill_row(struct remote *remote, struct directory_breaker *row);

/* The look-ups of the room, without what is known from before. Sleep. */
MUST_USE struct lookup expand_now(struct directory *directory, struct arena *arena,
                                  struct address address, struct directory_targets *targets);
MUST_USE struct lookup find_user_now(struct directory *directory, struct arena *arena,
                                     struct address address, struct directory_user *user);

/* NULL or what is wrong with a user's own way of delivery. A table may not name commands: who can
 * write to it could then run them. */
MUST_USE const char *user_deliver_check(struct bytes deliver);
/* And is it among those that the configuration lets users have? */
MUST_USE const char *user_deliver_allowed(const struct config *config, struct bytes deliver);

/* "user+tag" -> "user" and "tag"; false when there is no tag. */
bool address_split_tag(const struct config_domain *domain, struct bytes local, struct bytes *user,
                       struct bytes *tag);

#endif
