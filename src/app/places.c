/*
 * The sockets that clients come to. They belong to the parent, so they stay open while a worker is
 * replaced: who comes meanwhile stands in their queue.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "app/processes.h"
#include "runtime/runtime.h"

static bool is_same(const struct endpoint *a, const struct endpoint *b)
{
    if (a->family != b->family)
        return false;
    if (a->family == ENDPOINT_UNIX)
        return strcmp(a->path, b->path) == 0;
    return a->port == b->port && ip_equal(&a->ip, &b->ip);
}

const struct place_bound *places_find(const struct places *places, const struct endpoint *at)
{
    for (unsigned i = 0; i < places->count; i++)
        if (is_same(&places->rows[i].at, at))
            return &places->rows[i];
    return NULL;
}

/* The address as it is bound; or, where any free port was asked for, the row of that name. */
static const struct place_bound *find_kept(const struct places *had, const char *name,
                                           const struct endpoint *asked)
{
    for (unsigned i = 0; i < had->count; i++)
        if (is_same(&had->rows[i].asked, asked) &&
            (asked->family == ENDPOINT_UNIX || asked->port != 0 ||
             strcmp(had->rows[i].name, name) == 0))
            return &had->rows[i];
    return places_find(had, asked);
}

static unsigned sockets_of(const struct endpoint *at, unsigned loops, bool page)
{
    const long cores = sysconf(_SC_NPROCESSORS_ONLN);
    const unsigned wanted = loops > 0 ? loops : cores > 0 ? (unsigned)cores : 1;

    return at->family == ENDPOINT_UNIX || page ? 1 : MIN_OF(wanted, (unsigned)PLACE_SOCKETS_MOST);
}

static void place_close(struct place_bound *place)
{
    for (unsigned i = 0; i < place->count; i++)
        close(place->sockets[i]);
    if (place->at.family == ENDPOINT_UNIX && place->count > 0)
        unlink(place->at.path);
    place->count = 0;
}

/* Port 0 is chosen by the first socket; the others join it. */
static bool place_bind(struct place_bound *place, unsigned wanted, char *why, size_t why_room)
{
    char text[ENDPOINT_TEXT_MAX];
    struct endpoint at = place->asked;

    place->at = at;
    while (place->count < wanted) {
        const int made = listener_socket(&at, wanted > 1, &at);
        if (made < 0) {
            snprintf(why, why_room, "%s%s%s%s: %s", *place->name ? "listen " : "web", place->name,
                     *place->name ? " on " : " on ",
                     endpoint_print(&place->asked, text, sizeof text), strerror(errno));
            place_close(place);
            return false;
        }
        place->sockets[place->count++] = made;
        place->at = at;
    }
    return true;
}

static bool places_add(struct places *places, const struct places *had, struct endpoint *address,
                       const struct place_bound *wanted, char *why, size_t why_room)
{
    struct place_bound *row = &places->rows[places->count++];
    const struct place_bound *kept = find_kept(had, wanted->name, address);

    *row = *wanted;
    row->asked = *address;
    row->count = 0;
    if (kept) {
        row->at = kept->at;
        row->count = kept->count;
        memcpy(row->sockets, kept->sockets, sizeof row->sockets);
    } else if (!place_bind(row, wanted->count, why, why_room)) {
        return false;
    }
    *address = row->at;
    return true;
}

bool places_open(const struct places *had, struct config *config, struct places *places, char *why,
                 size_t why_room)
{
    bool fine = true;

    *places = (struct places){.rows = calloc(config->listen_count + 1u, sizeof *places->rows)};
    if (!places->rows) {
        snprintf(why, why_room, "no memory");
        return false;
    }
    for (unsigned i = 0; fine && i < config->listen_count; i++) {
        struct config_listen *listen = &config->listens[i];
        struct place_bound wanted = {.count = sockets_of(&listen->address, config->loops, false)};
        snprintf(wanted.name, sizeof wanted.name, "%s", listen->name);
        fine = places_add(places, had, &listen->address, &wanted, why, why_room);
    }
    if (fine && config->web.family != ENDPOINT_NONE)
        fine =
            places_add(places, had, &config->web, &(struct place_bound){.count = 1}, why, why_room);
    if (!fine)
        places_drop(places, had);
    return fine;
}

void places_drop(struct places *places, const struct places *other)
{
    for (unsigned i = 0; i < places->count; i++)
        if (!places_find(other, &places->rows[i].at))
            place_close(&places->rows[i]);
    free(places->rows);
    *places = (struct places){0};
}
