/*
 * tls.db in the spool's folder: policies of MTA-STS, and what came of TLS, a row a day and kind.
 *
 * Owns:   one SQLite connection, used in the worker pool, one question at a time.
 * Sleeps: every function but the last.
 * Fails:  by false, with a note in the journal: mail then goes by what is published now.
 * Never:  grows beyond its rows; keeps back mail.
 */
#ifndef DELIVER_TLS_STORE_H
#define DELIVER_TLS_STORE_H

#include "deliver/deliver.h"

enum { STS_ID_ROOM = 40, STS_DOMAIN_ROOM = 256, STS_TEXT_ROOM = 64 * 1024 };

/* What is known of one domain. Times are seconds since 1970. */
struct sts_row {
    char domain[STS_DOMAIN_ROOM];
    bool found;
    struct buffer text; /* of the policy; empty: none was ever fetched */
    char id[STS_ID_ROOM];
    int64_t fetched_s, expires_s, refresh_s, used_s;
    int64_t tried_s; /* a fetch that failed */
    char tried_id[STS_ID_ROOM];
};

struct tls_store;
/* NULL: it cannot be used; noted. */
struct tls_store *tls_store_open(const char *directory);
void tls_store_close(struct tls_store *store);

/* The row of row->domain, the text in row->text, which the caller frees. False: not known. */
bool tls_store_read(struct tls_store *store, struct sts_row *row);
void tls_store_write(struct tls_store *store, struct sts_row *row);
/* Domains whose policy is to be fetched again; their count. */
unsigned tls_store_due(struct tls_store *store, int64_t now_s, char domains[][STS_DOMAIN_ROOM],
                       unsigned most);
/* Adds to the days' counts, and forgets what is old. */
bool tls_store_add(struct tls_store *store, const struct tls_result *results, unsigned count);

#endif
