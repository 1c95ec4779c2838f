/* Shared by the files of guard only. */
#ifndef GUARD_INSIDE_H
#define GUARD_INSIDE_H

#include "guard/guard.h"

/* The ABI that is in force; 0: none. */
int landlock_enter(const struct guard_plan *plan, bool nothing_at_all);
/* Nobody outside is signalled, no abstract socket outside reached; 0: this kernel cannot. */
int landlock_enter_scopes(void);
/* Reads and runs anything, changes what lies below these. False with errno. */
MUST_USE bool landlock_enter_writes(const char *const *folders, unsigned count);

enum guard_role { ROLE_WORKER, ROLE_KEEPER, ROLE_WATCHER };
MUST_USE bool syscalls_enter(enum guard_role role);
MUST_USE bool syscalls_enter_starter(const struct guard_ids *ids);
MUST_USE bool syscalls_enter_without_network(void);

#endif
