/* The talk with spamd over a stream that is already open. Private to the room, and to its tests. */
#ifndef WIRE_SPAMD_H
#define WIRE_SPAMD_H

#include "wire/wire.h"

struct spamd_verdict spamd_talk_scan(struct arena *arena, struct stream *stream,
                                     const struct message_source *message, uint64_t deadline_us);
struct spamd_verdict spamd_talk_ping(struct arena *arena, struct stream *stream,
                                     uint64_t deadline_us);
/* A whole answer: status line, fields, empty line, and all that its Content-length announces. Pure.
 */
struct spamd_verdict spamd_parse_answer(struct arena *arena, struct bytes answer);

#endif
