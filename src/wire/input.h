/* The buffer under the readers of lines, raw pieces and DATA. Private to the room. */
#ifndef WIRE_INPUT_H
#define WIRE_INPUT_H

#include "wire/wire.h"

/* More bytes behind what is pending, moved to the front when needed. Needs room for one. Sleeps. */
MUST_USE enum wire_status input_fill(struct wire_input *input, uint64_t deadline_us);
struct bytes input_view(const struct wire_input *input);
void input_consume(struct wire_input *input, size_t count);

#endif
