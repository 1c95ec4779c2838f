/*
 * What the service manager hears: the datagrams of sd_notify(3), without its library. The parent
 * alone speaks; the variable is taken out of the environment, so that nobody else can.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "app/processes.h"
#include "observe/observe.h"

int notify_open(void)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    const char *place = getenv("NOTIFY_SOCKET");

    if (!place)
        return -1;
    const size_t count = strlen(place);
    const bool usable = (*place == '/' || *place == '@') && count > 1 && count < sizeof at.sun_path;
    if (usable)
        memcpy(at.sun_path, place, count);
    if (*at.sun_path == '@')
        at.sun_path[0] = '\0'; /* a name without a file */
    unsetenv("NOTIFY_SOCKET");
    const int manager = usable ? socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0) : -1;
    if (manager >= 0 && connect(manager, (const struct sockaddr *)&at,
                                (socklen_t)(offsetof(struct sockaddr_un, sun_path) + count)) == 0)
        return manager;
    observe_note(LOG_WARNING, "parent", "NOTIFY_SOCKET leads to nobody: %s",
                 usable ? strerror(errno) : "not an address");
    if (manager >= 0)
        close(manager);
    return -1;
}

void notify_tell(int manager, enum notify_state state)
{
    char text[128];

    if (manager < 0)
        return;
    switch (state) {
    case NOTIFY_READY:
        snprintf(text, sizeof text, "READY=1\nSTATUS=Serving\n");
        break;
    case NOTIFY_RELOADING:
        snprintf(text, sizeof text, "RELOADING=1\nMONOTONIC_USEC=%llu\nSTATUS=Reloading\n",
                 (unsigned long long)clock_now_us());
        break;
    case NOTIFY_RESTARTING:
        snprintf(text, sizeof text, "STATUS=Starting a new worker\n");
        break;
    case NOTIFY_STOPPING:
        snprintf(text, sizeof text, "STOPPING=1\nSTATUS=Ending sessions\n");
        break;
    }
    /* A manager that does not read may miss it; mail does not wait for that. */
    if (send(manager, text, strlen(text), MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
        observe_note(LOG_WARNING, "parent", "the service manager was not told: %s",
                     strerror(errno));
}
