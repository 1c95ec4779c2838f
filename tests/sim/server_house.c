/*
 * The house in the simulated world: opened, renewed by a new configuration while its sessions run,
 * stopped and closed as `holdfast serve` does it. A configuration that is no good changes nothing.
 */
#include "server.h"

#include <string.h>

#include "app/serve.h"

enum { STOP_PATIENCE_S = 20 };

static struct server server;
static unsigned variant; /* of the configuration on the disk, as it were */

struct house *house_now(void)
{
    return &server.house;
}

void house_begin(void)
{
    variant = 0;
}

void serve_close_tls(struct house *house)
{
    tls_context_free(house->tls_in);
    tls_context_free(house->tls_out);
    house->tls_in = house->tls_out = NULL;
}

static void open_tls(struct house *house)
{
    if (!setting.tls)
        return;
    house->tls_in = tls_open(true);
    house->tls_out = tls_open(false);
}

/* Its runner is a peer. */
void runner_forget(const struct helpers *helpers)
{
    CHECK(helpers->runner[0] == 0, "no runner of its own");
}

static const struct spool_settings small = {
    .segment_bytes = 256 * KIB, .inline_body_bytes = 8 * KIB, .reserve_bytes = 64 * KIB};

/* What a crash left of the last life is gone with its memory. */
bool house_begin_life(void)
{
    server = (struct server){.config = setting_config(variant)};
    server.house =
        (struct house){.config = server.config, .runner = "/run/commands", .spool_sizes = small};
    open_tls(&server.house);
    return house_open(&server.house) && house_open_doors(&server.house);
}

/* As the worker does it; false: the old configuration runs on, and `next` is to be freed. */
static bool renew(struct former *next)
{
    next->house =
        (struct house){.config = next->config, .runner = "/run/commands", .spool_sizes = small};
    open_tls(&next->house);
    if (!house_renew(&server.house, &next->house)) {
        serve_close_tls(&next->house);
        return false;
    }
    struct config *config = next->config;
    next->config = server.config;
    server.config = config;
    CHECK(formers_add(&server, next), "memory");
    return true;
}

void house_reload(bool certain)
{
    const unsigned wanted = (unsigned)sim_below(VARIANT_COUNT);
    struct former *next = calloc(1, sizeof *next);

    CHECK(next != NULL, "memory");
    next->config = setting_config(wanted);
    const bool renewed = next->config && planted != PLANT_GOOD && renew(next);
    tale_add(0, -1, "a reload of variant %u: %s", wanted, renewed ? "done" : next->house.why);
    sim_note("reload", wanted * 2 + renewed);
    TELL(!renewed || wanted < VARIANT_BROKEN, TALE_ALL, "variant %u was taken", wanted);
    TELL(renewed || wanted >= VARIANT_BROKEN || !certain, TALE_ALL, "variant %u was not taken: %s",
         wanted, next->house.why);
    if (renewed) {
        variant = wanted;
        return;
    }
    config_free(next->config);
    free(next);
}

/* ------------------------------------------------------------------ the end */

/* Those of the world around the server; all others are the server's own. */
static void find_left(void *left, const char *name)
{
    static const char *const around[] = {"main", "client", "trouble", "peers", "peer"};

    for (size_t i = 0; i < COUNT_OF(around); i++)
        if (strcmp(name, around[i]) == 0)
            return;
    *(const char **)left = name;
}

static void check_nothing_left(void)
{
    const char *left = NULL;

    sim_fibers_each(find_left, &left);
    TELL(!left, TALE_ALL, "the fiber %s is left", left ? left : "");
    TELL(sim_disk_handles() == 0, TALE_ALL, "%u files are still open", sim_disk_handles());
}

/* What hangs in a stalled disk outlives the patience of a stop; then the process just ends. */
void house_end_life(void)
{
    const uint64_t deadline_us = deadline_in(STOP_PATIENCE_S * US_PER_S);

    formers_stop(&server, deadline_us);
    house_stop(&server.house, deadline_us);
    formers_close(&server);
    const bool closed = house_close(&server.house);
    if (!closed || (book.stalled && sim_disk_handles() > 0))
        sim_crash(SIM_KILL);
    check_nothing_left();
    serve_close_tls(&server.house);
    config_free(server.config);
}
