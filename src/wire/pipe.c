/* The runner's protocol: what either side checks before it believes. */
#include "wire/pipe.h"

bool pipe_request_is_sound(const struct pipe_request *request)
{
    if (request->magic != PIPE_MAGIC || request->counts[0] == 0)
        return false;
    for (unsigned i = 0; i < PIPE_FIELDS; i++)
        if (request->counts[i] > PIPE_FIELD_MOST)
            return false;
    return true;
}

bool pipe_answer_is_sound(const struct pipe_answer *answer)
{
    return answer->magic == PIPE_MAGIC && answer->end < PIPE_END_COUNT &&
           answer->output_count <= PIPE_OUTPUT_MOST;
}
