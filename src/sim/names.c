/*
 * Directories: names as readers see them, and the names that are durable. What was done to names
 * waits in one list, in order, until the directory is synced; a power cut keeps a drawn part of it,
 * sometimes a beginning (as a journal does), sometimes any part in which nothing misses what it
 * stands on. A rename is one thing: it survives whole or not at all.
 */
#include "sim/inside.h"

#include <errno.h>
#include <string.h>

/* Sets a name to an inode, or takes it away (inode NULL), in one directory. */
struct name_change {
    struct inode *directory;
    char name[256];
    struct inode *inode;
};
struct name_deed {
    struct name_change changes[2];
    unsigned count;
    bool chosen;
};

static struct {
    struct inode *root, *all;
    uint64_t numbers;
    struct name_deed *waiting;
    size_t count, room;
    uint64_t made_since_collect;
    bool usage_known; /* counted anew only after a change: it is asked for every second */
    uint64_t used_bytes, used_inodes;
} disk;

void names_usage_changed(void)
{
    disk.usage_known = false;
}

/* ------------------------------------------------------------------ inodes and entries */

static struct inode *inode_new(bool is_directory)
{
    struct inode *inode = sim_new(sizeof *inode);

    inode->number = ++disk.numbers;
    inode->is_directory = is_directory;
    inode->modified_wall_us = clock_wall_us();
    inode->next = disk.all;
    disk.all = inode;
    names_usage_changed();
    disk.made_since_collect++;
    return inode;
}

static void entries_clear(struct entries *entries)
{
    for (size_t i = 0; i < entries->count; i++)
        free(entries->at[i].name);
    free(entries->at);
    *entries = (struct entries){0};
}

static void inode_free(struct inode *inode)
{
    pages_free(inode);
    entries_clear(&inode->names);
    entries_clear(&inode->durable);
    free(inode);
}

struct entry *entries_find(const struct entries *entries, const char *name)
{
    for (size_t i = 0; i < entries->count; i++)
        if (strcmp(entries->at[i].name, name) == 0)
            return &entries->at[i];
    return NULL;
}

static void entries_set(struct entries *entries, const char *name, struct inode *inode)
{
    struct entry *entry = entries_find(entries, name);

    names_usage_changed();
    if (entry) {
        entry->inode = inode;
        return;
    }
    if (entries->count == entries->room) {
        entries->room = entries->room ? 2 * entries->room : 8;
        entries->at = sim_grow(entries->at, entries->room, sizeof *entries->at);
    }
    entries->at[entries->count] = (struct entry){strdup(name), inode};
    INVARIANT(entries->at[entries->count].name != NULL);
    entries->count++;
}

static void entries_unset(struct entries *entries, const char *name)
{
    struct entry *entry = entries_find(entries, name);

    names_usage_changed();
    if (!entry)
        return;
    free(entry->name);
    const size_t after = entries->count - 1 - (size_t)(entry - entries->at);
    memmove(entry, entry + 1, after * sizeof *entry);
    entries->count--;
}

static void entries_copy(struct entries *to, const struct entries *from)
{
    entries_clear(to);
    for (size_t i = 0; i < from->count; i++)
        entries_set(to, from->at[i].name, from->at[i].inode);
}

struct inode *names_root(void)
{
    if (!disk.root) {
        disk.root = inode_new(true);
        disk.root->parent = disk.root;
    }
    return disk.root;
}

struct inode *names_all(void)
{
    return disk.all;
}

/* ------------------------------------------------------------------ paths */

static int find_step(struct place *place, struct bytes component)
{
    if (!place->inode)
        return ENOENT;
    if (!place->inode->is_directory)
        return ENOTDIR;
    if (component.count >= sizeof place->name)
        return ENAMETOOLONG;
    if (bytes_equal_text(component, "..")) {
        place->inode = place->directory = place->inode->parent;
        place->name[0] = '\0';
        return 0;
    }
    place->directory = place->inode;
    memcpy(place->name, component.at, component.count);
    place->name[component.count] = '\0';
    const struct entry *entry = entries_find(&place->directory->names, place->name);
    place->inode = entry ? entry->inode : NULL;
    return 0;
}

int names_find(const char *path, struct place *place)
{
    struct bytes rest = bytes_of_text(path);
    int error = rest.count == 0 ? ENOENT : rest.count > PATH_MAX_BYTES ? ENAMETOOLONG : 0;

    *place = (struct place){.directory = names_root(), .inode = names_root()};
    while (error == 0 && rest.count > 0) {
        struct bytes component;

        rest = bytes_cut(rest, '/', &component);
        if (component.count > 0 && !bytes_equal_text(component, "."))
            error = find_step(place, component);
    }
    return error;
}

/* ------------------------------------------------------------------ deeds */

static void change_apply(const struct name_change *change, bool durable)
{
    struct entries *entries = durable ? &change->directory->durable : &change->directory->names;

    if (change->inode)
        entries_set(entries, change->name, change->inode);
    else
        entries_unset(entries, change->name);
}

static void change_fill(struct name_change *change, const struct place *place, struct inode *inode)
{
    change->directory = place->directory;
    memcpy(change->name, place->name, sizeof change->name);
    change->inode = inode;
}

static void deed_do(const struct name_deed *deed)
{
    for (unsigned i = 0; i < deed->count; i++) {
        change_apply(&deed->changes[i], false);
        deed->changes[i].directory->modified_wall_us = clock_wall_us();
    }
    if (disk.count == disk.room) {
        disk.room = disk.room ? 2 * disk.room : 32;
        disk.waiting = sim_grow(disk.waiting, disk.room, sizeof *disk.waiting);
    }
    disk.waiting[disk.count++] = *deed;
}

int names_create(const struct place *place, bool is_directory, struct inode **inode)
{
    struct name_deed deed = {.count = 1};

    if (disk.made_since_collect > 1000)
        names_collect();
    *inode = inode_new(is_directory);
    (*inode)->parent = place->directory;
    change_fill(&deed.changes[0], place, *inode);
    deed_do(&deed);
    return 0;
}

int names_link(const struct place *from, const struct place *to)
{
    struct name_deed deed = {.count = 1};

    if (from->inode->is_directory)
        return EPERM;
    if (to->inode)
        return EEXIST;
    change_fill(&deed.changes[0], to, from->inode);
    deed_do(&deed);
    return 0;
}

int names_rename(const struct place *from, const struct place *to)
{
    struct name_deed deed = {.count = 2};

    if (to->inode == from->inode)
        return 0;
    if (to->inode && to->inode->is_directory != from->inode->is_directory)
        return to->inode->is_directory ? EISDIR : ENOTDIR;
    if (to->inode && to->inode->is_directory && to->inode->names.count > 0)
        return ENOTEMPTY;
    change_fill(&deed.changes[0], from, NULL);
    change_fill(&deed.changes[1], to, from->inode);
    if (from->inode->is_directory)
        from->inode->parent = to->directory;
    deed_do(&deed);
    return 0;
}

int names_remove(const struct place *place)
{
    struct name_deed deed = {.count = 1};

    if (place->inode == names_root())
        return EBUSY;
    if (place->inode->is_directory && place->inode->names.count > 0)
        return ENOTEMPTY;
    change_fill(&deed.changes[0], place, NULL);
    deed_do(&deed);
    return 0;
}

/* ------------------------------------------------------------------ durability of names */

static bool deeds_share_name(const struct name_deed *a, const struct name_deed *b)
{
    for (unsigned i = 0; i < a->count; i++)
        for (unsigned j = 0; j < b->count; j++)
            if (a->changes[i].directory == b->changes[j].directory &&
                strcmp(a->changes[i].name, b->changes[j].name) == 0)
                return true;
    return false;
}

static bool deed_touches(const struct name_deed *deed, const struct inode *directory)
{
    for (unsigned i = 0; i < deed->count; i++)
        if (deed->changes[i].directory == directory)
            return true;
    return false;
}

/* A chosen deed takes along the earlier ones of the same names. */
static void choose_what_they_stand_on(void)
{
    for (size_t i = disk.count; i-- > 0;)
        for (size_t j = 0; j < i && disk.waiting[i].chosen; j++)
            if (deeds_share_name(&disk.waiting[i], &disk.waiting[j]))
                disk.waiting[j].chosen = true;
}

/* The chosen ones become durable, in order; the others go on waiting. */
static void apply_chosen(void)
{
    size_t kept = 0;

    choose_what_they_stand_on();
    for (size_t i = 0; i < disk.count; i++) {
        const struct name_deed *deed = &disk.waiting[i];

        for (unsigned c = 0; deed->chosen && c < deed->count; c++)
            change_apply(&deed->changes[c], true);
        if (!deed->chosen)
            disk.waiting[kept++] = *deed;
    }
    disk.count = kept;
}

void names_sync(struct inode *directory)
{
    for (size_t i = 0; i < disk.count; i++)
        disk.waiting[i].chosen = deed_touches(&disk.waiting[i], directory);
    apply_chosen();
}

/* Part of it is durable all the same. The rest waits on: unlike pages, what a journal could not
 * write is not forgotten (file systems go read-only instead), so a later sync that succeeds covers
 * it. */
void names_sync_failed(struct inode *directory)
{
    for (size_t i = 0; i < disk.count; i++)
        disk.waiting[i].chosen = deed_touches(&disk.waiting[i], directory) && sim_chance(500000);
    apply_chosen();
}

void names_power_cut(void)
{
    const bool as_journal = sim_chance(500000);
    const size_t beginning = (size_t)sim_below(disk.count + 1);

    for (size_t i = 0; i < disk.count; i++)
        disk.waiting[i].chosen = as_journal ? i < beginning : sim_chance(500000);
    apply_chosen();
    disk.count = 0;
    for (struct inode *inode = disk.all; inode; inode = inode->next)
        if (inode->is_directory)
            entries_copy(&inode->names, &inode->durable);
}

void names_settle(void)
{
    for (size_t i = 0; i < disk.count; i++)
        disk.waiting[i].chosen = true;
    apply_chosen();
}

/* ------------------------------------------------------------------ what is still reachable */

static void reach(struct inode *inode)
{
    if (inode->reachable)
        return;
    inode->reachable = true;
    for (size_t i = 0; i < inode->names.count; i++)
        reach(inode->names.at[i].inode);
}

static void reach_current(void)
{
    for (struct inode *inode = disk.all; inode; inode = inode->next)
        inode->reachable = false;
    reach(names_root());
    for (struct inode *inode = disk.all; inode; inode = inode->next)
        if (inode->handles > 0)
            reach(inode);
}

static void reach_durable(struct inode *inode)
{
    inode->reachable = true;
    for (size_t i = 0; i < inode->durable.count; i++)
        if (!inode->durable.at[i].inode->reachable)
            reach_durable(inode->durable.at[i].inode);
}

static void reach_all(void)
{
    reach_current();
    for (struct inode *inode = disk.all; inode; inode = inode->next)
        if (inode->reachable)
            reach_durable(inode);
    for (size_t i = 0; i < disk.count; i++)
        for (unsigned c = 0; c < disk.waiting[i].count; c++) {
            reach_durable(disk.waiting[i].changes[c].directory);
            if (disk.waiting[i].changes[c].inode)
                reach_durable(disk.waiting[i].changes[c].inode);
        }
}

void names_collect(void)
{
    struct inode **link = &disk.all;

    reach_all();
    disk.made_since_collect = 0;
    while (*link) {
        struct inode *inode = *link;

        if (inode->reachable || sync_running(inode)) {
            link = &inode->next;
        } else {
            *link = inode->next;
            inode_free(inode);
        }
    }
}

static void usage_count(void)
{
    if (disk.usage_known)
        return;
    disk.usage_known = true;
    disk.used_bytes = disk.used_inodes = 0;
    reach_current();
    for (const struct inode *inode = disk.all; inode; inode = inode->next)
        if (inode->reachable) {
            disk.used_bytes += pages_allocated(inode);
            disk.used_inodes++;
        }
}

uint64_t names_used_bytes(void)
{
    usage_count();
    return disk.used_bytes;
}

uint64_t names_used_inodes(void)
{
    usage_count();
    return disk.used_inodes;
}

void names_forget(void)
{
    while (disk.all) {
        struct inode *next = disk.all->next;

        inode_free(disk.all);
        disk.all = next;
    }
    free(disk.waiting);
    memset(&disk, 0, sizeof disk);
}
