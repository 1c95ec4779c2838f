/*
 * Houses of former configurations. Each lives until its last session and its last delivery have
 * ended, a moment longer for whoever still reads its settings, and never ends before an older one:
 * a delivery that began under an old configuration may look into a newer one.
 *
 * Everything here runs on the main loop.
 */
#include "app/serve.h"
#include "observe/observe.h"

#define LOOK_EVERY_US (1 * US_PER_S)
#define LINGER_US (30 * US_PER_S)

struct watch {
    struct server *server;
    struct former *former;
};

static void former_free(struct former *former)
{
    house_leave(&former->house);
    serve_close_tls(&former->house);
    runner_forget(&former->helpers);
    config_free(former->config);
    free(former);
}

static bool former_has_left(const struct server *server, const struct former *former)
{
    return server->formers == former && house_has_left(&server->house, &former->house);
}

static void former_main(void *argument)
{
    struct watch *watch = argument;
    struct server *server = watch->server;
    struct former *former = watch->former;

    free(watch);
    while (!server->ending && !former_has_left(server, former))
        fiber_sleep_until(deadline_in(LOOK_EVERY_US));
    const uint64_t linger_us = deadline_in(LINGER_US);
    while (!server->ending && clock_now_us() < linger_us)
        fiber_sleep_until(deadline_in(LOOK_EVERY_US));
    if (!server->ending) {
        server->formers = former->next;
        former_free(former);
        observe_note(LOG_INFO, "worker", "the last session of a former configuration has ended");
    }
    server->former_fibers--;
}

bool formers_add(struct server *server, struct former *former)
{
    struct watch *watch = calloc(1, sizeof *watch);
    struct former **last = &server->formers;

    former->next = NULL;
    while (*last)
        last = &(*last)->next;
    *last = former; /* without a fiber it stays to the end of the process */
    if (!watch)
        return false;
    *watch = (struct watch){.server = server, .former = former};
    if (!fiber_start("former", former_main, watch)) {
        free(watch);
        return false;
    }
    server->former_fibers++;
    return true;
}

uint32_t formers_sessions(const struct server *server)
{
    uint32_t count = 0;

    for (const struct former *former = server->formers; former; former = former->next)
        count += receive_session_count(former->house.receive);
    return count;
}

void formers_stop(struct server *server, uint64_t deadline_us)
{
    server->ending = true;
    for (struct former *former = server->formers; former; former = former->next)
        receive_stop(former->house.receive, deadline_us);
    while (server->former_fibers > 0)
        fiber_sleep_until(deadline_in(10 * US_PER_MS));
}

void formers_close(struct server *server)
{
    while (server->formers) {
        struct former *former = server->formers;

        server->formers = former->next;
        former_free(former);
    }
}
