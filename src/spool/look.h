/*
 * Reading files inside a world (through the runtime, as a fiber) and outside of one (a command, a
 * thread of the worker pool: plain POSIX calls). Which of both is decided at each call.
 */
#ifndef SPOOL_LOOK_H
#define SPOOL_LOOK_H

#include "base/base.h"

struct look;
MUST_USE bool look_open(const char *path, struct look **look, int *error);
MUST_USE bool look_size(struct look *look, uint64_t *size_bytes);
MUST_USE bool look_read(struct look *look, uint64_t offset, struct span into); /* exactly that */
void look_close(struct look *look);
MUST_USE bool look_list(const char *path, bool (*each)(void *argument, const char *name),
                        void *argument);

#endif
