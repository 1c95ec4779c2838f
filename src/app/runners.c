/*
 * Starting the runner of a configuration's commands (src/runner): it keeps the powers to become
 * their users, and ends when its users are gone. One a configuration, as the keeper of keys. Its
 * socket lies in the spool, for our own user only, and the runner asks who connects.
 */
#include <dirent.h>
#include <errno.h>
#include <pwd.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "app/processes.h"
#include "guard/guard.h"
#include "observe/observe.h"
#include "runner/runner.h"

#define SOCKET_PREFIX "commands."
enum { NAMES_TRIED = 100 };

static uid_t worker_user(const struct config *config)
{
    const struct passwd *entry = *config->user && geteuid() == 0 ? getpwnam(config->user) : NULL;

    return entry ? entry->pw_uid : geteuid();
}

static bool address_make(const struct config *config, const char *name, struct sockaddr_un *at)
{
    *at = (struct sockaddr_un){.sun_family = AF_UNIX};
    return snprintf(at->sun_path, sizeof at->sun_path, "%s/%s", config->spool, name) <
           (int)sizeof at->sun_path;
}

/* What a server left that was killed: nobody listens there. */
static void remove_if_dead(const struct config *config, const char *name)
{
    struct sockaddr_un at;
    const int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (probe >= 0 && address_make(config, name, &at) &&
        connect(probe, (const struct sockaddr *)&at, sizeof at) != 0 && errno == ECONNREFUSED)
        unlink(at.sun_path);
    if (probe >= 0)
        close(probe);
}

static void remove_leftovers(const struct config *config)
{
    DIR *folder = opendir(config->spool);
    const struct dirent *entry = NULL;

    while (folder && (entry = readdir(folder)))
        if (strncmp(entry->d_name, SOCKET_PREFIX, strlen(SOCKET_PREFIX)) == 0)
            remove_if_dead(config, entry->d_name);
    if (folder)
        closedir(folder);
}

/* At the next name that is free: a former configuration's runner may still have the one before. */
static bool bind_somewhere(const struct config *config, struct runner_place *place)
{
    static unsigned number;
    struct sockaddr_un at;
    char name[32];

    for (unsigned tries = 0; tries < NAMES_TRIED; tries++) {
        snprintf(name, sizeof name, SOCKET_PREFIX "%u", number++);
        if (!address_make(config, name, &at)) {
            errno = ENAMETOOLONG;
            return false;
        }
        snprintf(place->path, sizeof place->path, "%s", at.sun_path);
        if (bind(place->listener, (const struct sockaddr *)&at, sizeof at) == 0)
            return true;
        if (errno != EADDRINUSE)
            break;
    }
    return false;
}

static bool listen_in_spool(const struct config *config, struct runner_place *place, char *why,
                            size_t why_room)
{
    const mode_t usual = umask(0177); /* so the socket is made with its mode */

    place->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const bool bound = place->listener >= 0 && bind_somewhere(config, place);
    umask(usual);
    /* The worker can write in the spool: a link that it put there meanwhile is not followed. */
    if (bound && (geteuid() != 0 || lchown(place->path, worker_user(config), (gid_t)-1) == 0) &&
        listen(place->listener, SOMAXCONN) == 0)
        return true;
    snprintf(why, why_room, "socket for pipes in %s: %s", config->spool, strerror(errno));
    return false;
}

bool runner_fork(const struct config *config, struct runner_place *place)
{
    place->started_us = clock_now_us();
    place->process = fork();
    if (place->process == 0) {
        guard_close_others(place->listener, place->life[0]);
        runner_serve(config, place->listener, place->life[0], worker_user(config));
    }
    if (place->process > 0)
        return true;
    place->process = 0;
    return false;
}

bool runner_start(const struct config *config, struct runner_place *place, char *why,
                  size_t why_room)
{
    *place = RUNNER_PLACE_NONE;
    remove_leftovers(config);
    if (config->pipe_count == 0)
        return true;
    if (!runner_check(config, why, why_room))
        return false;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, place->life) != 0)
        snprintf(why, why_room, "runner of commands: %s", strerror(errno));
    else if (listen_in_spool(config, place, why, why_room)) {
        if (runner_fork(config, place))
            return true;
        snprintf(why, why_room, "runner of commands: %s", strerror(errno));
        unlink(place->path);
    }
    runner_leave(place);
    return false;
}

void runner_leave(struct runner_place *place)
{
    if (place->listener >= 0)
        close(place->listener);
    for (unsigned i = 0; i < 2; i++)
        if (place->life[i] >= 0)
            close(place->life[i]);
    *place = RUNNER_PLACE_NONE;
}
