/*
 * Reloading, the parent's part: everything that can fail is done before the worker hears of it, and
 * nothing old is given up before the worker has answered. Where the new configuration needs what
 * the running worker is locked away from, a new worker tries it, and the old configuration comes
 * back if that one does not get as far as serving.
 */
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "app/parent.h"
#include "guard/guard.h"
#include "observe/observe.h"

enum { WHY_ROOM = 1024 };

static void refuse(struct parent *parent, const char *why)
{
    struct channel_packet packet = {.kind = CHANNEL_SAID};

    observe_note(LOG_ERROR, "parent", "not reloaded, the old configuration runs on: %s", why);
    snprintf(packet.text, sizeof packet.text, "%s", why);
    if (parent->channel >= 0 && !channel_send(parent->channel, &packet))
        observe_note(LOG_WARNING, "parent", "the worker does not listen");
    if (parent->ready)
        notify_tell(parent->manager, NOTIFY_READY);
}

/* The worker's copies of sockets that `places` has and `other` has not. */
static void send_drops(const struct parent *parent, const struct places *places,
                       const struct places *other)
{
    for (unsigned i = 0; parent->channel >= 0 && i < places->count; i++) {
        const struct channel_packet packet = {.kind = CHANNEL_DROP, .at = places->rows[i].at};
        if (!places_find(other, &packet.at) && !channel_send(parent->channel, &packet))
            return;
    }
}

void parent_abandon(struct parent *parent, const char *why)
{
    if (!parent->next_config)
        return;
    send_drops(parent, &parent->next_places, &parent->places);
    places_drop(&parent->next_places, &parent->places);
    if (parent->next_keeper.service >= 0)
        close(parent->next_keeper.service); /* it ends by itself */
    parent->next_keeper = (struct keeper){.service = -1};
    if (parent->next_runner.listener >= 0)
        unlink(parent->next_runner.path);
    runner_leave(&parent->next_runner);
    config_free(parent->next_config);
    parent->next_config = NULL;
    parent->trial = false;
    refuse(parent, why);
}

void parent_retire_runner(struct parent *parent)
{
    struct former_runner *former = calloc(1, sizeof *former);

    if (parent->runner.process <= 0 || !former) {
        if (parent->runner.listener >= 0)
            unlink(parent->runner.path); /* nobody is there, or nobody would remove it later */
        free(former);
    } else {
        former->process = parent->runner.process;
        snprintf(former->path, sizeof former->path, "%s", parent->runner.path);
        former->next = parent->former_runners;
        parent->former_runners = former;
    }
    runner_leave(&parent->runner);
}

void parent_forget_runner(struct parent *parent, pid_t process)
{
    for (struct former_runner **at = &parent->former_runners; *at;) {
        struct former_runner *former = *at;
        if (process != 0 && former->process != process) {
            at = &former->next;
            continue;
        }
        unlink(former->path);
        *at = former->next;
        free(former);
    }
}

void parent_commit(struct parent *parent)
{
    if (!parent->next_config)
        return;
    send_drops(parent, &parent->places, &parent->next_places);
    places_drop(&parent->places, &parent->next_places);
    if (parent->keeper.service >= 0)
        close(parent->keeper.service); /* it ends with the last session that uses it */
    parent_retire_runner(parent);
    config_free(parent->config);
    parent->config = parent->next_config;
    parent->places = parent->next_places;
    parent->keeper = parent->next_keeper;
    parent->runner = parent->next_runner;
    parent->next_runner = RUNNER_PLACE_NONE;
    parent->next_config = NULL;
    parent->next_places = (struct places){0};
    parent->next_keeper = (struct keeper){.service = -1};
    parent->trial = false;
    notify_tell(parent->manager, NOTIFY_READY);
}

/* What a running process cannot change. */
static const char *fixed_setting(const struct config *now, const struct config *next)
{
    if (strcmp(now->spool, next->spool) != 0)
        return "spool";
    if (strcmp(now->user, next->user) != 0)
        return "user";
    if (now->loops != next->loops)
        return "loops";
    return NULL;
}

/* What the worker reads once, when it starts: a new one is needed, or NULL. */
static const char *read_once(const struct parent *parent, const struct config *next, char *what,
                             size_t room)
{
    const struct config *now = parent->config;
    struct guard_plan *had = guard_plan_of(now), *wanted = guard_plan_of(next);
    const char *found = NULL;
    const bool same_web =
        now->web.family == next->web.family && now->web.port == next->web.port &&
        (now->web.family == ENDPOINT_NONE || ip_equal(&now->web.ip, &next->web.ip));

    if (!had || !wanted || !guard_plan_covers(had, wanted, what, room))
        found = what;
    else if (strcmp(now->history, next->history) != 0)
        found = "history";
    else if (!same_web)
        found = "web: address";
    else if (strcmp(now->operator_command, next->operator_command) != 0 ||
             now->operator_set_user_id != next->operator_set_user_id)
        found = "operator: command"; /* its helper was made before the locks */
    else if (now->limits.memory != next->limits.memory)
        found = "limits: memory";
    else if (now->ledger_overdue_us != next->ledger_overdue_us ||
             memcmp(&now->incidents, &next->incidents, sizeof now->incidents) != 0 ||
             now->transcripts_us != next->transcripts_us ||
             now->transcripts_bytes != next->transcripts_bytes)
        found = "ledger, incidents, transcripts";
    free(had);
    free(wanted);
    return found;
}

/* Each line of complaint goes to the journal; the first is the answer. */
static void refuse_errors(struct parent *parent, struct config_errors *errors)
{
    struct bytes rest = buffer_view(&errors->text), line;
    char first[WHY_ROOM] = "";

    while (rest.count > 0) {
        rest = bytes_cut(rest, '\n', &line);
        if (*first)
            observe_note(LOG_ERROR, "parent", "%.*s", BYTES_PRINT(line));
        else
            snprintf(first, sizeof first, "%.*s", BYTES_PRINT(line));
    }
    refuse(parent, first);
}

static void try_with_new_worker(struct parent *parent, const char *what)
{
    observe_note(LOG_WARNING, "parent",
                 "the running worker cannot change \"%s\": a new one takes its place; sessions are "
                 "asked to come back",
                 what);
    parent->trial = parent->replacing = true;
    parent_end_worker(parent);
}

/* All that can fail outside of the worker. */
static bool prepare(struct parent *parent, struct config *next, char *why, size_t why_room)
{
    const char *fixed = fixed_setting(parent->config, next);

    if (fixed) {
        snprintf(why, why_room, "%s: \"%s\" cannot change without a restart", next->file, fixed);
        return false;
    }
    files_name_resolvers(next);
    if (!files_prepare(next, why, why_room) ||
        !places_open(&parent->places, next, &parent->next_places, why, why_room))
        return false;
    if (keeper_start(next, &parent->next_keeper, why, why_room)) {
        if (runner_start(next, &parent->next_runner, why, why_room))
            return true;
        if (parent->next_keeper.service >= 0)
            close(parent->next_keeper.service);
        parent->next_keeper = (struct keeper){.service = -1};
    }
    places_drop(&parent->next_places, &parent->places);
    return false;
}

bool parent_may_reload(const struct parent *parent)
{
    return parent->ready && !parent->next_config && !parent->replacing && !parent->stopping;
}

void parent_reload(struct parent *parent)
{
    struct config_errors errors = {0};
    char why[WHY_ROOM] = "", what[WHY_ROOM] = "";

    if (!parent_may_reload(parent)) {
        refuse(parent, "the server is starting, stopping or reloading");
        return;
    }
    notify_tell(parent->manager, NOTIFY_RELOADING);
    struct config *next = app_config_read(parent->config_file, &errors);
    if (!next)
        refuse_errors(parent, &errors);
    config_errors_free(&errors);
    if (!next)
        return;
    if (!prepare(parent, next, why, sizeof why)) {
        config_free(next);
        refuse(parent, why);
        return;
    }
    parent->next_config = next;
    const char *once = read_once(parent, next, what, sizeof what);
    if (once)
        try_with_new_worker(parent, once);
    else if (!parent_send_places(parent, &parent->next_places, &parent->places) ||
             !parent_send_config(parent, CHANNEL_RELOAD, true))
        parent_abandon(parent, "the worker does not listen");
}

void parent_heard(struct parent *parent, const struct channel_packet *packet)
{
    if (packet->kind == CHANNEL_ASK)
        parent_reload(parent);
    else if (packet->kind == CHANNEL_RELOADED && !parent->trial)
        parent_commit(parent);
    else if (packet->kind == CHANNEL_REFUSED && !parent->trial)
        parent_abandon(parent, packet->text);
}
