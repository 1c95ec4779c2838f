/*
 * The parent: one loop over poll(2), from the first socket to the last wait.
 *
 * Sleeps: in poll; and a moment while a keeper reads its keys. Fails: at start with words and an
 * exit code. Later it never ends by itself: a worker that fell is replaced, with longer and longer
 * pauses while it keeps falling.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "app/parent.h"
#include "guard/guard.h"
#include "observe/observe.h"
#include "runtime/runtime.h"

#define PAUSE_LEAST_US (100 * US_PER_MS)
#define PAUSE_MOST_US (30 * US_PER_S)
#define STEADY_US (60 * US_PER_S)      /* who served so long starts again with the least pause */
#define RUNNER_PAUSE_US (1 * US_PER_S) /* between two starts of it */
#define STOP_PATIENCE_US (90 * US_PER_S)
#define TRIAL_PATIENCE_US (90 * US_PER_S) /* until a new worker serves by a new configuration */
enum { WHY_ROOM = 1024 };

/* ------------------------------------------------------------------ starting a worker */

/* The configuration as the worker reads it: nothing left to look up. -1 with errno. */
int parent_config_file(const struct config *config)
{
    CLEANUP(buffer_free) struct buffer text = BUFFER_WITH_LIMIT(32 * MIB);
    const int file = memfd_create("configuration", MFD_CLOEXEC);

    config_print(&text, config);
    if (file < 0 || text.failed) {
        errno = file < 0 ? errno : ENOMEM;
        close(file);
        return -1;
    }
    for (size_t done = 0; done < text.count;) {
        const ssize_t written = write(file, text.at + done, text.count - done);
        if (written > 0) {
            done += (size_t)written;
        } else if (errno != EINTR) {
            close(file);
            return -1;
        }
    }
    return lseek(file, 0, SEEK_SET) == 0 ? file : -1;
}

bool parent_send_config(const struct parent *parent, enum channel_kind kind, bool next)
{
    const struct config *config = next ? parent->next_config : parent->config;
    const struct keeper *keeper = next ? &parent->next_keeper : &parent->keeper;
    const struct runner_place *runner = next ? &parent->next_runner : &parent->runner;
    struct channel_packet packet = {
        .kind = kind, .descriptor_count = 1, .has_keeper = keeper->service >= 0};
    const int file = parent_config_file(config);

    if (file < 0)
        return false;
    packet.descriptors[0] = file;
    if (keeper->service >= 0)
        packet.descriptors[packet.descriptor_count++] = keeper->service;
    if (runner->listener >= 0)
        packet.descriptors[packet.descriptor_count++] = runner->life[1];
    snprintf(packet.runner, sizeof packet.runner, "%s", runner->path);
    snprintf(packet.text, sizeof packet.text, "%s", config->file);
    const bool sent = channel_send(parent->channel, &packet);
    close(file);
    return sent;
}

/* Those of `places` that `had` has not. */
bool parent_send_places(const struct parent *parent, const struct places *places,
                        const struct places *had)
{
    for (unsigned i = 0; i < places->count; i++) {
        const struct place_bound *row = &places->rows[i];
        struct channel_packet packet = {
            .kind = CHANNEL_LISTENER, .at = row->at, .descriptor_count = row->count};
        if (had && places_find(had, &row->at))
            continue;
        memcpy(packet.descriptors, row->sockets, row->count * sizeof row->sockets[0]);
        if (!channel_send(parent->channel, &packet))
            return false;
    }
    return true;
}

/* In the child: to the worker's own program, with nothing but its channels. Does not return. */
__attribute__((noreturn)) static void become_worker(const struct parent *parent, int channel,
                                                    int broker)
{
    char *const arguments[] = {(char *)(uintptr_t) "holdfast", (char *)(uintptr_t) "worker", NULL};
    char why[WHY_ROOM] = "";
    sigset_t none;
    const int self = fcntl(parent->self, F_DUPFD_CLOEXEC, 16);
    const int high_channel = fcntl(channel, F_DUPFD_CLOEXEC, 16);
    const int high_broker = fcntl(broker, F_DUPFD_CLOEXEC, 16);

    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (!guard_become(parent->config->user, why, sizeof why)) {
        fprintf(stderr, "holdfast: %s\n", why);
        _exit(EXIT_FINDINGS);
    }
    if (dup2(high_channel, WORKER_CHANNEL) >= 0 && dup2(high_broker, WORKER_BROKER) >= 0 &&
        prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) == 0 && getppid() == parent->process)
        fexecve(self, arguments, environ);
    fprintf(stderr, "holdfast: cannot start the worker: %s\n", strerror(errno));
    _exit(EXIT_FINDINGS);
}

static void channels_close(struct parent *parent)
{
    if (parent->channel >= 0)
        close(parent->channel);
    if (parent->broker >= 0)
        close(parent->broker);
    parent->channel = parent->broker = -1;
}

/* A keeper that ended, and could not be started at once. */
static bool keeper_revive(struct parent *parent)
{
    char why[WHY_ROOM];

    if (parent->trial || parent->keeper.service >= 0 ||
        keeper_start(parent->config, &parent->keeper, why, sizeof why))
        return true;
    observe_note(LOG_ERROR, "parent", "the keeper of keys: %s", why);
    return false;
}

static bool worker_start(struct parent *parent)
{
    int channel[2] = {-1, -1}, broker[2] = {-1, -1};

    parent->ready = false;
    parent->started_us = clock_now_us();
    if (!keeper_revive(parent))
        return false;
    if (!channel_pair(channel))
        return false;
    if (!channel_pair(broker)) {
        close(channel[0]);
        close(channel[1]);
        return false;
    }
    parent->worker = fork();
    if (parent->worker == 0)
        become_worker(parent, channel[1], broker[1]);
    close(channel[1]);
    close(broker[1]);
    parent->channel = channel[0];
    parent->broker = broker[0];
    const bool trial = parent->trial;
    parent->kill_us = parent->started_us + TRIAL_PATIENCE_US;
    if (parent->worker > 0 &&
        parent_send_places(parent, trial ? &parent->next_places : &parent->places, NULL) &&
        parent_send_config(parent, CHANNEL_BEGIN, trial))
        return true;
    channels_close(
        parent); /* so that a worker which was told half of it ends, and is tried again */
    return parent->worker > 0;
}

/* ------------------------------------------------------------------ what the worker says */

/* A place of a file on the list, opened for reading; never a device, never a wait. */
static int open_for_worker(const struct parent *parent, const char *path)
{
    struct stat facts;

    if (!files_allow(parent->config, path) &&
        !(parent->next_config && files_allow(parent->next_config, path))) {
        errno = EACCES;
        return -1;
    }
    const int file = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (file < 0 || (fstat(file, &facts) == 0 && S_ISREG(facts.st_mode)))
        return file;
    close(file);
    errno = EACCES;
    return -1;
}

static void serve_broker(struct parent *parent)
{
    static struct broker_question question;

    if (!broker_receive(parent->broker, &question)) {
        close(parent->broker);
        parent->broker = -1;
        return;
    }
    const int file = open_for_worker(parent, question.path);
    const int error = file < 0 ? errno : 0;
    if (!broker_answer(parent->broker, question.number, file, error))
        observe_note(LOG_WARNING, "parent", "the worker did not take a file");
    if (file >= 0)
        close(file);
}

static void serve_channel(struct parent *parent)
{
    static struct channel_packet packet;

    if (!channel_receive(parent->channel, &packet)) {
        close(parent->channel);
        parent->channel = -1;
        return;
    }
    for (unsigned i = 0; i < packet.descriptor_count; i++)
        close(packet.descriptors[i]); /* it has nothing to give */
    if (packet.kind != CHANNEL_READY) {
        parent_heard(parent, &packet);
        return;
    }
    parent->ready = parent->served = true;
    notify_tell(parent->manager, NOTIFY_READY);
    if (parent->trial) {
        observe_event(&(struct event){.kind = EVENT_CONFIG_RELOADED,
                                      .text = bytes_of_text(parent->next_config->file)});
        parent_commit(parent);
    }
}

/* ------------------------------------------------------------------ ends and signals */

static void tell_end(int status, uint64_t pause_us)
{
    const unsigned long long pause_ms = pause_us / US_PER_MS;

    if (WIFSIGNALED(status))
        observe_note(LOG_ERROR, "parent",
                     "the worker was ended by signal %d (%s); a new one starts in %llu ms",
                     WTERMSIG(status), strsignal(WTERMSIG(status)), pause_ms);
    else
        observe_note(LOG_ERROR, "parent",
                     "the worker left with code %d; a new one starts in %llu ms",
                     WEXITSTATUS(status), pause_ms);
}

static void worker_ended(struct parent *parent, int status)
{
    const bool steady = clock_now_us() - parent->started_us > STEADY_US;
    const bool replaced = parent->replacing && WIFEXITED(status) && WEXITSTATUS(status) == 0;

    parent->worker = 0;
    parent->ready = false;
    channels_close(parent);
    parent->exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : EXIT_FINDINGS;
    if (parent->stopping || !parent->served) {
        parent->over = true;
        return;
    }
    if (!(replaced && parent->trial))
        parent_abandon(parent, "the worker ended");
    parent->pause_us = replaced || steady || parent->pause_us == 0
                           ? PAUSE_LEAST_US
                           : MIN_OF(2 * parent->pause_us, PAUSE_MOST_US);
    parent->start_us = clock_now_us() + (replaced ? 0 : parent->pause_us);
    if (!replaced)
        tell_end(status, parent->pause_us);
    notify_tell(parent->manager, NOTIFY_RESTARTING);
    parent->replacing = false;
}

static void keeper_ended(struct parent *parent)
{
    char why[WHY_ROOM];

    /* Without it there are no handshakes and no signatures, so those that have it go, too. */
    close(parent->keeper.service);
    parent->keeper = (struct keeper){.service = -1};
    observe_note(LOG_ERROR, "parent", "the keeper of keys ended; the worker starts anew with it");
    if (!keeper_start(parent->config, &parent->keeper, why, sizeof why))
        observe_note(LOG_ERROR, "parent", "the keeper of keys: %s", why);
    if (parent->worker > 0) {
        parent->replacing = true;
        parent_end_worker(parent);
    }
}

/* Mail for its commands waits in its socket; who ran under it was ended and is deferred. */
static void runner_ended(struct parent *parent, struct runner_place *runner)
{
    runner->process = 0;
    if (!parent->stopping)
        observe_note(LOG_ERROR, "parent",
                     "the runner of commands ended; a new one takes its place");
}

static void runner_revive(const struct config *config, struct runner_place *runner)
{
    if (runner->listener >= 0 && runner->process == 0 &&
        clock_now_us() >= runner->started_us + RUNNER_PAUSE_US && !runner_fork(config, runner))
        observe_note(LOG_ERROR, "parent", "the runner of commands: %s", strerror(errno));
}

static void reap(struct parent *parent)
{
    int status = 0;
    pid_t ended = 0;

    while ((ended = waitpid(-1, &status, WNOHANG)) > 0) {
        if (ended == parent->worker)
            worker_ended(parent, status);
        else if (ended == parent->keeper.process && !parent->stopping)
            keeper_ended(parent);
        else if (ended == parent->runner.process)
            runner_ended(parent, &parent->runner);
        else if (parent->next_config && ended == parent->next_runner.process)
            runner_ended(parent, &parent->next_runner);
        else
            parent_forget_runner(parent, ended);
    }
}

void parent_end_worker(struct parent *parent)
{
    parent->kill_us = clock_now_us() + STOP_PATIENCE_US;
    kill(parent->worker, SIGTERM);
}

/* A worker that has no more time than until kill_us: it may hang in a library or on a disk. */
static bool worker_is_timed(const struct parent *parent)
{
    return parent->worker > 0 &&
           (parent->stopping || parent->replacing || (parent->trial && !parent->ready));
}

static void kill_late_worker(struct parent *parent)
{
    if (!worker_is_timed(parent) || clock_now_us() < parent->kill_us)
        return;
    observe_note(LOG_ERROR, "parent", "the worker did not %s in time and is killed",
                 parent->stopping || parent->replacing ? "end" : "begin to serve");
    kill(parent->worker, SIGKILL);
    parent->kill_us = clock_now_us() + STOP_PATIENCE_US;
}

static void stop(struct parent *parent)
{
    if (parent->stopping)
        return;
    parent->stopping = true;
    notify_tell(parent->manager, NOTIFY_STOPPING);
    if (parent->worker > 0)
        parent_end_worker(parent);
    else
        parent->over = true;
}

static void take_signal(struct parent *parent)
{
    struct signalfd_siginfo info;

    if (read(parent->signals, &info, sizeof info) != sizeof info)
        return;
    if (info.ssi_signo == SIGCHLD)
        reap(parent);
    else if (info.ssi_signo == SIGHUP)
        parent->reload_wanted = true;
    else
        stop(parent);
}

/* ------------------------------------------------------------------ the loop */

static int wait_ms(const struct parent *parent)
{
    const uint64_t now = clock_now_us();
    uint64_t until = DEADLINE_NEVER;

    if (parent->worker == 0 && !parent->over)
        until = parent->start_us;
    if (worker_is_timed(parent))
        until = MIN_OF(until, parent->kill_us);
    if (parent->runner.listener >= 0 && parent->runner.process == 0)
        until = MIN_OF(until, parent->runner.started_us + RUNNER_PAUSE_US);
    if (until == DEADLINE_NEVER)
        return -1;
    return until <= now ? 0 : (int)MIN_OF((until - now) / US_PER_MS + 1, (uint64_t)60000);
}

static void pause_longer(struct parent *parent)
{
    parent->pause_us =
        parent->pause_us ? MIN_OF(2 * parent->pause_us, PAUSE_MOST_US) : PAUSE_LEAST_US;
    parent->start_us = clock_now_us() + parent->pause_us;
}

static void turn(struct parent *parent)
{
    struct pollfd ready[] = {{.fd = parent->signals, .events = POLLIN},
                             {.fd = parent->channel, .events = POLLIN},
                             {.fd = parent->broker, .events = POLLIN}};

    if (poll(ready, COUNT_OF(ready), wait_ms(parent)) < 0)
        return;
    if (ready[2].revents && parent->broker >= 0)
        serve_broker(parent);
    if (ready[1].revents && parent->channel >= 0)
        serve_channel(parent);
    if (ready[0].revents)
        take_signal(parent);
    if (parent->reload_wanted && parent_may_reload(parent)) {
        parent->reload_wanted = false;
        parent_reload(parent);
    }
    if (parent->worker == 0 && !parent->over && clock_now_us() >= parent->start_us &&
        !worker_start(parent)) {
        observe_note(LOG_ERROR, "parent", "cannot start the worker: %s", strerror(errno));
        pause_longer(parent);
    }
    if (!parent->stopping)
        runner_revive(parent->config, &parent->runner);
    kill_late_worker(parent);
}

static bool parent_open(struct parent *parent, char *why, size_t why_room)
{
    sigset_t watched;

    sigemptyset(&watched);
    sigaddset(&watched, SIGTERM);
    sigaddset(&watched, SIGINT);
    sigaddset(&watched, SIGHUP);
    sigaddset(&watched, SIGCHLD);
    parent->process = getpid();
    parent->manager = notify_open();
    parent->self = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    parent->signals =
        sigprocmask(SIG_BLOCK, &watched, NULL) == 0 ? signalfd(-1, &watched, SFD_CLOEXEC) : -1;
    if (parent->self < 0 || parent->signals < 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0) {
        snprintf(why, why_room, "cannot start: %s", strerror(errno));
        return false;
    }
    files_name_resolvers(parent->config);
    return files_prepare(parent->config, why, why_room) &&
           places_open(&(struct places){0}, parent->config, &parent->places, why, why_room) &&
           keeper_start(parent->config, &parent->keeper, why, why_room) &&
           runner_start(parent->config, &parent->runner, why, why_room);
}

int parent_run(const char *config_file, struct config *config)
{
    struct parent parent = {.config_file = config_file,
                            .config = config,
                            .channel = -1,
                            .broker = -1,
                            .manager = -1,
                            .keeper = {.service = -1},
                            .next_keeper = {.service = -1},
                            .runner = RUNNER_PLACE_NONE,
                            .next_runner = RUNNER_PLACE_NONE,
                            .exit_code = EXIT_FINDINGS};
    char why[WHY_ROOM];

    if (!parent_open(&parent, why, sizeof why)) {
        fprintf(stderr, "holdfast: %s\n", why);
    } else {
        if (*config->user == 0 && geteuid() == 0)
            observe_note(LOG_WARNING, "parent",
                         "started by root without `user`: the worker stays root");
        while (!parent.over)
            turn(&parent);
    }
    places_drop(&parent.places, &(struct places){0});
    if (parent.runner.listener >= 0)
        unlink(parent.runner.path);
    runner_leave(&parent.runner);
    parent_forget_runner(&parent, 0);
    config_free(parent.config);
    return parent.exit_code;
}
