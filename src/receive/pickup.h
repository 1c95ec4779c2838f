/* The drop directory and its fiber. Private. */
#ifndef RECEIVE_PICKUP_H
#define RECEIVE_PICKUP_H

#include "receive/session.h"

enum pickup_fate {
    PICKUP_LATER = 0,
    PICKUP_DONE,    /* it is durable in the spool, or returned; the file may go */
    PICKUP_REFUSED, /* of one reply: 5yz */
    PICKUP_BAD,     /* no transaction */
    PICKUP_GONE,    /* somebody took it away */
};

struct pickup;
MUST_USE struct pickup *pickup_open(struct receive *receive); /* NULL on memory */
/* The door that only the server's own user reaches; its clients may send anywhere. */
const struct config_listen *pickup_listen(const struct pickup *pickup);
bool pickup_owns(const struct pickup *pickup, const struct config_listen *listen);
MUST_USE bool pickup_begin(struct pickup *pickup); /* after the doors are open */
void pickup_cancel(struct pickup *pickup);         /* NULL is fine, as below */
bool pickup_is_over(const struct pickup *pickup);
void pickup_close(struct pickup *pickup);

#endif
