/*
 * Starting a keeper of keys: it reads the files as the parent's user, then becomes the
 * configuration's user, gives everything up and answers until its users are gone. One a
 * configuration: a reload starts the next, and the old one ends with the last session that uses it.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "app/processes.h"
#include "guard/guard.h"

enum { WHY_ROOM = 512 };

/* Says "" on `status` when it is ready, or why it is not. Does not return. */
__attribute__((noreturn)) static void keeper_main(const struct key_keeper_settings *settings,
                                                  const char *user, int socket, int status)
{
    char why[WHY_ROOM] = "";
    struct key_keeper *keeper = key_keeper_open(settings, why, sizeof why);
    const bool ready = keeper && guard_become(user, why, sizeof why) &&
                       prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) == 0 &&
                       guard_enter_keeper(why, sizeof why);

    if (ready)
        why[0] = 0;
    const ssize_t told = write(status, why, strlen(why) + 1);
    close(status);
    if (ready && told > 0)
        key_keeper_serve(keeper, socket);
    _exit(ready ? 0 : 1);
}

/* What the child says first; false with its `why`, or when it died before. */
static bool keeper_is_ready(int status, char *why, size_t why_room)
{
    ssize_t got = 0;
    size_t count = 0;

    while (count + 1 < why_room && (got = read(status, why + count, why_room - 1 - count)) != 0) {
        if (got > 0)
            count += (size_t)got;
        else if (errno != EINTR)
            break;
    }
    why[count] = 0;
    if (count == 0)
        snprintf(why, why_room, "the keeper of keys did not start");
    else if (why[0] == 0)
        return true;
    return false;
}

static bool keeper_fork(const struct config *config, const struct key_keeper_settings *settings,
                        struct keeper *keeper, char *why, size_t why_room)
{
    int sockets[2], status[2];

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) != 0) {
        snprintf(why, why_room, "keeper of keys: %s", strerror(errno));
        return false;
    }
    if (pipe2(status, O_CLOEXEC) != 0) {
        snprintf(why, why_room, "keeper of keys: %s", strerror(errno));
        close(sockets[0]);
        close(sockets[1]);
        return false;
    }
    keeper->process = fork();
    if (keeper->process == 0) {
        guard_close_others(sockets[1], status[1]);
        keeper_main(settings, config->user, sockets[1], status[1]);
    }
    close(sockets[1]);
    close(status[1]);
    const bool ready = keeper->process > 0 && keeper_is_ready(status[0], why, why_room);
    close(status[0]);
    if (ready) {
        keeper->service = sockets[0];
        return true;
    }
    close(sockets[0]);
    if (keeper->process > 0)
        waitpid(keeper->process, NULL, 0);
    *keeper = (struct keeper){.service = -1};
    return false;
}

bool keeper_start(const struct config *config, struct keeper *keeper, char *why, size_t why_room)
{
    struct key_file *files = calloc(config->sign_count + 1u, sizeof *files);
    const struct key_keeper_settings settings = {.certificate = config->tls_certificate,
                                                 .certificate_key = config->tls_key,
                                                 .files = files,
                                                 .count = config->sign_count};
    bool fine = files != NULL;

    *keeper = (struct keeper){.service = -1};
    if (!fine)
        snprintf(why, why_room, "no memory");
    for (unsigned i = 0; fine && i < config->sign_count; i++)
        files[i] = (struct key_file){config->signs[i].name, config->signs[i].key};
    if (fine && (*config->tls_certificate || config->sign_count > 0))
        fine = keeper_fork(config, &settings, keeper, why, why_room);
    free(files);
    return fine;
}
