/*
 * Packets with descriptors between parent and worker. Both ends run the same binary, so a packet is
 * the struct itself; what comes from the worker is checked as input from outside.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "app/processes.h"
#include "runtime/runtime.h"

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

bool channel_pair(int ends[2])
{
    const struct timeval patience = {.tv_sec = CHANNEL_PATIENCE_S};

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
        return false;
    for (unsigned i = 0; i < 2; i++) {
        if (setsockopt(ends[i], SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience) == 0)
            continue;
        close(ends[0]);
        close(ends[1]);
        return false;
    }
    return true;
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

struct broker_reply {
    uint32_t number;
    int error;
};

/* Until the answer to this question; those to questions that were given up are closed. */
static bool answer_take(uint32_t number, struct broker_reply *reply, int *descriptor)
{
    const uint64_t until_us = clock_now_us() + CHANNEL_PATIENCE_S * US_PER_S;
    struct pollfd ready = {.fd = WORKER_BROKER, .events = POLLIN};

    for (uint64_t now = clock_now_us(); now < until_us; now = clock_now_us()) {
        unsigned count = 0;
        *descriptor = -1;
        if (poll(&ready, 1, (int)((until_us - now) / US_PER_MS) + 1) <= 0)
            continue;
        if (receive_with(WORKER_BROKER, (struct iovec){reply, sizeof *reply}, descriptor, 1,
                         &count) != sizeof *reply) {
            reply->error = EACCES;
            return false;
        }
        if (reply->number == number)
            return true;
        if (count == 1)
            close(*descriptor);
    }
    reply->error = ETIMEDOUT;
    return false;
}

int broker_ask(const char *path)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static uint32_t asked; /* under the lock */
    const size_t length = strlen(path);
    struct broker_question question = {0};
    struct broker_reply reply = {.error = EACCES};
    int descriptor = -1;

    if (length >= sizeof question.path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    memcpy(question.path, path, length);
    pthread_mutex_lock(&lock);
    question.number = ++asked;
    const struct iovec part = {&question, offsetof(struct broker_question, path) + length};
    const bool answered = send_with(WORKER_BROKER, part, NULL, 0) &&
                          answer_take(question.number, &reply, &descriptor);
    pthread_mutex_unlock(&lock);
    errno = reply.error;
    return answered ? descriptor : -1;
}

bool broker_receive(int broker, struct broker_question *question)
{
    const size_t head = offsetof(struct broker_question, path);
    unsigned count = 0;

    memset(question, 0, sizeof *question);
    return receive_with(broker, (struct iovec){question, sizeof *question - 1}, NULL, 0, &count) >=
           head;
}

bool broker_answer(int broker, uint32_t number, int descriptor, int error)
{
    struct broker_reply reply = {.number = number, .error = error};

    return send_with(broker, (struct iovec){&reply, sizeof reply}, &descriptor, descriptor >= 0);
}
