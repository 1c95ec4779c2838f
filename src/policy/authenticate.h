/* SPF, DKIM, ARC and DMARC of one transaction, what policy makes of them, and signing. Private. */
#ifndef POLICY_AUTHENTICATE_H
#define POLICY_AUTHENTICATE_H

#include "auth/auth.h"
#include "policy/inside.h"

/* ------------------------------------------------------------------ patience */

/*
 * For how long the same sender, client and recipient has been deferred because of something that
 * cannot be decided. In memory only: after a restart the patience begins anew, which defers longer
 * and loses nothing.
 */
struct patience;
MUST_USE struct patience *patience_open(uint64_t patience_us); /* NULL on memory */
void patience_close(struct patience *patience);
uint64_t patience_key(const struct patience *patience, const struct ip_address *client,
                      struct address from, struct address to);
/* Is it still to be deferred? The first question starts the clock. */
MUST_USE bool patience_holds(struct patience *patience, uint64_t key, uint64_t now_us);
void patience_forget(struct patience *patience, uint64_t key); /* it was decided */

/* ------------------------------------------------------------------ one transaction */

/* Leaves out fields of the header that claim to be ours, as the header passes by in pieces. */
struct header_strip {
    const char *authserv_id;
    struct buffer line;  /* the line at hand, up to its first LINE_KEPT octets */
    struct buffer field; /* a field under suspicion, whole */
    struct buffer out;
    bool over;      /* the header has ended */
    bool in_field;  /* `field` is being collected */
    bool line_sent; /* the line was longer than what is looked at: the rest just passes */
    bool failed;
    unsigned dropped;
};

struct authentication {
    struct policy *policy;
    bool exempt;        /* our own client: nothing is asked of it */
    struct arena arena; /* facts and answers */
    struct spf_request helo_request, from_request;
    struct spf_facts helo, from;
    bool has_helo, has_from; /* that identity was checked */
    struct dkim *dkim;       /* NULL: nobody asks for it */
    struct dkim_report dkim_report;
    struct arc_facts arc;
    struct dmarc_facts dmarc;
    bool has_dkim, has_arc, has_dmarc;
    bool overridden; /* a trusted ARC chain stood against the author domain's policy */
    bool undecided;  /* something is temperror and was accepted, or will be asked again */
    struct header_strip strip;
};

/* Opening and closing of what the room keeps for this. */
MUST_USE bool authenticate_open(struct policy *policy, char *why, size_t why_room);
void authenticate_close(struct policy *policy);

/* MAIL: SPF of HELO and of the sender. Sleeps. */
MUST_USE struct verdict authenticate_sender(struct policy *policy, struct transaction *transaction,
                                            struct address from);
/* RCPT: an undecided SPF is said here, where its patience can be told. */
MUST_USE struct verdict authenticate_recipient(struct policy *policy,
                                               const struct transaction *transaction,
                                               struct address to);
/* The dot: facts, fields, journal, verdict. Sleeps. */
MUST_USE struct verdict authenticate_message(struct policy *policy, struct transaction *transaction,
                                             const struct policy_message *message);

/* Adds Authentication-Results and Received-SPF to transaction->headers. */
void authenticate_print(const struct authentication *it, const struct transaction *transaction);
/* The value of Authentication-Results, our id first. */
void authenticate_results(const struct authentication *it, const struct transaction *transaction,
                          struct buffer *into);
/* One line of the journal with what an aggregate report needs (RFC 9990). */
void authenticate_tell(const struct authentication *it, const struct transaction *transaction,
                       const struct verdict *verdict);

/* ------------------------------------------------------------------ signing */

MUST_USE bool signing_open(struct policy *policy, char *why, size_t why_room);
void signing_close(struct policy *policy);
/* Adds a signature for each key of the author's domain; the message of our own client. Sleeps. */
MUST_USE struct verdict signing_apply(struct policy *policy, struct transaction *transaction,
                                      const struct policy_message *message);

#endif
