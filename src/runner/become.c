/*
 * Who a command runs as, what the runner keeps to become him, and the way from a fork to the
 * command: limits, descriptors, folder, reach. What fails on the way is told to who started it, and
 * nothing runs.
 */
#include "runner/inside.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <pwd.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "guard/guard.h"

enum { FILES_MOST = 1024, CPU_SLACK_S = 60 };

/* ------------------------------------------------------------------ the user */

static bool user_take(const struct config_pipe *pipe, const struct passwd *entry,
                      struct runner_user *user, char *why, size_t why_room)
{
    const struct group *group = *pipe->group ? getgrnam(pipe->group) : NULL;

    if (*pipe->group && !group) {
        snprintf(why, why_room, "pipe \"%s\": group \"%s\" is unknown", pipe->name, pipe->group);
        return false;
    }
    user->uid = entry->pw_uid;
    user->gid = group ? group->gr_gid : entry->pw_gid;
    if (user->uid == 0 || user->gid == 0) {
        snprintf(why, why_room, "pipe \"%s\": no command runs as root or in its group", pipe->name);
        return false;
    }
    user->group_count = RUNNER_GROUPS_MOST;
    user->groups[0] = user->gid;
    if (group)
        user->group_count = 1;
    else if (getgrouplist(entry->pw_name, user->gid, user->groups, &user->group_count) < 0)
        user->group_count = RUNNER_GROUPS_MOST; /* more than that many: the first ones */
    return true;
}

bool runner_user_find(const struct config_pipe *pipe, struct runner_user *user, char *why,
                      size_t why_room)
{
    const bool root = geteuid() == 0;
    const struct passwd *entry = *pipe->user ? getpwnam(pipe->user) : getpwuid(geteuid());

    *user = (struct runner_user){.uid = geteuid(), .gid = getegid(), .home = "/"};
    if (root && !*pipe->user) {
        snprintf(why, why_room, "pipe \"%s\": user is missing, and no command runs as root",
                 pipe->name);
        return false;
    }
    if (*pipe->user && !entry) {
        snprintf(why, why_room, "pipe \"%s\": user \"%s\" is unknown", pipe->name, pipe->user);
        return false;
    }
    if (!root && *pipe->user && entry->pw_uid != geteuid()) {
        snprintf(why, why_room,
                 "pipe \"%s\": user \"%s\": only a server started by root can run as another user",
                 pipe->name, pipe->user);
        return false;
    }
    if (entry) {
        snprintf(user->name, sizeof user->name, "%s", entry->pw_name);
        snprintf(user->home, sizeof user->home, "%s", entry->pw_dir);
    }
    user->becomes = root;
    return !root || user_take(pipe, entry, user, why, why_room);
}

/* ------------------------------------------------------------------ powers */

static bool powers_set(unsigned kept)
{
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    const struct __user_cap_data_struct sets[2] = {{.effective = kept, .permitted = kept}};

    return syscall(SYS_capset, &head, sets) == 0;
}

/* What is no power of this process can be no power of what it starts. */
static bool powers_bound(unsigned kept)
{
    for (int power = 0; prctl(PR_CAPBSET_READ, power, 0, 0, 0) >= 0; power++)
        if ((power > 31 || !(kept >> power & 1)) && prctl(PR_CAPBSET_DROP, power, 0, 0, 0) != 0)
            return false;
    return true;
}

/* The server's user if there is one, so that files of root's are not ours to read. */
static bool leave_root(const struct config *config, unsigned kept)
{
    const struct passwd *entry = *config->user ? getpwnam(config->user) : NULL;

    if (!entry || entry->pw_uid == 0)
        return true;
    return prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) == 0 &&
           initgroups(config->user, entry->pw_gid) == 0 &&
           setresgid(entry->pw_gid, entry->pw_gid, entry->pw_gid) == 0 &&
           setresuid(entry->pw_uid, entry->pw_uid, entry->pw_uid) == 0 && powers_set(kept) &&
           prctl(PR_SET_KEEPCAPS, 0, 0, 0, 0) == 0;
}

static bool id_add(uint32_t *ids, unsigned *count, uint32_t id)
{
    for (unsigned i = 0; i < *count; i++)
        if (ids[i] == id)
            return true;
    if (*count == GUARD_IDS_MAX)
        return false;
    ids[(*count)++] = id;
    return true;
}

bool runner_keep_few_powers(const struct runner *runner, char *why, size_t why_room)
{
    static struct guard_ids ids; /* zeroed: before this nobody may be become */
    const unsigned kept = 1U << CAP_SETUID | 1U << CAP_SETGID | 1U << CAP_KILL;
    const bool root = geteuid() == 0;

    for (unsigned i = 0; root && i < runner->config->pipe_count; i++)
        if (!id_add(ids.users, &ids.user_count, runner->users[i].uid) ||
            !id_add(ids.groups, &ids.group_count, runner->users[i].gid)) {
            snprintf(why, why_room, "pipes have more than %u users", (unsigned)GUARD_IDS_MAX);
            return false;
        }
    if (root && (!powers_bound(kept) || !leave_root(runner->config, kept) || !powers_set(kept))) {
        snprintf(why, why_room, "cannot give up powers: %s", strerror(errno));
        return false;
    }
    return guard_enter_starter(root ? &ids : NULL, why, why_room);
}

bool runner_user_become(const struct runner_user *user)
{
    const bool became =
        !user->becomes || (setgroups((size_t)user->group_count, user->groups) == 0 &&
                           setresgid(user->gid, user->gid, user->gid) == 0 &&
                           setresuid(user->uid, user->uid, user->uid) == 0);
    const int error = errno;

    /* From one user to another the kernel takes no power away. */
    if (!powers_set(0) || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0)
        _exit(1);
    errno = error;
    return became;
}

/* ------------------------------------------------------------------ becoming */

__attribute__((noreturn)) static void give_up(const struct runner_start *start, const char *what)
{
    struct runner_trouble trouble = {.error = errno};

    snprintf(trouble.what, sizeof trouble.what, "%s", what);
    const ssize_t told = write(start->started, &trouble, sizeof trouble);
    _exit(told < 0 ? 2 : 1);
}

static bool limit(__rlimit_resource_t which, rlim_t most)
{
    struct rlimit now;

    if (getrlimit(which, &now) != 0)
        return false;
    const struct rlimit wanted = {MIN_OF(now.rlim_max, most), MIN_OF(now.rlim_max, most)};
    return setrlimit(which, &wanted) == 0;
}

static bool limit_all(const struct config_pipe *pipe)
{
    return limit(RLIMIT_CORE, 0) && limit(RLIMIT_NOFILE, FILES_MOST) &&
           limit(RLIMIT_CPU, pipe->timeout_us / US_PER_S + CPU_SLACK_S) &&
           (pipe->memory == 0 || limit(RLIMIT_AS, pipe->memory));
}

static void signals_default(void)
{
    sigset_t none;

    for (int number = 1; number < NSIG; number++)
        signal(number, SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

void runner_become(const struct runner_start *start)
{
    signals_default();
    if (setsid() < 0)
        give_up(start, "setsid");
    if (dup2(start->message, STDIN_FILENO) < 0 || dup2(start->output, STDOUT_FILENO) < 0 ||
        dup2(start->output, STDERR_FILENO) < 0 ||
        close_range(STDERR_FILENO + 1, ~0U, CLOSE_RANGE_CLOEXEC) != 0)
        give_up(start, "descriptors");
    if (!limit_all(start->pipe))
        give_up(start, "limits");
    if (geteuid() == 0) { /* nothing led here, and nothing shall */
        errno = EPERM;
        give_up(start, "no command runs as root");
    }
    /* It ends with who watches over it. */
    if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) != 0 || getppid() != start->starter)
        give_up(start, "its keeper is gone");
    umask(077);
    if (chdir(start->pipe->directory) != 0)
        give_up(start, "directory");
    const struct guard_reach reach = {.writes = start->pipe->writes,
                                      .write_count = start->pipe->write_count,
                                      .network = start->pipe->network};
    if (!guard_enter_program(&reach))
        give_up(start, "writes, network");
    execve(start->arguments[0], start->arguments, start->environment);
    give_up(start, "starting the program");
}
