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

/* A path that is not there needs no rule. */
static bool add_path(int ruleset, const struct guard_path *path, uint64_t known)
{
    struct landlock_path_beneath_attr rule = {0};
    struct stat facts;
    const int descriptor = open(path->path, O_PATH | O_CLOEXEC);

    if (descriptor < 0)
        return true;
    rule.parent_fd = descriptor;
    rule.allowed_access = (path->access == GUARD_WRITE ? RIGHTS_WRITE : RIGHTS_READ) & known;
    if (fstat(descriptor, &facts) == 0 && !S_ISDIR(facts.st_mode))
        rule.allowed_access &= RIGHTS_OF_FILE;
    const bool added =
        syscall(__NR_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) == 0;
    close(descriptor);
    return added;
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

int landlock_enter(const struct guard_plan *plan, bool nothing_at_all)
{
    const long abi =
        syscall(__NR_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    const bool any_port = plan && plan->any_port;

    if (abi <= 0 || (plan && plan->full))
        return 0;
    const struct ruleset_attributes attributes = {
        .files = rights_known((int)abi),
        .net = abi >= ABI_NET ? NET_BIND | (any_port ? 0 : NET_CONNECT) : 0,
        .scopes = abi >= ABI_SCOPES ? SCOPE_ABSTRACT | SCOPE_SIGNAL : 0};
    const size_t size = abi >= ABI_SCOPES ? sizeof attributes
                        : abi >= ABI_NET  ? 2 * sizeof(uint64_t)
                                          : sizeof(uint64_t);
    const int ruleset = (int)syscall(__NR_landlock_create_ruleset, &attributes, size, 0);
    if (ruleset < 0)
        return 0;
    const bool fine = (nothing_at_all || add_rules(ruleset, (int)abi, plan)) &&
                      syscall(__NR_landlock_restrict_self, ruleset, 0) == 0;
    close(ruleset);
    return fine ? (int)abi : 0;
}
