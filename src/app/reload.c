/*
 * Reloading, the parent's part: everything that can fail is done before the worker hears of it, and
 * the worker answers before anything old is given up.
 */
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
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
}

void parent_abandon(struct parent *parent, const char *why)
{
    if (!parent->next_config)
        return;
    places_drop(&parent->next_places, &parent->places);
    if (parent->next_keeper.service >= 0)
        close(parent->next_keeper.service); /* it ends by itself */
    parent->next_keeper = (struct keeper){.service = -1};
    config_free(parent->next_config);
    parent->next_config = NULL;
    refuse(parent, why);
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
    if (now->web.family != next->web.family || now->web.port != next->web.port)
        return "web: address";
    if (now->ledger_overdue_us != next->ledger_overdue_us)
        return "ledger: overdue_after";
    return NULL;
}

void parent_reload(struct parent *parent)
{
    (void)parent;
    (void)fixed_setting;
    refuse(parent, "this version reloads nothing");
}

void parent_heard(struct parent *parent, const struct channel_packet *packet)
{
    (void)parent;
    (void)packet;
}
