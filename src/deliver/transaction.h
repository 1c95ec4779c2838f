/* A transaction under way: shared by transaction.c and screen.c. */
#ifndef DELIVER_TRANSACTION_H
#define DELIVER_TRANSACTION_H

#include "deliver/inside.h"

enum step_kind { STEP_RESET, STEP_MAIL, STEP_RCPT, STEP_DATA };
struct step {
    enum step_kind kind;
    uint32_t chosen; /* for RCPT: index into transaction.chosen */
};

#define STEPS_MAX (DELIVER_TRANSACTION_RECIPIENTS + 3)

struct transaction {
    struct deliver_channel *channel;
    struct attempt *attempt;
    struct spool_body *body;
    struct converted **converted; /* what is sent instead of it, once made */
    bool use_converted;
    struct address sender; /* on the wire */
    struct bytes trace;    /* goes on top of the message: Delivered-To, when we forward it */
    uint32_t chosen[DELIVER_TRANSACTION_RECIPIENTS]; /* positions in the attempt */
    bool taken[DELIVER_TRANSACTION_RECIPIENTS];      /* RCPT was answered 2yz */
    uint32_t chosen_count, taken_count, surplus_count;
    struct step steps[STEPS_MAX];
    uint32_t step_count;
    bool use_utf8, use_8bit, use_chunks;
    const struct config_verp *verp; /* its sender has an address of its own for each recipient */
    bool mail_said_yes, go_ahead;   /* 250 to MAIL; 354 to DATA */
    bool stale;                     /* the reused connection was dead before MAIL's reply */
    bool over;                      /* no further command of this transaction */
};

/* What is sent: the stored body, or what it was converted to. Octets, without the trace. */
uint64_t transaction_size(const struct transaction *transaction);
/* The next piece of it; false when it cannot be had. Sleeps. */
MUST_USE bool transaction_read(struct transaction *transaction, uint64_t offset,
                               struct bytes *piece);
/* As it goes on the wire: with A-labels where the peer takes ASCII only. */
struct address transaction_address_of(const struct transaction *transaction,
                                      struct address address);
/* Does the message waive what its recipients' domains demand of TLS (RFC 8689 5)? Sleeps. */
MUST_USE bool transaction_waives(struct transaction *transaction);
void transaction_tell(const struct transaction *transaction, struct bytes text); /* the journal */
/* Refuses before MAIL what the peer's extensions cannot carry, and makes fit what can be made so.
 * Sleeps. */
void transaction_screen(struct transaction *transaction);

#endif
