/*
 * Landlock by raw system calls: files by the plan, TCP by ports, and nobody outside is signalled.
 * Each kernel enforces what its ABI knows; the numbers here are the kernel's, since Debian 12's
 * headers end with the second.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "guard/inside.h"

#define FS_TRUNCATE (1ULL << 14)     /* ABI 3 */
#define FS_IOCTL_DEVICE (1ULL << 15) /* ABI 5 */
#define NET_BIND (1ULL << 0)         /* ABI 4 */
#define NET_CONNECT (1ULL << 1)
#define SCOPE_ABSTRACT (1ULL << 0) /* ABI 6 */
#define SCOPE_SIGNAL (1ULL << 1)
enum { RULE_NET_PORT = 2, ABI_REFER = 2, ABI_TRUNCATE, ABI_NET, ABI_DEVICES, ABI_SCOPES };

struct ruleset_attributes {
    uint64_t files, net, scopes;
};
struct net_rule {
    uint64_t access, port;
};

/* What of a file's rights there is without a folder. */
#define RIGHTS_OF_FILE (LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE | FS_TRUNCATE)
#define RIGHTS_READ (LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR)
#define RIGHTS_WRITE                                                                               \
    (RIGHTS_READ | LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_REMOVE_DIR |                 \
     LANDLOCK_ACCESS_FS_REMOVE_FILE | LANDLOCK_ACCESS_FS_MAKE_DIR | LANDLOCK_ACCESS_FS_MAKE_REG |  \
     LANDLOCK_ACCESS_FS_MAKE_SOCK | LANDLOCK_ACCESS_FS_REFER | FS_TRUNCATE)

static uint64_t rights_known(int abi)
{
    uint64_t rights = LANDLOCK_ACCESS_FS_MAKE_SYM * 2 - 1; /* the thirteen of the first */

    rights |= abi >= ABI_REFER ? LANDLOCK_ACCESS_FS_REFER : 0;
    rights |= abi >= ABI_TRUNCATE ? FS_TRUNCATE : 0;
    rights |= abi >= ABI_DEVICES ? FS_IOCTL_DEVICE : 0;
    return rights;
}

/* A path that is not there needs no rule, if it may be missing. */
static bool allow_below(int ruleset, const char *path, uint64_t rights, bool may_miss)
{
    struct landlock_path_beneath_attr rule = {.allowed_access = rights};
    struct stat facts;

    rule.parent_fd = open(path, O_PATH | O_CLOEXEC);
    if (rule.parent_fd < 0)
        return may_miss;
    if (fstat(rule.parent_fd, &facts) == 0 && !S_ISDIR(facts.st_mode))
        rule.allowed_access &= RIGHTS_OF_FILE;
    const bool added =
        syscall(__NR_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) == 0;
    close(rule.parent_fd);
    return added;
}

static bool add_path(int ruleset, const struct guard_path *path, uint64_t known)
{
    const uint64_t rights = path->access == GUARD_WRITE ? RIGHTS_WRITE : RIGHTS_READ;

    return allow_below(ruleset, path->path, rights & known, true);
}

static bool add_port(int ruleset, uint16_t port, uint64_t access)
{
    const struct net_rule rule = {.access = access, .port = port};

    return syscall(__NR_landlock_add_rule, ruleset, RULE_NET_PORT, &rule, 0) == 0;
}

static bool add_rules(int ruleset, int abi, const struct guard_plan *plan)
{
    bool fine = true;

    for (unsigned i = 0; fine && i < plan->path_count; i++)
        fine = add_path(ruleset, &plan->paths[i], rights_known(abi));
    if (abi < ABI_NET)
        return fine;
    fine = fine && add_port(ruleset, 0, NET_BIND); /* the parent binds what is served */
    for (unsigned i = 0; fine && !plan->any_port && i < plan->port_count; i++)
        fine = add_port(ruleset, plan->ports[i], NET_CONNECT);
    return fine;
}

static int abi_known(void)
{
    const long abi =
        syscall(__NR_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);

    return abi > 0 ? (int)abi : 0;
}

/* Each kernel takes as much of the struct as it knows. -1 with errno. */
static int ruleset_make(const struct ruleset_attributes *attributes, int abi)
{
    const size_t size = abi >= ABI_SCOPES ? sizeof *attributes
                        : abi >= ABI_NET  ? 2 * sizeof(uint64_t)
                                          : sizeof(uint64_t);

    return (int)syscall(__NR_landlock_create_ruleset, attributes, size, 0);
}

int landlock_enter(const struct guard_plan *plan, bool nothing_at_all)
{
    const int abi = abi_known();
    const bool any_port = plan && plan->any_port;

    if (abi == 0 || (plan && plan->full))
        return 0;
    const struct ruleset_attributes attributes = {
        .files = rights_known(abi),
        .net = abi >= ABI_NET ? NET_BIND | (any_port ? 0 : NET_CONNECT) : 0,
        .scopes = abi >= ABI_SCOPES ? SCOPE_ABSTRACT | SCOPE_SIGNAL : 0};
    const int ruleset = ruleset_make(&attributes, abi);
    if (ruleset < 0)
        return 0;
    const bool fine = (nothing_at_all || add_rules(ruleset, abi, plan)) &&
                      syscall(__NR_landlock_restrict_self, ruleset, 0) == 0;
    close(ruleset);
    return fine ? abi : 0;
}

int landlock_enter_scopes(void)
{
    const struct ruleset_attributes attributes = {.scopes = SCOPE_ABSTRACT | SCOPE_SIGNAL};
    const int abi = abi_known();
    const int ruleset = abi >= ABI_SCOPES ? ruleset_make(&attributes, abi) : -1;

    if (ruleset < 0)
        return 0;
    const bool fine = syscall(__NR_landlock_restrict_self, ruleset, 0) == 0;
    close(ruleset);
    return fine ? abi : 0;
}

/* ------------------------------------------------------------------ a program of the operator's */

bool guard_holds_writes(void)
{
    return abi_known() >= ABI_REFER; /* before that no file went from one folder to another */
}

bool landlock_enter_writes(const char *const *folders, unsigned count)
{
    const int abi = abi_known();
    const struct ruleset_attributes attributes = {.files = rights_known(abi)};
    const uint64_t reads = RIGHTS_READ | LANDLOCK_ACCESS_FS_EXECUTE;
    const uint64_t changes =
        rights_known(abi) & ~(LANDLOCK_ACCESS_FS_MAKE_CHAR | LANDLOCK_ACCESS_FS_MAKE_BLOCK);
    const int ruleset = guard_holds_writes() ? ruleset_make(&attributes, abi) : -1;

    if (ruleset < 0)
        return false;
    bool fine =
        allow_below(ruleset, "/", reads, false) && allow_below(ruleset, "/dev/null", changes, true);
    for (unsigned i = 0; fine && i < count; i++)
        fine = allow_below(ruleset, folders[i], changes, false);
    fine = fine && syscall(__NR_landlock_restrict_self, ruleset, 0) == 0;
    close(ruleset);
    return fine;
}
