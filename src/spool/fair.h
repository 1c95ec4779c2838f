/*
 * Turns: ready messages wait in lists by sender and, within a sender, by destination; senders take
 * turns, and so do the destinations of each. So neither one sender's bulk nor the mail for one
 * domain makes others wait. Both are hashed into a fixed width (stochastic fairness queueing): the
 * memory is bounded, and strangers that share a list by chance are few. No I/O; the owner guards
 * it.
 */
#ifndef SPOOL_FAIR_H
#define SPOOL_FAIR_H

#include "base/base.h"

struct link {
    struct link *next, *previous; /* a ring; a list head is one too */
};

enum { FAIR_WIDTH = 64 }; /* bits of a word: who has something is found by counting zeros */

struct fair_row {
    uint64_t used; /* a bit a list that is not empty */
    uint32_t count;
    unsigned turn; /* the list that is looked at first */
    struct link lists[FAIR_WIDTH];
};
struct fair {
    uint64_t used;
    uint32_t count;
    unsigned turn;
    struct fair_row rows[FAIR_WIDTH];
};

/* A list's number. The sender counts without what differs from copy to copy of one mailing: the
 * local part up to the first + - or =, as in list-return-17-bob=example.org@lists.example. */
uint16_t fair_flow(struct bytes user, struct bytes local, struct bytes domain,
                   struct bytes destination);

void fair_open(struct fair *fair);
void fair_add(struct fair *fair, uint16_t flow, struct link *link);
void fair_remove(struct fair *fair, uint16_t flow, struct link *link);
/* Whose turn it is, and the turn moves on; NULL when nobody waits. It stays in its list. */
struct link *fair_next(struct fair *fair);
/* The last of the sender who has most: he makes room. NULL when nobody waits. */
struct link *fair_last_of_most(struct fair *fair);
/* How many the sender of that flow has in it. */
uint32_t fair_count_of_sender(const struct fair *fair, uint16_t flow);

#endif
