/*
 * What the worker and the runner of commands say to each other over a Unix socket, a connection a
 * run: which command, the values that its arguments may hold, the message, and what came of it.
 *
 * Both ends run the same binary, so a head is the struct itself. The runner takes what comes as
 * input from outside: a worker may have been taken over.
 *
 *   worker -> runner   struct pipe_request, then its fields' octets one behind the other, then the
 *                      message in pieces, each behind its length (4 octets); length 0 ends it
 *   runner -> worker   struct pipe_answer, when the command has ended and nothing of it is left
 */
#ifndef WIRE_PIPE_H
#define WIRE_PIPE_H

#include "base/base.h"

#define PIPE_MAGIC UINT32_C(0x31504648)
enum { PIPE_FIELD_MOST = 2048, PIPE_PIECE_MOST = 64 * 1024, PIPE_OUTPUT_MOST = 1024 };

/* The first is the pipe's name; the others are those of enum pipe_value, in its order. */
enum { PIPE_FIELDS = 9 };

struct pipe_request {
    uint32_t magic;
    uint32_t counts[PIPE_FIELDS];
};

enum pipe_end {
    PIPE_END_NONE = 0, /* nothing is known */
    PIPE_EXITED,       /* value: its exit code */
    PIPE_SIGNALLED,    /* value: the signal that ended it */
    PIPE_TIMED_OUT,    /* it was ended: its time was over */
    PIPE_NOT_STARTED,  /* value: errno; output: what could not be done */
    PIPE_UNFIT,        /* an address cannot be an argument; output: why */
    PIPE_BUSY,         /* the runner lacks memory or processes; nothing ran */
    PIPE_END_COUNT,
};

struct pipe_answer {
    uint32_t magic, end, value, output_count;
    char output[PIPE_OUTPUT_MOST]; /* the first of what it wrote to its two outputs */
};

/* Is what came of the kind and size that it should be? */
MUST_USE bool pipe_request_is_sound(const struct pipe_request *request);
MUST_USE bool pipe_answer_is_sound(const struct pipe_answer *answer);

#endif
