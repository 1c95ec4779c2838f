/* A reply made comparable: private to the explaining files of the room. */
#ifndef DIAGNOSE_EXPLAIN_TEXT_H
#define DIAGNOSE_EXPLAIN_TEXT_H

#include "base/base.h"

#define EXPLAIN_TEXT_MAX 8192

struct explain_text {
    char at[EXPLAIN_TEXT_MAX];
    size_t count;
    unsigned code;      /* first reply code, 0: none */
    unsigned status[3]; /* first enhanced code */
};

/*
 * Lower case, punctuation and line ends one blank, apostrophes gone, addresses "@", IP addresses
 * "%ip", codes taken out and kept apart; begins and ends with a blank. What is over the room is
 * cut.
 */
void explain_text_make(struct explain_text *text, struct bytes reply);
/* Whole view as "5.1.1"; false when it is none. */
MUST_USE bool explain_status_parse(struct bytes word, unsigned status[3]);
/* Whether one of the alternatives occurs; *matched is that alternative. "" fits everything. */
MUST_USE bool explain_text_fits(const struct explain_text *text, const char *patterns,
                                struct bytes *matched);
/* Whether one of the codes is the reply's. "" fits everything. */
MUST_USE bool explain_code_fits(unsigned code, const unsigned status[3], const char *codes);

#endif
