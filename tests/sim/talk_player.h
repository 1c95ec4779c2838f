/*
 * Plays .talk files (tests/talk/README.md) over the runtime's streams, so in either world.
 *
 * Sleeps: talk_play. Never reads a file: the text is given, since in sim the disk is another one.
 */
#ifndef TESTS_TALK_PLAYER_H
#define TESTS_TALK_PLAYER_H

#include "runtime/runtime.h"

struct talk_house {
    /* The address of a listener ("smtp", "lmtp", ...), or NULL. */
    const struct endpoint *(*address)(void *argument, const char *listener);
    void *argument;
};

enum talk_result { TALK_FAILED = 0, TALK_PASSED, TALK_SKIPPED };

/* `why` gets "line 12: C: NOOP: ..." on failure, or the option that asks for a real socket. Sleeps.
 */
enum talk_result talk_play(struct bytes text, const struct talk_house *house, bool byte_by_byte,
                           struct span why);
/* A whole file of the real disk; false when it cannot be read. Blocks: call it outside the world.
 */
MUST_USE bool talk_load(const char *path, struct buffer *into);

#endif
