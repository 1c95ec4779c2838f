/*
 * What stands in the meta part of records and in the blobs of the index: envelopes, recipients'
 * states, holds. Versioned, big endian, read only through the bounded reader. Pure.
 */
#ifndef SPOOL_CODEC_H
#define SPOOL_CODEC_H

#include "spool/spool.h"

#define ENVELOPE_RECIPIENTS_MAX 100000
#define REPLY_MAX 2048

/* One recipient's state beside its address. Zeroed: fresh, waiting, due at once. */
struct status {
    enum recipient_state state;
    enum cause cause;
    uint32_t attempts;
    bool delay_notified;
    int64_t next_wall_us, last_attempt_wall_us;
    struct bytes reply; /* of malloc where a table owns it, else a view */
};

void envelope_encode(struct buffer *into, const struct envelope *envelope);
/* Views into `encoded`, arrays from the arena. */
MUST_USE bool envelope_decode(struct arena *arena, struct bytes encoded, struct envelope *envelope);

/* What a table has to know of an envelope without decoding all of it. */
struct envelope_facts {
    uint32_t recipient_count;
    int64_t accepted_wall_us;
    bool held;
    struct address from;
    struct bytes user, first_domain; /* of the first recipient */
};
MUST_USE bool envelope_facts(struct bytes encoded, struct envelope_facts *facts);

/* A list of (recipient, status). */
void status_list_begin(struct buffer *into, uint32_t count);
void status_list_add(struct buffer *into, uint32_t recipient, const struct status *status);
struct status_list {
    struct reader reader;
    uint32_t left;
    bool failed;
};
struct status_list status_list_read(struct bytes encoded);
MUST_USE bool status_list_next(struct status_list *list, uint32_t *recipient,
                               struct status *status); /* false at the end or when failed */

/* The meta part of an accepted record. */
struct accepted_meta {
    uint64_t extent_bytes; /* 0: the body is all in the record */
    uint64_t extent_checksum;
    struct bytes envelope;    /* encoded */
    struct bytes status_list; /* encoded, or empty */
    struct bytes mark;        /* of who stored it; mostly empty in a copy */
};
void accepted_meta_encode(struct buffer *into, const struct accepted_meta *meta);
MUST_USE bool accepted_meta_decode(struct bytes encoded, struct accepted_meta *meta);

void held_meta_encode(struct buffer *into, bool held, struct bytes why);
MUST_USE bool held_meta_decode(struct bytes encoded, bool *held, struct bytes *why);

#endif
