/*
 * Packets with descriptors between parent and worker. Both ends run the same binary, so a packet is
 * the struct itself; what comes from the worker is checked as input from outside.
 */
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "app/processes.h"

union control {
    struct cmsghdr head;
    char room[CMSG_SPACE(sizeof(int) * CHANNEL_DESCRIPTORS_MOST)];
};

static bool send_with(int socket, struct iovec part, const int *descriptors, unsigned count)
{
    union control control;
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    ssize_t sent = 0;

    if (count > 0) {
        memset(&control, 0, sizeof control);
        message.msg_control = &control;
        message.msg_controllen = CMSG_SPACE(sizeof(int) * count);
        control.head.cmsg_level = SOL_SOCKET;
        control.head.cmsg_type = SCM_RIGHTS;
        control.head.cmsg_len = CMSG_LEN(sizeof(int) * count);
        memcpy(CMSG_DATA(&control.head), descriptors, sizeof(int) * count);
    }
    do
        sent = sendmsg(socket, &message, MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    return sent == (ssize_t)part.iov_len;
}

/* Octets received, 0 at the end or on failure; *count descriptors, at most `most`. */
static size_t receive_with(int socket, struct iovec part, int *descriptors, unsigned most,
                           unsigned *count)
{
    union control control;
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof control};
    ssize_t got = 0;

    *count = 0;
    do
        got = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
    while (got < 0 && errno == EINTR);
    if (got <= 0)
        return 0;
    for (struct cmsghdr *head = CMSG_FIRSTHDR(&message); head; head = CMSG_NXTHDR(&message, head)) {
        if (head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_RIGHTS)
            continue;
        const unsigned here = (unsigned)((head->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        for (unsigned i = 0; i < here; i++) {
            int one = -1;
            memcpy(&one, CMSG_DATA(head) + i * sizeof one, sizeof one);
            if (*count < most)
                descriptors[(*count)++] = one;
            else
                close(one);
        }
    }
    return (size_t)got;
}

bool channel_send(int channel, const struct channel_packet *packet)
{
    const struct iovec part = {(void *)(uintptr_t)packet,
                               offsetof(struct channel_packet, descriptor_count)};

    return send_with(channel, part, packet->descriptors, packet->descriptor_count);
}

bool channel_receive(int channel, struct channel_packet *packet)
{
    const size_t size = offsetof(struct channel_packet, descriptor_count);

    memset(packet, 0, sizeof *packet);
    const size_t got = receive_with(channel, (struct iovec){packet, size}, packet->descriptors,
                                    CHANNEL_DESCRIPTORS_MOST, &packet->descriptor_count);
    packet->text[sizeof packet->text - 1] = 0;
    packet->runner[sizeof packet->runner - 1] = 0;
    return got == size;
}

struct helpers channel_helpers(const struct channel_packet *packet)
{
    struct helpers helpers = {.keeper = -1, .runner_life = -1};
    unsigned next = 1;

    if (packet->has_keeper && next < packet->descriptor_count)
        helpers.keeper = packet->descriptors[next++];
    if (packet->runner[0] && next < packet->descriptor_count)
        helpers.runner_life = packet->descriptors[next];
    snprintf(helpers.runner, sizeof helpers.runner, "%s", packet->runner);
    return helpers;
}

/* ------------------------------------------------------------------ files */

enum { PATH_ROOM = 1024 };

int broker_ask(const char *path)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    const size_t length = strlen(path);
    int descriptor = -1, error = EACCES;
    unsigned count = 0;

    if (length >= PATH_ROOM) {
        errno = ENAMETOOLONG;
        return -1;
    }
    pthread_mutex_lock(&lock);
    const struct iovec question = {(void *)(uintptr_t)path, length};
    if (!send_with(WORKER_BROKER, question, NULL, 0) ||
        receive_with(WORKER_BROKER, (struct iovec){&error, sizeof error}, &descriptor, 1, &count) !=
            sizeof error)
        error = EACCES;
    pthread_mutex_unlock(&lock);
    errno = error;
    return count == 1 ? descriptor : -1;
}

bool broker_receive(int broker, char *path, size_t room)
{
    unsigned count = 0;
    const size_t got = receive_with(broker, (struct iovec){path, room - 1}, NULL, 0, &count);

    path[got] = 0;
    return got > 0;
}

bool broker_answer(int broker, int descriptor, int error)
{
    return send_with(broker, (struct iovec){&error, sizeof error}, &descriptor, descriptor >= 0);
}
