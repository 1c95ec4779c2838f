/*
 * What the files of DKIM and ARC share: tag lists, canonical forms, the header's index, one
 * signature, its key. Private to the room.
 */
#ifndef AUTH_DKIM_INSIDE_H
#define AUTH_DKIM_INSIDE_H

#include "auth/auth.h"

/* Bounds. A header beyond them is never signed or verified: AUTH_POLICY. */
#define DKIM_HEAD_MAX_BYTES ((size_t)512 * 1024)
#define DKIM_FIELDS_MAX 4096
#define DKIM_NAMES_MAX 1000    /* in one h= */
#define DKIM_TAGS_MAX 40       /* in one tag list */
#define DKIM_KEY_TEXT_MAX 4096 /* one TXT record */
#define DKIM_KEY_RECORDS_MAX 8 /* TXT records at one name that are looked at */
#define DKIM_RSA_BITS_MIN 1024 /* RFC 8301 3.2 */
#define DKIM_RSA_BITS_MAX 8192 /* larger ones only cost time */
#define DKIM_HASH_OCTETS 32    /* SHA-256 */
#define DKIM_NO_LIMIT UINT64_MAX

/* ------------------------------------------------------------------ tag lists (RFC 6376 3.2) */

struct dkim_tag {
    struct bytes name, value; /* blanks and folding around them gone */
    struct bytes raw;         /* all between '=' and ';' */
};
struct dkim_tags {
    struct dkim_tag tags[DKIM_TAGS_MAX];
    unsigned count;
};
/* False: not the grammar, a tag twice, too many. Views into `text`. */
MUST_USE bool dkim_tags_parse(struct bytes text, struct dkim_tags *tags);
const struct dkim_tag *dkim_tags_find(const struct dkim_tags *tags, const char *name);
struct bytes dkim_tags_value(const struct dkim_tags *tags, const char *name); /* empty: absent */
/* Is `wanted` one of the values between the separators, without case? */
bool dkim_list_has(struct bytes list, uint8_t separator, const char *wanted);
bool dkim_domain_is_valid(
    struct bytes domain); /* dots between labels of letters, digits, '-', '_' */

/* ------------------------------------------------------------------ canonical forms (RFC 6376 3.4)
 */

/* One digest over one canonical form, up to l= octets. */
struct dkim_body_hash {
    struct dkim_body_hash *next;
    struct digest *digest;
    uint64_t limit, hashed;
    uint8_t value[DKIM_HASH_OCTETS];
    bool done; /* `value` is good */
};
struct dkim_body; /* one canonical form and its digests */
struct dkim_bodies {
    struct dkim_body *simple, *relaxed; /* NULL: nobody asked for it */
};
/* The digest for this form and limit, shared by all who ask for the same; NULL on memory. */
MUST_USE struct dkim_body_hash *dkim_bodies_want(struct dkim_bodies *bodies, struct arena *arena,
                                                 bool relaxed, uint64_t limit);
void dkim_bodies_add(struct dkim_bodies *bodies, struct bytes piece);
void dkim_bodies_finish(struct dkim_bodies *bodies); /* once; then `value` stands */
uint64_t dkim_bodies_total(const struct dkim_bodies *bodies, bool relaxed); /* canonical octets */
void dkim_bodies_close(struct dkim_bodies *bodies);

/* Appends one field in its form, ended by CRLF. */
void dkim_field_canonical(struct buffer *into, struct bytes whole, bool relaxed);

/* ------------------------------------------------------------------ the message as it arrives */

struct dkim_intake {
    struct buffer head;
    size_t line_start;
    bool head_done, too_big; /* no memory is in head.failed */
    struct dkim_bodies bodies;
};
/* Takes the header's share of a piece; gives back the body's share. */
struct bytes dkim_intake_head(struct dkim_intake *intake, struct bytes piece);
void dkim_intake_close(struct dkim_intake *intake);

struct dkim_fields {
    struct header_field *fields;
    uint64_t *hashes; /* of the names */
    bool *used;       /* scratch of one signature's selection */
    unsigned count, from_count;
};
enum dkim_index_result { DKIM_INDEX_NO_MEMORY = 0, DKIM_INDEX_DONE, DKIM_INDEX_TOO_MANY };
/* Of too many the first ones are indexed. */
MUST_USE enum dkim_index_result dkim_fields_index(struct arena *arena, struct bytes head,
                                                  struct dkim_fields *fields);

/* ------------------------------------------------------------------ one signature */

enum dkim_form { DKIM_SIGNATURE = 0, DKIM_ARC_MESSAGE, DKIM_ARC_SEAL };

struct dkim_signature {
    enum dkim_form form;
    unsigned index; /* of its field */
    struct header_field field;
    enum auth_result result; /* of `problem` */
    const char *problem;     /* why it cannot pass whatever DNS says; NULL: none found */
    struct bytes domain, selector, identity, algorithm;
    struct bytes names; /* h= */
    struct bytes raw_b; /* the part of field.whole that is b='s value */
    struct bytes b;
    struct bytes signature, body_digest; /* b= and bh=, decoded */
    enum key_kind key;
    bool relaxed_head, relaxed_body;
    uint64_t length; /* l=, or DKIM_NO_LIMIT */
    struct dkim_body_hash *body;
};
void dkim_signature_parse(struct arena *arena, struct header_field field, enum dkim_form form,
                          struct dkim_signature *signature);

/* An open hash over header fields in one form. */
struct dkim_head_hash {
    struct digest *digest;
    struct buffer scratch;
    bool relaxed, failed;
};
MUST_USE bool dkim_head_hash_open(struct dkim_head_hash *hash, bool relaxed);
void dkim_head_hash_add(struct dkim_head_hash *hash, struct bytes whole);
/* The signature's own field comes last: b= emptied, no line end (RFC 6376 3.7). */
void dkim_head_hash_add_last(struct dkim_head_hash *hash, struct bytes whole, struct bytes raw_b);
/* Fields by name, each name taking the lowest one not yet taken (RFC 6376 5.4.2). */
void dkim_head_hash_add_named(struct dkim_head_hash *hash, const struct dkim_fields *fields,
                              struct bytes names, unsigned except);
MUST_USE bool dkim_head_hash_finish(struct dkim_head_hash *hash, uint8_t value[DKIM_HASH_OCTETS]);
void dkim_head_hash_close(struct dkim_head_hash *hash); /* fits CLEANUP */

/* ------------------------------------------------------------------ keys (RFC 6376 3.6.1) */

struct dkim_key {
    enum key_kind kind;
    struct bytes data; /* p=, base 64 */
    bool testing, strict;
};
/* NULL when good, else what is wrong with it. */
MUST_USE const char *dkim_key_parse(struct bytes text, struct dkim_key *key);

struct dkim_outcome {
    enum auth_result result;
    const char *reason;
    bool testing;
};
/* Fetches the key and checks the hash against it. Sleeps. */
struct dkim_outcome dkim_key_judge(const struct auth_dns *dns,
                                   const struct dkim_signature *signature, struct bytes hash);

/* ------------------------------------------------------------------ one message's verification */

struct arc_chain;
struct dkim {
    struct arena *arena;
    struct dkim_intake intake;
    struct dkim_fields fields;
    struct dkim_signature *signatures;
    unsigned count, ignored;
    struct arc_chain *chain; /* NULL: no ARC field */
    bool started, finished;
    bool idle;      /* nobody wants the body */
    bool no_memory; /* ours: everything is a temporary error */
};
void dkim_finish_body(struct dkim *dkim); /* the first time: the last piece has been seen */
/* All that can be said of a message signature: its own parse, the body, the key. Sleeps. */
struct dkim_outcome dkim_judge(const struct dkim *dkim, const struct auth_dns *dns,
                               const struct dkim_signature *signature);

/* ------------------------------------------------------------------ ARC (RFC 8617) */

#define ARC_INSTANCES_MAX 50
struct arc_set {
    const struct header_field *results, *message, *seal;
};
struct arc_chain {
    struct arc_set sets[ARC_INSTANCES_MAX + 1]; /* by instance, from 1 */
    unsigned highest;
    const char *problem;          /* of its structure */
    struct dkim_signature newest; /* the message signature of the highest instance */
};
/* True when there is any ARC field. */
bool arc_chain_collect(const struct dkim_fields *fields, struct arc_chain *chain);
struct bytes arc_seal_verdict(const struct arc_set *set); /* cv= */
/* Everything that the seal of the last one covers but itself. */
void arc_hash_sets(struct dkim_head_hash *hash, const struct arc_chain *chain, unsigned first,
                   unsigned last);

/* ------------------------------------------------------------------ signing */

/* A message read for signing, and the field under construction. */
struct dkim_draft {
    struct arena *arena;
    struct dkim_intake intake;
    struct dkim_fields fields;
    uint8_t body_digest[DKIM_HASH_OCTETS];
};
MUST_USE bool dkim_draft_read(struct dkim_draft *draft, const struct auth_source *message,
                              const char **problem);
void dkim_draft_close(struct dkim_draft *draft); /* fits CLEANUP */
/* The h= list of a signer: its own, or the default one. */
MUST_USE bool dkim_draft_names(const struct dkim_draft *draft, const struct dkim_signer *signer,
                               enum dkim_form form, struct buffer *names);
/* "Name: before b=...; after" folded, with CRLF. `hash` has been fed with what comes before it. */
struct dkim_field_text {
    const char *name;
    struct bytes before, after; /* "a=rsa-sha256; " and "; d=..." */
};
MUST_USE bool dkim_field_sign(struct dkim_head_hash *hash, const struct dkim_signer *signer,
                              const struct dkim_field_text *text, struct buffer *into);
/* Appends words with one space or a fold between them; only b= is cut within. */
void dkim_text_fold(struct buffer *into, const char *name, struct bytes text);
const char *dkim_signer_algorithm(const struct dkim_signer *signer);

#endif
