/*
 * One run, in a process of its own: the request, the whole message into memory, the command, its
 * end, the answer. The first that is read of a request is which pipe is meant; with that this
 * process becomes the pipe's user, and reads the rest without any power.
 *
 * The message is complete before the command starts, so no fault of ours and no lost worker can
 * make a command take half a message for a whole one. This process adopts what the command leaves
 * behind (PR_SET_CHILD_SUBREAPER), even what made a session of its own, and kills it.
 */
#include "runner/inside.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "guard/guard.h"

#define INPUT_PATIENCE_US (60 * US_PER_S) /* for each piece of the request */
#define TERM_PATIENCE_US (5 * US_PER_S)   /* between SIGTERM and SIGKILL */
#define STRAY_PATIENCE_US (5 * US_PER_S)
#define HEAD_MOST (64 * KIB) /* of what stands before the message: Return-Path and the like */
enum { STRAY_LOOK_MS = 5, STRAYS_ROOM = 4096 };

struct run {
    const struct runner *runner;
    const struct config_pipe *pipe;
    const struct runner_user *user;
    struct arena arena;
    struct runner_values values;
    struct pipe_answer answer;
    int connection, message, output, watch; /* watch: a pidfd of the command */
    int children;                           /* the kernel's list of ours */
    int refused;                            /* errno of becoming the user; 0: this is he */
    pid_t command;
};

uint64_t runner_now_us(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * US_PER_S + (uint64_t)now.tv_nsec / 1000;
}

static int wait_ms(uint64_t until_us)
{
    const uint64_t now_us = runner_now_us();

    return until_us <= now_us ? 0
                              : (int)MIN_OF((until_us - now_us) / US_PER_MS + 1, UINT64_C(60000));
}

/* ------------------------------------------------------------------ the request */

static bool take(int connection, void *into, size_t count)
{
    uint64_t until_us = runner_now_us() + INPUT_PATIENCE_US;

    for (size_t had = 0; had < count;) {
        struct pollfd ready = {.fd = connection, .events = POLLIN};
        if (poll(&ready, 1, wait_ms(until_us)) == 0 && runner_now_us() >= until_us)
            return false;
        const ssize_t got = recv(connection, (uint8_t *)into + had, count - had, MSG_DONTWAIT);
        if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR))
            return false;
        if (got > 0)
            until_us = runner_now_us() + INPUT_PATIENCE_US;
        had += got > 0 ? (size_t)got : 0;
    }
    return true;
}

static bool put(int descriptor, const uint8_t *from, size_t count)
{
    while (count > 0) {
        const ssize_t done = write(descriptor, from, count);
        if (done < 0 && errno != EINTR)
            return false;
        from += done > 0 ? done : 0;
        count -= done > 0 ? (size_t)done : 0;
    }
    return true;
}

static bool take_text(struct run *run, size_t count, const char **text)
{
    char *taken = arena_take_array(&run->arena, count + 1, 1);

    if (!taken || !take(run->connection, taken, count) || memchr(taken, 0, count))
        return false;
    taken[count] = 0;
    *text = taken;
    return true;
}

/* Which pipe, and with that who we are from now on. */
static bool take_pipe(struct run *run, struct pipe_request *request)
{
    static const struct runner_user nobody_else = {0};
    const char *name = NULL;

    if (!take(run->connection, request, sizeof *request) || !pipe_request_is_sound(request) ||
        !take_text(run, request->counts[0], &name))
        return false;
    run->pipe = config_find_pipe(run->runner->config, bytes_of_text(name));
    run->user =
        run->pipe ? &run->runner->users[run->pipe - run->runner->config->pipes] : &nobody_else;
    run->refused = runner_user_become(run->user) ? 0 : errno;
    return true;
}

static bool take_values(struct run *run, const struct pipe_request *request)
{
    for (unsigned i = 1; i < PIPE_FIELDS; i++)
        if (!take_text(run, request->counts[i], &run->values.of[i - 1]))
            return false;
    return true;
}

static bool take_message(struct run *run)
{
    static uint8_t piece[PIPE_PIECE_MOST];
    const uint64_t most = run->runner->config->limits.message_size + HEAD_MOST;
    uint32_t count = 0;

    run->message = memfd_create("message", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (run->message < 0)
        return false;
    for (uint64_t had = 0; take(run->connection, &count, sizeof count); had += count) {
        if (count == 0)
            return fcntl(run->message, F_ADD_SEALS,
                         F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) == 0 &&
                   lseek(run->message, 0, SEEK_SET) == 0;
        if (count > sizeof piece || had + count > most || !take(run->connection, piece, count) ||
            !put(run->message, piece, count))
            return false;
    }
    return false;
}

/* ------------------------------------------------------------------ starting */

PRINTF_LIKE(4, 5)
static void answer_with(struct run *run, enum pipe_end end, unsigned value, const char *format, ...)
{
    struct pipe_answer *answer = &run->answer;
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(answer->output, sizeof answer->output, format, arguments);
    va_end(arguments);
    answer->end = end;
    answer->value = value;
    answer->output_count = (uint32_t)strlen(answer->output);
}

/* True: the program runs. Its start is known to have succeeded when `started` closes by itself. */
static bool wait_for_start(struct run *run, int started)
{
    struct runner_trouble trouble = {0};
    ssize_t got = 0;

    do
        got = read(started, &trouble, sizeof trouble);
    while (got < 0 && errno == EINTR);
    if (got == 0)
        return true;
    trouble.what[sizeof trouble.what - 1] = 0;
    waitpid(run->command, NULL, 0);
    run->command = 0;
    answer_with(run, PIPE_NOT_STARTED, (unsigned)trouble.error, "%s: %s: %s", run->pipe->command[0],
                trouble.what, strerror(trouble.error));
    return false;
}

static bool launch(struct run *run, struct runner_start *start)
{
    int output[2], started[2];

    if (pipe2(output, O_CLOEXEC) != 0)
        return false;
    if (pipe2(started, O_CLOEXEC) != 0) {
        close(output[0]);
        close(output[1]);
        return false;
    }
    start->message = run->message;
    start->output = output[1];
    start->started = started[1];
    start->starter = getpid();
    run->command = fork();
    if (run->command == 0)
        runner_become(start);
    close(output[1]);
    close(started[1]);
    run->output = output[0];
    const bool fine = run->command > 0 && fcntl(output[0], F_SETFL, O_NONBLOCK) == 0 &&
                      wait_for_start(run, started[0]);
    close(started[0]);
    run->watch = fine ? (int)syscall(SYS_pidfd_open, run->command, 0) : -1;
    return fine && run->watch >= 0;
}

static bool start(struct run *run)
{
    const char *why = NULL;
    struct runner_start begin = {.pipe = run->pipe};

    if (!run->pipe) {
        answer_with(run, PIPE_NOT_STARTED, ENOENT, "there is no such pipe in the configuration");
        return false;
    }
    if (run->refused) {
        answer_with(run, PIPE_NOT_STARTED, (unsigned)run->refused, "%s: becoming its user: %s",
                    run->pipe->command[0], strerror(run->refused));
        return false;
    }
    begin.arguments = runner_arguments(&run->arena, run->pipe, &run->values, &why);
    begin.environment = runner_environment(&run->arena, run->user, &run->values);
    if (!begin.arguments) {
        answer_with(run, PIPE_UNFIT, 0, "%s", why);
        return false;
    }
    answer_with(run, PIPE_BUSY, 0, "no process or memory for it");
    return begin.environment && launch(run, &begin);
}

/* ------------------------------------------------------------------ watching */

/* The first of it is kept, all of it is read, lest the command wait for us. */
static void take_output(struct run *run)
{
    char piece[4096];
    ssize_t got = 0;

    while ((got = read(run->output, piece, sizeof piece)) > 0) {
        struct pipe_answer *answer = &run->answer;
        const size_t room = sizeof answer->output - answer->output_count;
        const size_t kept = MIN_OF(room, (size_t)got);
        memcpy(answer->output + answer->output_count, piece, kept);
        answer->output_count += (uint32_t)kept;
        if (room == 0)
            break; /* back to the loop, so that a flood does not keep us from the clock */
    }
}

static void kill_group(const struct run *run, int number)
{
    kill(-run->command, number);
    kill(run->command, number);
}

/* Those who were left to us, whatever group they made themselves. */
static void kill_strays(const struct run *run)
{
    char text[STRAYS_ROOM];
    const ssize_t got = pread(run->children, text, sizeof text - 1, 0);
    struct bytes rest = got > 0 ? bytes_of(text, (size_t)got) : BYTES_EMPTY, word;
    uint64_t number = 0;

    while (rest.count > 0) {
        rest = bytes_cut(rest, ' ', &word);
        if (bytes_to_u64(word, &number) && number > 1)
            kill((pid_t)number, SIGKILL);
    }
}

static void clear_away(const struct run *run)
{
    const struct timespec moment = {.tv_nsec = STRAY_LOOK_MS * 1000000L};
    const uint64_t until_us = runner_now_us() + STRAY_PATIENCE_US;

    kill_group(run, SIGKILL);
    while (runner_now_us() < until_us) {
        pid_t ended = 0;
        while ((ended = waitpid(-1, NULL, WNOHANG)) > 0)
            continue;
        if (ended < 0 && errno == ECHILD)
            return;
        kill_strays(run);
        nanosleep(&moment, NULL);
    }
}

/* While it is not reaped its group's number is nobody else's. */
static void judge(struct run *run, bool late)
{
    siginfo_t info = {0};

    if (waitid(P_PID, (id_t)run->command, &info, WEXITED | WNOWAIT | WNOHANG) != 0)
        return;
    if (late)
        run->answer.end = PIPE_TIMED_OUT;
    else
        run->answer.end = info.si_code == CLD_EXITED ? PIPE_EXITED : PIPE_SIGNALLED;
    run->answer.value = (uint32_t)info.si_status;
}

/* False: who asked is gone, and nobody wants the answer. */
static bool watch(struct run *run)
{
    uint64_t until_us = runner_now_us() + run->pipe->timeout_us;
    unsigned warnings = 0;

    run->answer = (struct pipe_answer){.magic = PIPE_MAGIC};
    for (;;) {
        struct pollfd ready[] = {{.fd = run->watch, .events = POLLIN},
                                 {.fd = run->connection, .events = POLLIN | POLLRDHUP},
                                 {.fd = run->output, .events = POLLIN}};
        if (poll(ready, COUNT_OF(ready), wait_ms(until_us)) < 0 && errno != EINTR)
            return false;
        take_output(run);
        if (ready[2].revents & (POLLHUP | POLLERR) && !(ready[2].revents & POLLIN) &&
            run->output >= 0) { /* it has closed both outputs and goes on */
            close(run->output);
            run->output = -1;
        }
        if (ready[0].revents) {
            judge(run, warnings > 0);
            return true;
        }
        if (ready[1].revents)
            return false;
        if (runner_now_us() < until_us)
            continue;
        kill_group(run, warnings == 0 ? SIGTERM : SIGKILL);
        until_us = runner_now_us() + TERM_PATIENCE_US;
        warnings++;
    }
}

/* ------------------------------------------------------------------ the whole */

/* All this process will open. False: nothing shall run that could not be cleared away. */
static bool settle_down(struct run *run, pid_t loop)
{
    run->children = open("/proc/thread-self/children", O_RDONLY | O_CLOEXEC);
    return run->children >= 0 && prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) == 0 && getppid() == loop;
}

void runner_run(const struct runner *runner, int connection, pid_t loop)
{
    struct run run = {.runner = runner,
                      .connection = connection,
                      .message = -1,
                      .output = -1,
                      .watch = -1,
                      .arena = ARENA_WITH_LIMIT(MIB)};
    struct pipe_request request;

    if (!take_pipe(&run, &request) || !settle_down(&run, loop) || !take_values(&run, &request) ||
        !take_message(&run))
        return;
    bool wanted = true;
    if (start(&run))
        wanted = guard_enter_watcher() && watch(&run);
    take_output(&run);
    if (run.command > 0)
        clear_away(&run);
    run.answer.magic = PIPE_MAGIC;
    if (wanted && send(connection, &run.answer, sizeof run.answer, MSG_NOSIGNAL) < 0)
        return;
}
