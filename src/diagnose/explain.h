/*
 * explain: what a reply of any server, or a bounce, means: whose fault, temporary or not, what to
 * do.
 *
 * Flow:   the reply's code, enhanced code, stage and words -> the first row of the tables that fits
 * -> an explanation -> JSON or text. The rows are the .def files beside this one; nothing is
 *         decided in code.
 * Owns:   nothing. Sleeps: never; pure. Fails: never; what is not understood is "undefined".
 */
#ifndef DIAGNOSE_EXPLAIN_H
#define DIAGNOSE_EXPLAIN_H

#include <jansson.h>

#include "base/base.h"
#include "mail/mail.h"
#include "verdict/verdict.h"

enum explain_reason {
#define REASON(symbol, ...) EXPLAIN_##symbol,
#include "diagnose/explain_reasons.def"
#undef REASON
    EXPLAIN_REASON_COUNT
};

enum explain_side { EXPLAIN_THEIRS = 0, EXPLAIN_OURS, EXPLAIN_NETWORK, EXPLAIN_SENDER };
enum explain_confidence { EXPLAIN_LOW = 0, EXPLAIN_MEDIUM, EXPLAIN_HIGH };

struct explain_question {
    struct bytes reply;  /* as it came: code, enhanced code, words; several lines are fine */
    struct bytes host;   /* who said it, when known */
    struct bytes status; /* "5.1.1" from a notification: used when the reply has none */
    struct bytes action; /* "failed", "delayed" from a notification */
    struct bytes stage;  /* "connect", "helo", "mail", "rcpt", "data", "dot", or empty */
    bool prose;          /* what surrounds a reply, not a reply: guesses are not believed */
};

struct explanation {
    enum explain_reason reason;
    enum explain_confidence confidence;
    enum explain_side side;
    bool permanent;
    bool hard;          /* the address is dead for every message */
    unsigned code;      /* 0: none */
    unsigned status[3]; /* class 0: none */
    const char *cause, *provider, *meaning, *advice;
    const char *note;    /* what is peculiar at this provider, or NULL */
    const char *matched; /* the words that decided; static, `matched_count` long */
    size_t matched_count;
};

void explain_reply(const struct explain_question *question, struct explanation *explanation);
/* Makes it be about that reason, whatever its words were. */
void explain_as(struct explanation *explanation, enum explain_reason reason);
const char *explain_reason_name(enum explain_reason reason);

/* {"cause","side","kind","confidence","reason","meaning","advice", ...}; the caller's. */
json_t *explain_json(const struct explanation *explanation, struct bytes reply);
/* A cause of ours, with what our own reply for it means to others: adds "confidence", "reason". */
json_t *explain_cause(enum cause cause);
/* A bounce: the members of its first recipient, and "form" and "recipients". NULL: out of memory.
 */
json_t *explain_bounce(const struct bounce *bounce);
void explain_print(struct buffer *into, const json_t *explained);

#endif
