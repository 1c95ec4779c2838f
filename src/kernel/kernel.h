/*
 * kernel: the I/O interface of runtime.h over the real machine.
 *
 * Flow:   a loop is a thread: run the ready fibers, wait in epoll, turn events into readiness and
 *         wakes, expire deadlines. Sockets are registered once, edge-triggered, and stay armed; so
 * a message costs about one read and one write, and no epoll_ctl. libuv serves each loop with its
 * worker pool and signals: its backend descriptor is one more event of the loop's epoll. (libuv's
 * own poll handles are level-triggered and each change costs two epoll_ctl.) Owns:   threads, epoll
 * and event descriptors, sockets until closed. Sleeps: as runtime.h says. Fails:  by io_result.
 * Never:  lets a descriptor be used by another loop than the one that opened it.
 */
#ifndef KERNEL_KERNEL_H
#define KERNEL_KERNEL_H

#include <pthread.h>
#include <sys/socket.h>
#include <uv.h>

#include "runtime/world.h"

enum loop_order { LOOP_RUN = 0, LOOP_CANCEL, LOOP_END };

struct kernel_loop {
    struct loop base;
    struct scheduler scheduler;
    struct kernel_loop *next;
    int epoll, wake;
    int sleeping; /* atomic: in epoll_wait, so that a wake needs the event descriptor */
    int order;    /* atomic: enum loop_order */
    bool cancelled;
    bool dirty; /* fibers ran since their stacks were last trimmed */
    uint64_t trim_at_us;
    unsigned streak; /* transfers since a fiber of this loop last slept */
    uv_loop_t uv;
    uv_async_t keep; /* without a handle libuv would not look at its pool */
    pthread_t thread;
};

struct kernel_loop *kernel_loop_self(void);  /* NULL outside of fibers */
void loop_tend_uv(struct kernel_loop *loop); /* after a change of libuv's handles */

/* A chatty peer must not keep the loop from the others: yields after a run of transfers. */
void loop_share(void);

enum direction { FOR_READ = 0, FOR_WRITE = 1 };
/* Zero is the safe value: try, and see. YES only by an event; NO only by an attempt. */
enum readiness { READY_MAYBE = 0, READY_NO, READY_YES };

struct poller {
    int descriptor;
    struct kernel_loop *loop;
    bool wants_write; /* EPOLLOUT is armed, from the first write that had to wait */
    bool hung_up;     /* the end is near: a short read does not mean "empty" */
    enum readiness ready[2];
    struct fiber *waiting[2];
};

/* Registers; returns 0 or an errno. Close takes the descriptor along. */
int poller_open(struct poller *poller, int descriptor, bool for_write);
void poller_close(struct poller *poller);
void poller_forget(struct poller *poller); /* before poller_close, where others hold the socket */
void poller_event(struct poller *poller, unsigned events);
/* Sleeps while `ready` of that direction is NO. */
enum io_status poller_wait(struct poller *poller, enum direction direction, uint64_t deadline_us);

/* Socket addresses. */
struct address_buffer {
    union {
        struct sockaddr any;
        struct sockaddr_storage storage;
    };
    socklen_t length;
};
MUST_USE bool address_of(const struct endpoint *endpoint, struct address_buffer *address);
struct endpoint endpoint_of(const struct address_buffer *address);
struct endpoint endpoint_of_local(int descriptor);

/* Takes the descriptor over, also when it fails. */
struct io_result stream_wrap(int descriptor, bool for_write, struct stream **stream);

/* Wakes whoever waits for signals; forgets them when the world ends. */
void process_signals_end(struct kernel_loop *loop);

#endif
