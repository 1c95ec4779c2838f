/*
 * The command line's end of the control socket. Plain blocking sockets: a command has no loop.
 */
#include "console/console_private.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

enum { ASK_PATIENCE_S = 30, LONG_PATIENCE_S = 6 * 3600 };

static void close_descriptor(const int *descriptor)
{
    if (*descriptor >= 0)
        close(*descriptor);
}

static int ask_connect(const char *directory, time_t patience_s)
{
    struct endpoint at;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const struct timeval patience = {.tv_sec = patience_s};
    _Static_assert(sizeof address.sun_path >= sizeof at.path, "a control path fits");

    if (!console_control_endpoint(directory, &at)) {
        errno = ENAMETOOLONG;
        return -1;
    }
    memcpy(address.sun_path, at.path, sizeof at.path);
    const int descriptor = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (descriptor < 0)
        return -1;
    setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(descriptor, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    if (connect(descriptor, (const struct sockaddr *)&address, sizeof address) == 0)
        return descriptor;
    const int error = errno;
    close(descriptor);
    errno = error;
    return -1;
}

static bool ask_send(int descriptor, struct bytes request)
{
    while (request.count > 0) {
        const ssize_t sent = send(descriptor, request.at, request.count, MSG_NOSIGNAL);
        if (sent <= 0)
            return false;
        request = bytes_skip(request, (size_t)sent);
    }
    return send(descriptor, "\n", 1, MSG_NOSIGNAL) == 1;
}

static bool ask_receive(int descriptor, struct buffer *answer)
{
    for (;;) {
        uint8_t *memory = buffer_reserve(answer, 4096);
        const ssize_t got = memory ? recv(descriptor, memory, 4096, 0) : -1;
        if (got < 0)
            return false;
        if (got == 0)
            return answer->count > 0;
        buffer_claim(answer, (size_t)got);
    }
}

/* Hands over the whole lines of what came; false when the caller has enough. */
static bool follow_lines(struct buffer *pending, console_line *each, void *argument)
{
    for (;;) {
        const struct bytes view = buffer_view(pending);
        const size_t end = bytes_find_byte(view, '\n');
        if (end == view.count)
            return true;
        const bool more = each(argument, bytes_slice(view, 0, end));
        buffer_drop_front(pending, end + 1);
        if (!more)
            return false;
    }
}

bool console_follow(const char *spool_directory, struct bytes request, console_line *each,
                    void *argument, char *why, size_t why_room)
{
    CLEANUP(close_descriptor) const int descriptor = ask_connect(spool_directory, ASK_PATIENCE_S);
    CLEANUP(buffer_free) struct buffer pending = BUFFER_WITH_LIMIT(MIB);
    const struct timeval forever = {0};

    if (descriptor < 0 || !ask_send(descriptor, request)) {
        snprintf(why, why_room, "%s/control: %s: is the server running?", spool_directory,
                 strerror(errno));
        return false;
    }
    setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &forever, sizeof forever);
    for (;;) {
        uint8_t *memory = buffer_reserve(&pending, 4096);
        const ssize_t got = memory ? recv(descriptor, memory, 4096, 0) : -1;
        if (got <= 0)
            return true;
        buffer_claim(&pending, (size_t)got);
        if (!follow_lines(&pending, each, argument))
            return true;
    }
}

static bool ask(int descriptor, const char *spool_directory, struct bytes request,
                struct buffer *answer, char *why, size_t why_room)
{
    if (descriptor < 0) {
        snprintf(why, why_room, "%s/control: %s: is the server running?", spool_directory,
                 strerror(errno));
        return false;
    }
    *answer = BUFFER_WITH_LIMIT(CONSOLE_ANSWER_MAX);
    if (ask_send(descriptor, request) && ask_receive(descriptor, answer))
        return true;
    snprintf(why, why_room, "%s/control: the server gave no answer", spool_directory);
    buffer_free(answer);
    return false;
}

bool console_ask(const char *spool_directory, struct bytes request, struct buffer *answer,
                 char *why, size_t why_room)
{
    CLEANUP(close_descriptor) const int descriptor = ask_connect(spool_directory, ASK_PATIENCE_S);

    return ask(descriptor, spool_directory, request, answer, why, why_room);
}

bool console_ask_patiently(const char *spool_directory, struct bytes request, struct buffer *answer,
                           char *why, size_t why_room)
{
    CLEANUP(close_descriptor) const int descriptor = ask_connect(spool_directory, LONG_PATIENCE_S);

    return ask(descriptor, spool_directory, request, answer, why, why_room);
}
