/* The talk with clamd over a stream that is already open. Private to the room, and to its tests. */
#ifndef WIRE_CLAMD_H
#define WIRE_CLAMD_H

#include "wire/wire.h"

struct clamd_verdict clamd_talk_scan(struct arena *arena, struct stream *stream,
                                     const struct message_source *message, uint64_t deadline_us);
struct clamd_verdict clamd_talk_ping(struct arena *arena, struct stream *stream,
                                     uint64_t deadline_us);

#endif
