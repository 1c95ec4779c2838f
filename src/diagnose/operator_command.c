/*
 * The operator's command: started without a shell, fed with the summary, ended when its time is
 * over. Blocks; runs on a thread of the worker pool.
 *
 * A locked-in process may start no program. So before it is locked in it makes a helper, the
 * caller, which knows the one command of the configuration and runs nothing else, whatever it is
 * sent. The helper and its command have locks of their own, those of all who start the operator's
 * programs, and it starts no more than CALLS_MOST in a minute: more marks than that is no human
 * told of.
 */
#include "diagnose/operator.h"
#include "guard/guard.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
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

/* A session of its own, so that what it starts ends with it; nothing of ours stays open in it. */
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
    posix_spawnattr_setflags(&attributes,
                             POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
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

static void run_here(struct operator_command *command)
{
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

/* ------------------------------------------------------------------ the caller */

enum { FACT_ROOM = 300, INPUT_MOST = 1 << 20, ANSWER_SLACK_S = 10 };
enum { CALLS_MOST = 60, CALLS_SPAN_S = 60, CALLER_FILES_MOST = 1024 };

struct request {
    char incident[FACT_ROOM], state[FACT_ROOM], cause[FACT_ROOM], side[FACT_ROOM],
        subject[FACT_ROOM];
    uint32_t input_count; /* octets that follow */
};
struct answer {
    bool done;
    char why[160];
};

static int caller = -1; /* the socket to it; set before there are threads */

static bool read_all(int descriptor, void *into, size_t count)
{
    for (size_t had = 0; had < count;) {
        const ssize_t got = recv(descriptor, (uint8_t *)into + had, count - had, 0);
        if (got == 0 || (got < 0 && errno != EINTR))
            return false;
        had += got > 0 ? (size_t)got : 0;
    }
    return true;
}

static bool write_all(int descriptor, const void *from, size_t count)
{
    for (size_t had = 0; had < count;) {
        const ssize_t put =
            send(descriptor, (const uint8_t *)from + had, count - had, MSG_NOSIGNAL);
        if (put < 0 && errno != EINTR)
            return false;
        had += put > 0 ? (size_t)put : 0;
    }
    return true;
}

/* False: as often as is bearable in this span. */
static bool may_call(void)
{
    static uint64_t began_us;
    static unsigned calls;

    if (calls == 0 || monotonic_us() - began_us >= CALLS_SPAN_S * US_PER_S) {
        began_us = monotonic_us();
        calls = 0;
    }
    if (calls >= CALLS_MOST)
        return false;
    calls++;
    return true;
}

static bool caller_lock(const struct config *config, char *why, size_t why_room)
{
    const struct rlimit files = {CALLER_FILES_MOST, CALLER_FILES_MOST};

    umask(077);
    if (setsid() < 0 || chdir("/") != 0) {
        snprintf(why, why_room, "%s", strerror(errno));
        return false;
    }
    if (setrlimit(RLIMIT_NOFILE, &files) != 0)
        errno = 0; /* it had fewer */
    return config->operator_set_user_id || guard_enter_starter(NULL, why, why_room);
}

/* Says on `service` first whether it is locked: an answer like those to come. */
static void caller_main(const struct config *config, int service)
{
    static struct request request;
    struct answer begun = {0};
    uint8_t *input = malloc(INPUT_MOST);

    begun.done = input && caller_lock(config, begun.why, sizeof begun.why);
    if (!write_all(service, &begun, sizeof begun) || !begun.done)
        _exit(1);

    while (input && read_all(service, &request, sizeof request) &&
           request.input_count <= INPUT_MOST && read_all(service, input, request.input_count)) {
        struct answer answer = {0};
        struct operator_command command = {.words = config->operator_command,
                                           .timeout_us = config->operator_timeout_us,
                                           .input = bytes_of(input, request.input_count),
                                           .incident = request.incident,
                                           .state = request.state,
                                           .cause = request.cause,
                                           .side = request.side,
                                           .subject = request.subject};
        if (may_call())
            run_here(&command);
        else
            snprintf(command.why, sizeof command.why, "not started: %u times in %u s is enough",
                     (unsigned)CALLS_MOST, (unsigned)CALLS_SPAN_S);
        answer.done = command.done;
        memcpy(answer.why, command.why, sizeof answer.why);
        if (!write_all(service, &answer, sizeof answer))
            break;
    }
    _exit(0);
}

bool operator_caller_start(const struct config *config, char *why, size_t why_room)
{
    const struct timeval patience = {.tv_sec = (time_t)(config->operator_timeout_us / US_PER_S) +
                                               ANSWER_SLACK_S};
    struct answer begun = {0};
    int ends[2];

    if (!*config->operator_command)
        return true;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
        snprintf(why, why_room, "operator: %s", strerror(errno));
        return false;
    }
    const pid_t child = fork();
    if (child == 0) {
        if (dup2(ends[1], 3) != 3 || close_range(4, ~0U, 0) != 0)
            _exit(1);
        caller_main(config, 3);
    }
    close(ends[1]);
    if (child < 0) {
        snprintf(why, why_room, "operator: %s", strerror(errno));
        close(ends[0]);
        return false;
    }
    setsockopt(ends[0], SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(ends[0], SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    if (!read_all(ends[0], &begun, sizeof begun) || !begun.done) {
        snprintf(why, why_room, "operator: its helper cannot be locked in: %s", begun.why);
        close(ends[0]);
        return false;
    }
    caller = ends[0];
    return true;
}

static void run_there(struct operator_command *command)
{
    struct request request = {.input_count =
                                  (uint32_t)MIN_OF(command->input.count, (size_t)INPUT_MOST)};
    struct answer answer = {0};

    snprintf(request.incident, FACT_ROOM, "%s", command->incident);
    snprintf(request.state, FACT_ROOM, "%s", command->state);
    snprintf(request.cause, FACT_ROOM, "%s", command->cause);
    snprintf(request.side, FACT_ROOM, "%s", command->side);
    snprintf(request.subject, FACT_ROOM, "%s", command->subject);
    if (!write_all(caller, &request, sizeof request) ||
        !write_all(caller, command->input.at, request.input_count) ||
        !read_all(caller, &answer, sizeof answer)) {
        snprintf(command->why, sizeof command->why, "the helper that runs it is gone");
        return;
    }
    command->done = answer.done;
    memcpy(command->why, answer.why, sizeof command->why);
}

void operator_command_run(void *argument)
{
    struct operator_command *command = argument;

    command->done = false;
    if (caller >= 0)
        run_there(command);
    else
        run_here(command);
}
