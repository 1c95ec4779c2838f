/*
 * guard: what a process gives up, for good: its user, files, system calls, memory.
 *
 * Flow:   guard_plan_of(config) says what the worker needs -> guard_become -> guard_enter.
 * Owns:   nothing; the kernel keeps what was given up.
 * Sleeps: never. Call it while the process has one thread: threads to come inherit all of it.
 * Fails:  guard_become and the limits with `why`; what this kernel does not know is left out and
 *         said in the report, so that an old kernel still serves.
 * Never:  gives anything back.
 */
#ifndef GUARD_GUARD_H
#define GUARD_GUARD_H

#include "base/base.h"
#include "config/config.h"

/* ------------------------------------------------------------------ what is needed */

enum guard_access { GUARD_READ = 0, GUARD_WRITE }; /* WRITE: all below a folder, made and removed */
enum { GUARD_PATHS_MAX = 1024, GUARD_PORTS_MAX = 1024, GUARD_PATH_ROOM = 512 };

struct guard_plan {
    struct guard_path {
        char path[GUARD_PATH_ROOM];
        enum guard_access access;
    } paths[GUARD_PATHS_MAX];
    unsigned path_count;
    uint16_t ports[GUARD_PORTS_MAX]; /* of TCP that may be connected to */
    unsigned port_count;
    bool any_port; /* a setting names no port, so any may be meant */
    bool full;     /* more than fits: then nothing is locked, and the report says so */
};
/* From the snapshot alone. Free with free(); NULL on memory. */
MUST_USE struct guard_plan *guard_plan_of(const struct config *config);
/* Is all that `wanted` needs within `had`? If not, `what` names the first that is missing. */
MUST_USE bool guard_plan_covers(const struct guard_plan *had, const struct guard_plan *wanted,
                                char *what, size_t what_room);

/* ------------------------------------------------------------------ giving up */

/* In a child, right after the fork: nothing of the parent's stays open but these and 0 to 2. */
void guard_close_others(int one, int other);

/* From root to this user, its group and its groups; "" or not root: nothing changes. */
MUST_USE bool guard_become(const char *user, char *why, size_t why_room);

struct guard_report {
    int landlock;    /* the ABI in force; 0: this kernel has none, or it is off */
    bool seccomp;    /* the list of system calls is in force */
    char words[256]; /* for the journal and the status */
};
/* The worker's: no new privileges, no dumps, memory, Landlock by the plan, system calls. */
MUST_USE bool guard_enter(const struct guard_plan *plan, uint64_t memory_bytes,
                          struct guard_report *report, char *why, size_t why_room);
/* The keeper of keys': no files, no network, no memory to run; only an open socket. */
MUST_USE bool guard_enter_keeper(char *why, size_t why_room);

/* ------------------------------------------------------------------ who starts programs */

/* Users and groups that may be become; it is refused to become any other. */
enum { GUARD_IDS_MAX = 200 };
struct guard_ids {
    uint32_t users[GUARD_IDS_MAX], groups[GUARD_IDS_MAX];
    unsigned user_count, group_count;
};
/*
 * Of a process that starts programs of the operator's, and so of those, too: no new privileges, no
 * core file, none of the system calls that no such program needs, no signal to anybody outside.
 * `ids` NULL: it becomes nobody, having no power to. What a program does with its user's files and
 * with the network is its own affair.
 */
MUST_USE bool guard_enter_starter(const struct guard_ids *ids, char *why, size_t why_room);
/* Of who watches over a program that runs: it opens and starts nothing any more. */
MUST_USE bool guard_enter_watcher(void);
/* Of one program, by its setting. False with errno. */
struct guard_reach {
    const char *const *writes; /* all that it may change lies below these */
    unsigned write_count;      /* 0: what its user may */
    bool network;              /* false: Unix sockets only */
};
MUST_USE bool guard_enter_program(const struct guard_reach *reach);
/* Can this kernel hold a program to `writes`? */
bool guard_holds_writes(void);

#endif
