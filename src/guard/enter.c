/*
 * The order of giving up: user, new privileges, dumps, memory, files, system calls.
 */
#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "guard/inside.h"

void guard_close_others(int one, int other)
{
    const int low = MIN_OF(one, other), high = MAX_OF(one, other);

    if (low > STDERR_FILENO + 1)
        close_range(STDERR_FILENO + 1, (unsigned)low - 1, 0);
    if (high > low + 1)
        close_range((unsigned)low + 1, (unsigned)high - 1, 0);
    close_range((unsigned)high + 1, ~0u, 0);
}

bool guard_become(const char *user, char *why, size_t why_room)
{
    if (!*user || geteuid() != 0)
        return true;
    errno = 0;
    const struct passwd *entry = getpwnam(user);
    if (!entry) {
        snprintf(why, why_room, "user \"%s\": %s", user, errno ? strerror(errno) : "unknown");
        return false;
    }
    if (initgroups(user, entry->pw_gid) == 0 &&
        setresgid(entry->pw_gid, entry->pw_gid, entry->pw_gid) == 0 &&
        setresuid(entry->pw_uid, entry->pw_uid, entry->pw_uid) == 0 &&
        (entry->pw_uid == 0 || setuid(0) != 0))
        return true;
    snprintf(why, why_room, "cannot become user \"%s\": %s", user, strerror(errno));
    return false;
}

/* No set-user-id program, no debugger and no core file gets at what is in memory. */
static bool close_up(char *why, size_t why_room)
{
    const struct rlimit none = {0, 0};

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) == 0 &&
        setrlimit(RLIMIT_CORE, &none) == 0)
        return true;
    snprintf(why, why_room, "cannot give up privileges: %s", strerror(errno));
    return false;
}

#if defined(UNDER_ADDRESS_SANITIZER) || defined(UNDER_THREAD_SANITIZER)
static const bool is_watched = true; /* a sanitizer needs memory and calls of its own */
#else
static const bool is_watched = false;
#endif

#define KEEPER_MEMORY (256 * MIB)

/* Data and the stacks of fibers and threads; a leak or a flood ends here, not in the machine. */
static bool limit_memory(uint64_t memory_bytes, char *why, size_t why_room)
{
    struct rlimit now;

    if (memory_bytes == 0 || is_watched || getrlimit(RLIMIT_DATA, &now) != 0)
        return true;
    const struct rlimit limit = {MIN_OF(now.rlim_max, (rlim_t)memory_bytes),
                                 MIN_OF(now.rlim_max, (rlim_t)memory_bytes)};
    if (setrlimit(RLIMIT_DATA, &limit) == 0)
        return true;
    snprintf(why, why_room, "cannot bound memory: %s", strerror(errno));
    return false;
}

bool guard_enter(const struct guard_plan *plan, uint64_t memory_bytes, struct guard_report *report,
                 char *why, size_t why_room)
{
    char files[64] = "no Landlock";

    if (!close_up(why, why_room) || !limit_memory(memory_bytes, why, why_room))
        return false;
    report->landlock = landlock_enter(plan, false);
    report->seccomp = !is_watched && syscalls_enter(ROLE_WORKER);
    if (report->landlock > 0)
        snprintf(files, sizeof files, "Landlock %d with %u paths", report->landlock,
                 plan->path_count);
    snprintf(report->words, sizeof report->words,
             "uid %u, no new privileges, %s, %s, memory up to %llu MiB", (unsigned)geteuid(), files,
             report->seccomp ? "seccomp" : "no seccomp", (unsigned long long)(memory_bytes / MIB));
    return true;
}

bool guard_enter_keeper(char *why, size_t why_room)
{
    if (!close_up(why, why_room) || !limit_memory(KEEPER_MEMORY, why, why_room))
        return false;
    const int files = landlock_enter(NULL, true);
    if (is_watched || syscalls_enter(ROLE_KEEPER) || files > 0)
        return true;
    snprintf(why, why_room, "neither Landlock nor seccomp holds the keeper of keys");
    return false;
}

/* ------------------------------------------------------------------ who starts programs */

bool guard_enter_starter(const struct guard_ids *ids, char *why, size_t why_room)
{
    if (!close_up(why, why_room))
        return false;
    const int scopes UNUSED = landlock_enter_scopes(); /* an old kernel has none */
    if (is_watched || syscalls_enter_starter(ids))
        return true;
    snprintf(why, why_room, "no list of system calls: %s", strerror(errno));
    return false;
}

bool guard_enter_watcher(void)
{
    /* No Landlock: its scope would put the program out of reach. */
    return is_watched || syscalls_enter(ROLE_WATCHER);
}

bool guard_enter_program(const struct guard_reach *reach)
{
    const int scopes UNUSED =
        landlock_enter_scopes(); /* of its own: away from who watches over it */

    return (reach->write_count == 0 || landlock_enter_writes(reach->writes, reach->write_count)) &&
           (reach->network || is_watched || syscalls_enter_without_network());
}
