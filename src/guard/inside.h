/* Shared by the files of guard only. */
#ifndef GUARD_INSIDE_H
#define GUARD_INSIDE_H

#include "guard/guard.h"

/* The ABI that is in force; 0: none. */
int landlock_enter(const struct guard_plan *plan, bool nothing_at_all);
MUST_USE bool syscalls_enter(bool keeper);

#endif
