/* What the clients of filters share. Private to the room. */
#ifndef WIRE_FILTER_H
#define WIRE_FILTER_H

#include "wire/wire.h"

/* `otherwise`: what a plain failure or the end of the stream means at this point. */
enum filter_fault filter_fault_of(struct io_result result, enum filter_fault otherwise);
/* Why a connection could not be made. */
enum filter_fault filter_dial_fault(struct io_result result);
/* A copy in which every byte can be printed, at most `most` of them. */
struct bytes filter_safe_copy(struct arena *arena, struct bytes foreign, size_t most);
/* Fills `into` from the source; short only at the end, which must be where the size says. */
struct io_result filter_read_whole(const struct message_source *message, struct span into,
                                   uint64_t offset);

#endif
