/* Input buffers, kept on a bounded free list of the thread. Private to the room. */
#ifndef WIRE_POOL_H
#define WIRE_POOL_H

#include "wire/wire.h"

MUST_USE uint8_t *pool_take(void); /* WIRE_BUFFER_BYTES, or NULL */
void pool_give(uint8_t *buffer);   /* NULL is fine */

#endif
