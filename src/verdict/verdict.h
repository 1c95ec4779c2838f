/*
 * verdict: the one word for a message's fate, and the catalogue of causes.
 *
 * Flow:   a check names a cause; the cause's row (causes.def) decides 2yz, 4yz or 5yz; REQUIRE
 * passes any objection up; the session prints it as a reply. Owns:   nothing. A verdict is a value;
 * its detail is a view that lives as long as its transaction. Sleeps: never. Fails:  never; a
 * zeroed verdict is DEFER with the cause `undecided`. Never:  lets anybody choose a reply code:
 * codes come from the class column of the table alone.
 */
#ifndef VERDICT_VERDICT_H
#define VERDICT_VERDICT_H

#include "base/base.h"

enum verdict_kind { VERDICT_DEFER = 0, VERDICT_REFUSE, VERDICT_ACCEPT };

enum cause_side { SIDE_OURS = 0, SIDE_THEIRS, SIDE_POLICY };

enum cause {
#define CAUSE(symbol, name, class, side, code, enhanced, text, meaning, advice) CAUSE_##symbol,
#include "verdict/causes.def"
#undef CAUSE
    CAUSE_COUNT
};

_Static_assert(VERDICT_DEFER == 0, "forgotten memory must defer");
_Static_assert(CAUSE_UNDECIDED == 0, "forgotten memory must name the undecided cause");

/* An outage of ours never refuses mail: proved for every row. */
#define CAUSE(symbol, name, class, side, code, enhanced, text, meaning, advice)                    \
    _Static_assert(!(SIDE_##side == SIDE_OURS && VERDICT_##class == VERDICT_REFUSE),               \
                   "a fault on our side must not refuse: " name);
#include "verdict/causes.def"
#undef CAUSE

struct cause_row {
    const char *name; /* "filter.timeout": journal field and metric label */
    enum verdict_kind kind;
    enum cause_side side;
    unsigned code;        /* whole reply code, e.g. 451 */
    const char *enhanced; /* subject.detail, e.g. "3.0"; the class digit is that of code */
    const char *text;
    const char *meaning;
    const char *advice;
    const char *happening; /* of a state of this host: what it means meanwhile; NULL: of mail */
};

/* A fate. Only the functions below make one; keep every local one const. */
struct verdict {
    enum verdict_kind kind;
    enum cause cause;
    struct bytes detail; /* what was found, in the dependency's or peer's words; may be empty */
};

const struct cause_row *cause_row(enum cause cause);
const char *cause_name(enum cause cause);
const char *side_name(enum cause_side side); /* "ours", "theirs", "policy" */
MUST_USE bool cause_parse(struct bytes name, enum cause *cause);

MUST_USE struct verdict verdict_accept(void);
MUST_USE struct verdict verdict_of(enum cause cause);
MUST_USE struct verdict verdict_with(enum cause cause, struct bytes detail);
MUST_USE bool verdict_accepts(const struct verdict *verdict);

/* "451 4.3.0 Content filter did not answer in time, please try again later (filter.timeout)",
 * without CR LF. The detail is not shown to the peer except for causes whose words are the peer's
 * business (milter replies). Returns into. */
#define VERDICT_REPLY_MAX 2048
char *verdict_print_reply(const struct verdict *verdict, char *into, size_t room);

/* The code of that reply: the row's, or that of a milter's own words. */
unsigned verdict_code(const struct verdict *verdict);

/* Does this verdict end the session (421)? */
bool verdict_closes(const struct verdict *verdict);

/* The one macro that may return: any objection leaves the calling function. */
#define REQUIRE(check)                                                                             \
    do {                                                                                           \
        const struct verdict require_verdict_ = (check);                                           \
        if (!verdict_accepts(&require_verdict_))                                                   \
            return require_verdict_;                                                               \
    } while (0)

#endif
