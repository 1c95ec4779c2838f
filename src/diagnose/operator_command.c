/*
 * The operator's command: started without a shell, fed with the summary, ended when its time is
 * over. Blocks; runs on a thread of the worker pool.
 */
#include "diagnose/operator.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { WORDS_MAX = 32, VARIABLES = 6, LOOK_MS = 20 };

struct run {
    struct operator_command *command;
    char *words[WORDS_MAX + 1];
    char line[4096], variables[VARIABLES][320];
    char *environment[VARIABLES + 1];
    int input; /* our end */
    pid_t pid;
    uint64_t ends_us;
};

/* The thread is of no loop, so the clock of the loops is not asked. */
static uint64_t monotonic_us(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * US_PER_S + (uint64_t)now.tv_nsec / 1000;
}

static bool split_words(struct run *run)
{
    unsigned count = 0;

    if (snprintf(run->line, sizeof run->line, "%s", run->command->words) >= (int)sizeof run->line)
        return false;
    for (char *at = run->line; *at;) {
        at += strspn(at, " \t");
        if (!*at)
            break;
        if (count == WORDS_MAX)
            return false;
        run->words[count++] = at;
        at += strcspn(at, " \t");
        if (*at)
            *at++ = 0;
    }
    return count > 0;
}

static void set_environment(struct run *run)
{
    const struct operator_command *command = run->command;
    const char *const values[VARIABLES][2] = {
        {"PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
        {"HOLDFAST_INCIDENT", command->incident},
        {"HOLDFAST_STATE", command->state},
        {"HOLDFAST_CAUSE", command->cause},
        {"HOLDFAST_SIDE", command->side},
        {"HOLDFAST_SUBJECT", command->subject}};

    for (unsigned i = 0; i < VARIABLES; i++) {
        snprintf(run->variables[i], sizeof run->variables[i], "%s=%s", values[i][0], values[i][1]);
        run->environment[i] = run->variables[i];
    }
}

/* A group of its own, so that what it starts ends with it; nothing of ours stays open in it. */
static int spawn(struct run *run, int input)
{
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attributes;
    sigset_t none, all;

    sigemptyset(&none);
    sigfillset(&all);
    if (posix_spawn_file_actions_init(&files) != 0)
        return ENOMEM;
    if (posix_spawnattr_init(&attributes) != 0) {
        posix_spawn_file_actions_destroy(&files);
        return ENOMEM;
    }
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK |
                                              POSIX_SPAWN_SETSIGDEF);
    posix_spawnattr_setpgroup(&attributes, 0);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &all);
    posix_spawn_file_actions_adddup2(&files, input, 0);
    posix_spawn_file_actions_addopen(&files, 1, "/dev/null", O_WRONLY, 0);
    posix_spawn_file_actions_addopen(&files, 2, "/dev/null", O_WRONLY, 0);
    posix_spawn_file_actions_addclosefrom_np(&files, 3);
    const int error =
        posix_spawn(&run->pid, run->words[0], &files, &attributes, run->words, run->environment);
    posix_spawn_file_actions_destroy(&files);
    posix_spawnattr_destroy(&attributes);
    return error;
}

static bool start(struct run *run)
{
    int ends[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
        snprintf(run->command->why, sizeof run->command->why, "%s", strerror(errno));
        return false;
    }
    const int error = spawn(run, ends[1]);
    close(ends[1]);
    run->input = ends[0];
    if (error == 0)
        return true;
    snprintf(run->command->why, sizeof run->command->why, "%s", strerror(error));
    close(ends[0]);
    return false;
}

/* A program that does not read all of it is no mistake. */
static void feed(struct run *run)
{
    struct bytes rest = run->command->input;

    while (rest.count > 0 && monotonic_us() < run->ends_us) {
        struct pollfd ready = {.fd = run->input, .events = POLLOUT};
        if (poll(&ready, 1, LOOK_MS) < 0 && errno != EINTR)
            break;
        const ssize_t sent = send(run->input, rest.at, rest.count, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0 && errno != EAGAIN && errno != EINTR)
            break;
        rest = bytes_skip(rest, sent > 0 ? (size_t)sent : 0);
    }
    close(run->input);
}

static void judge(struct operator_command *command, int status)
{
    command->done = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    if (WIFEXITED(status))
        snprintf(command->why, sizeof command->why, "exit code %d", WEXITSTATUS(status));
    else
        snprintf(command->why, sizeof command->why, "ended by signal %d", WTERMSIG(status));
}

static void wait_for_end(struct run *run)
{
    const struct timespec moment = {.tv_nsec = LOOK_MS * 1000000L};
    int status = 0;

    while (monotonic_us() < run->ends_us) {
        const pid_t got = waitpid(run->pid, &status, WNOHANG);
        if (got == run->pid) {
            judge(run->command, status);
            return;
        }
        if (got < 0 && errno != EINTR) {
            snprintf(run->command->why, sizeof run->command->why, "lost: %s", strerror(errno));
            return;
        }
        nanosleep(&moment, NULL);
    }
    kill(-run->pid, SIGKILL);
    waitpid(run->pid, &status, 0);
    snprintf(run->command->why, sizeof run->command->why, "took too long, and was ended");
}

void operator_command_run(void *argument)
{
    struct operator_command *command = argument;
    struct run run = {.command = command, .ends_us = monotonic_us() + command->timeout_us};

    command->done = false;
    if (!split_words(&run)) {
        snprintf(command->why, sizeof command->why, "too many words");
        return;
    }
    set_environment(&run);
    if (!start(&run))
        return;
    feed(&run);
    wait_for_end(&run);
}
