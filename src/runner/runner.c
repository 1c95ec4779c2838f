/*
 * The loop of the runner: it takes connections and makes a process for each. It is the server's
 * user, and of root's powers it keeps those to become the users of its commands, and that its runs
 * end with it.
 */
#include "runner/inside.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "guard/guard.h"

enum { RUNS_SURPLUS = 4 }; /* of a former and a present configuration's place, while they change */

bool runner_check(const struct config *config, char *why, size_t why_room)
{
    struct runner_user user;

    for (unsigned i = 0; i < config->pipe_count; i++) {
        if (!runner_user_find(&config->pipes[i], &user, why, why_room))
            return false;
        if (config->pipes[i].write_count > 0 && !guard_holds_writes()) {
            snprintf(why, why_room,
                     "pipe \"%s\": writes: this kernel has no Landlock that holds it",
                     config->pipes[i].name);
            return false;
        }
    }
    return true;
}

static bool is_of(int connection, unsigned asker)
{
    struct ucred peer;
    socklen_t size = sizeof peer;

    return getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.uid == asker;
}

static unsigned runs_most(const struct config *config)
{
    unsigned most = RUNS_SURPLUS;

    for (unsigned i = 0; i < config->pipe_count; i++)
        most += config->pipes[i].concurrency;
    return most;
}

/* True: another process runs. */
static bool take_one(const struct runner *runner, int listener, int life, unsigned asker)
{
    const int connection = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    const pid_t self = getpid();
    pid_t child = -1;

    if (connection < 0)
        return false;
    if (is_of(connection, asker))
        child = fork();
    if (child == 0) {
        close(listener);
        close(life);
        runner_run(runner, connection, self);
        _exit(0);
    }
    close(connection);
    return child > 0;
}

/* One signal may stand for several ends, so those are asked for, not counted by signals. */
static unsigned reap(int signals)
{
    struct signalfd_siginfo info;
    unsigned ended = 0;

    while (read(signals, &info, sizeof info) > 0)
        continue;
    while (waitpid(-1, NULL, WNOHANG) > 0)
        ended++;
    return ended;
}

static void serve(const struct runner *runner, int listener, int life, unsigned asker, int signals)
{
    const unsigned most = runs_most(runner->config);
    bool alive = true;

    for (unsigned count = 0; alive || count > 0;) {
        struct pollfd ready[] = {{.fd = signals, .events = POLLIN},
                                 {.fd = alive ? life : -1, .events = POLLIN},
                                 {.fd = alive && count < most ? listener : -1, .events = POLLIN}};
        if (poll(ready, COUNT_OF(ready), -1) < 0 && errno != EINTR)
            return;
        if (ready[0].revents) {
            const unsigned ended = reap(signals); /* not within MIN_OF, which asks twice */
            count -= MIN_OF(ended, count);
        }
        if (ready[1].revents)
            alive = false;
        if (alive && ready[2].revents && take_one(runner, listener, life, asker))
            count++;
    }
}

void runner_serve(const struct config *config, int listener, int life, unsigned asker)
{
    struct runner runner = {.config = config,
                            .users = calloc(config->pipe_count, sizeof *runner.users)};
    char why[256] = "signals";
    sigset_t watched;
    bool fine = runner.users != NULL;

    sigemptyset(&watched);
    sigaddset(&watched, SIGCHLD);
    for (unsigned i = 0; fine && i < config->pipe_count; i++)
        fine = runner_user_find(&config->pipes[i], &runner.users[i], why, sizeof why);
    const int signals = sigprocmask(SIG_BLOCK, &watched, NULL) == 0
                            ? signalfd(-1, &watched, SFD_CLOEXEC | SFD_NONBLOCK)
                            : -1;
    fine = fine && signals >= 0 && runner_keep_few_powers(&runner, why, sizeof why);
    if (fine)
        serve(&runner, listener, life, asker, signals);
    else
        fprintf(stderr, "holdfast: runner of commands: %s\n", why);
    _exit(fine ? 0 : 1);
}
