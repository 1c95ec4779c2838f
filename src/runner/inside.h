/* Shared by the files of runner only. */
#ifndef RUNNER_INSIDE_H
#define RUNNER_INSIDE_H

#include <sys/types.h>

#include "runner/runner.h"

enum { RUNNER_GROUPS_MOST = 64, RUNNER_NAME_ROOM = 64, RUNNER_HOME_ROOM = 256 };

/* Who a command runs as. */
struct runner_user {
    bool becomes; /* false: as we are */
    uid_t uid;
    gid_t gid, groups[RUNNER_GROUPS_MOST];
    int group_count;
    char name[RUNNER_NAME_ROOM], home[RUNNER_HOME_ROOM];
};
MUST_USE bool runner_user_find(const struct config_pipe *pipe, struct runner_user *user, char *why,
                               size_t why_room);
struct runner {
    const struct config *config;
    struct runner_user *users; /* one a pipe */
};
/* For good, without any power left. False with errno: then no power is left, either. */
MUST_USE bool runner_user_become(const struct runner_user *user);
/* As root: from now on the server's own user, with the powers to become those. False with `why`. */
MUST_USE bool runner_keep_few_powers(const struct runner *runner, char *why, size_t why_room);

char **runner_environment(struct arena *arena, const struct runner_user *user,
                          const struct runner_values *values);
uint64_t runner_now_us(void);

/* One run, from the request to the answer; the caller's process is its own, and ends with `loop`.
 */
void runner_run(const struct runner *runner, int connection, pid_t loop);

/* In the new process: to the command, or a word to `started` why not. */
struct runner_start {
    const struct config_pipe *pipe;
    char **arguments, **environment;
    int message, output, started;
    pid_t starter;
};
struct runner_trouble {
    int error;
    char what[60];
};
__attribute__((noreturn)) void runner_become(const struct runner_start *start);

#endif
