/*
 * The queue as rows, or grouped by destination, cause or age. Groups are counted in memory of their
 * own and become JSON at the end, so that a queue of a million is a matter of seconds.
 */
#include "diagnose/diagnose_private.h"

#include <string.h>

enum {
    GROUPS_FIRST = 256,
    GROUPS_MOST = 200000, /* destinations told apart; further ones count as OTHERS */
    COLUMNS_MOST = 1000,  /* destinations of the table by age in JSON... */
    LINES_MOST = 20,      /* ...and as text */
};
#define OTHERS "others"

static const struct {
    int64_t below_s;
    const char *name;
} AGES[] = {{900, "under 15 min"},  {3600, "15 min to 1 h"},   {4 * 3600, "1 h to 4 h"},
            {86400, "4 h to 24 h"}, {5 * 86400, "1 d to 5 d"}, {INT64_MAX, "over 5 d"}};

struct group {
    struct group *next; /* in its bucket */
    const char *name;
    uint64_t recipients, bytes, ages[COUNT_OF(AGES)];
    int64_t oldest_wall_us;
};

struct queue_account {
    enum diagnose_grouping grouping;
    json_t *rows; /* without a grouping */
    struct arena arena;
    struct group **buckets;
    size_t bucket_count, group_count;
    struct group by_age[COUNT_OF(AGES)];
    int64_t now_wall_us;
    bool failed;
};

static size_t age_of(const struct queue_account *account, const struct spool_row *row)
{
    const int64_t age_s = (account->now_wall_us - row->accepted_wall_us) / 1000000;
    size_t i = 0;

    while (age_s >= AGES[i].below_s)
        i++;
    return i;
}

/* ------------------------------------------------------------------ counting */

static struct bytes group_name(const struct queue_account *account, const struct spool_row *row)
{
    const bool untried = row->attempts == 0 && row->cause == CAUSE_UNDECIDED;

    if (account->grouping != DIAGNOSE_BY_CAUSE)
        return row->domain;
    return bytes_of_text(untried ? "not tried yet" : cause_name(row->cause));
}

static struct group **bucket_of(const struct queue_account *account, struct bytes name)
{
    return &account->buckets[bytes_hash_nocase(name) % account->bucket_count];
}

/* Failing to grow only makes chains longer. */
static void groups_grow(struct queue_account *account)
{
    struct queue_account larger = *account;

    larger.bucket_count *= 4;
    larger.buckets = calloc(larger.bucket_count, sizeof(struct group *));
    if (!larger.buckets)
        return;
    for (size_t i = 0; i < account->bucket_count; i++)
        while (account->buckets[i]) {
            struct group *group = account->buckets[i];
            struct group **bucket = bucket_of(&larger, bytes_of_text(group->name));
            account->buckets[i] = group->next;
            group->next = *bucket;
            *bucket = group;
        }
    free(account->buckets);
    account->buckets = larger.buckets;
    account->bucket_count = larger.bucket_count;
}

static struct group *group_find(const struct queue_account *account, struct bytes name)
{
    struct group *group = *bucket_of(account, name);

    while (group && !bytes_equal_text_nocase(name, group->name))
        group = group->next;
    return group;
}

static struct group *group_of(struct queue_account *account, struct bytes name)
{
    struct group *group = group_find(account, name);

    if (!group && account->group_count >= GROUPS_MOST) {
        name = BYTES_LITERAL(OTHERS);
        group = group_find(account, name);
    }
    if (group)
        return group;
    if (account->group_count > account->bucket_count * 2)
        groups_grow(account);
    group = ARENA_NEW(&account->arena, struct group);
    const char *text = arena_text(&account->arena, name);
    if (!group || !text)
        return NULL;
    struct group **bucket = bucket_of(account, name);
    *group = (struct group){.next = *bucket, .name = text};
    *bucket = group;
    account->group_count++;
    return group;
}

static void group_count(struct group *group, const struct spool_row *row, size_t age)
{
    group->recipients++;
    group->bytes += row->size_bytes;
    group->ages[age]++;
    if (group->oldest_wall_us == 0 || row->accepted_wall_us < group->oldest_wall_us)
        group->oldest_wall_us = row->accepted_wall_us;
}

static bool queue_add(void *argument, const struct spool_row *row)
{
    struct queue_account *account = argument;

    if (row->state != RECIPIENT_WAITING)
        return true;
    if (account->grouping == DIAGNOSE_BY_NONE) {
        json_array_append_new(account->rows, diagnose_queue_row(row));
        return true;
    }
    const size_t age = age_of(account, row);
    struct group *group = group_of(account, group_name(account, row));
    account->failed = !group;
    if (!group)
        return false;
    group_count(group, row, age);
    group_count(&account->by_age[age], row, age);
    return true;
}

/* ------------------------------------------------------------------ as JSON */

static int larger_first(const void *a, const void *b)
{
    const struct group *const *one = a, *const *other = b;

    if ((*one)->recipients != (*other)->recipients)
        return (*one)->recipients < (*other)->recipients ? 1 : -1;
    return strcmp((*one)->name, (*other)->name);
}

/* All groups, the largest first; the array is the arena's. */
static struct group **groups_sorted(struct queue_account *account)
{
    struct group **sorted =
        ARENA_NEW_ARRAY(&account->arena, account->group_count + 1, struct group *);
    size_t count = 0;

    for (size_t i = 0; sorted && i < account->bucket_count; i++)
        for (struct group *group = account->buckets[i]; group; group = group->next)
            sorted[count++] = group;
    if (sorted)
        qsort(sorted, count, sizeof(*sorted), larger_first);
    return sorted;
}

static json_t *group_json(const struct group *group)
{
    return json_pack("{s:s, s:I, s:I, s:o}", "name", group->name, "recipients",
                     (json_int_t)group->recipients, "bytes", (json_int_t)group->bytes, "oldest",
                     diagnose_time(group->oldest_wall_us));
}

/* Per age, the destinations in the order of all: a column of the table. */
static json_t *column_json(const struct queue_account *account, struct group *const *sorted,
                           size_t age)
{
    json_t *column = json_array();

    for (size_t i = 0; i < account->group_count && i < COLUMNS_MOST; i++)
        if (sorted[i]->ages[age] > 0)
            json_array_append_new(column,
                                  json_pack("{s:s, s:I}", "name", sorted[i]->name, "recipients",
                                            (json_int_t)sorted[i]->ages[age]));
    return column;
}

static void queue_collect_groups(struct queue_account *account)
{
    struct group **sorted = groups_sorted(account);

    account->failed = account->failed || !sorted;
    if (!sorted)
        return;
    if (account->grouping != DIAGNOSE_BY_AGE) {
        for (size_t i = 0; i < account->group_count; i++)
            json_array_append_new(account->rows, group_json(sorted[i]));
        return;
    }
    for (size_t age = 0; age < COUNT_OF(AGES); age++) {
        account->by_age[age].name = AGES[age].name;
        if (account->by_age[age].recipients == 0)
            continue;
        json_t *row = group_json(&account->by_age[age]);
        json_object_set_new(row, "destinations", column_json(account, sorted, age));
        json_array_append_new(account->rows, row);
    }
}

bool diagnose_queue(const struct diagnose_place *place, const struct spool_view_filter *filter,
                    enum diagnose_grouping grouping, json_t **rows, char *why)
{
    struct queue_account account = {.grouping = grouping,
                                    .rows = json_array(),
                                    .arena = ARENA_WITH_LIMIT(256 * MIB),
                                    .buckets = calloc(GROUPS_FIRST, sizeof(struct group *)),
                                    .bucket_count = GROUPS_FIRST,
                                    .now_wall_us = place->now_wall_us};
    struct spool_view_filter asked = *filter;

    *rows = NULL;
    asked.brief = grouping != DIAGNOSE_BY_NONE;
    snprintf(why, DIAGNOSE_WHY_ROOM, "out of memory");
    bool read = account.buckets && spool_view(place->spool_directory, &asked, queue_add, &account,
                                              why, DIAGNOSE_WHY_ROOM);
    if (read && grouping != DIAGNOSE_BY_NONE)
        queue_collect_groups(&account);
    read = read && !account.failed;
    if (read)
        *rows = json_incref(account.rows);
    json_decref(account.rows);
    arena_clear(&account.arena);
    free(account.buckets);
    return read;
}

/* ------------------------------------------------------------------ as text */

static void print_queue_row(struct buffer *into, const json_t *row)
{
    char accepted[40], next[40];

    buffer_print(into, "%s  %-8s %s  %8lld  ", diagnose_word(row, "message"),
                 diagnose_word(row, "state"),
                 diagnose_moment(row, "accepted", accepted, sizeof accepted),
                 (long long)diagnose_number(row, "size"));
    diagnose_add_safe(into, *diagnose_word(row, "from") ? diagnose_word(row, "from") : "<>", "");
    buffer_add_text(into, " -> ");
    diagnose_add_safe(into, diagnose_word(row, "to"), "");
    buffer_add_text(into, "\n");
    if (!*diagnose_word(row, "cause"))
        return;
    buffer_print(into, "               %lld attempt(s), next %s, %s (%s): ",
                 (long long)diagnose_number(row, "attempts"),
                 diagnose_moment(row, "next", next, sizeof next), diagnose_word(row, "cause"),
                 diagnose_word(row, "side"));
    diagnose_add_safe(into, diagnose_word(row, "reply"), "               ");
    buffer_add_text(into, "\n");
}

static long long cell_of(const json_t *age, const char *name)
{
    const json_t *column = json_object_get(age, "destinations");

    for (size_t i = 0; i < json_array_size(column); i++)
        if (strcmp(diagnose_word(json_array_get(column, i), "name"), name) == 0)
            return (long long)diagnose_number(json_array_get(column, i), "recipients");
    return 0;
}

static const json_t *age_row(const json_t *rows, size_t age)
{
    for (size_t i = 0; i < json_array_size(rows); i++)
        if (strcmp(diagnose_word(json_array_get(rows, i), "name"), AGES[age].name) == 0)
            return json_array_get(rows, i);
    return NULL;
}

struct line {
    const char *name;
    long long total;
};

static int longer_first(const void *a, const void *b)
{
    const struct line *one = a, *other = b;

    return one->total == other->total ? strcmp(one->name, other->name)
                                      : (one->total < other->total) - (one->total > other->total);
}

/* The destinations of all columns, each once, the largest first. */
static size_t lines_of(const json_t *rows, struct line *lines, size_t room)
{
    size_t count = 0;

    for (size_t r = 0; r < json_array_size(rows); r++) {
        const json_t *column = json_object_get(json_array_get(rows, r), "destinations");
        for (size_t i = 0; i < json_array_size(column); i++) {
            const char *name = diagnose_word(json_array_get(column, i), "name");
            size_t at = 0;
            while (at < count && strcmp(lines[at].name, name) != 0)
                at++;
            if (at == room)
                continue;
            count += at == count;
            lines[at].name = name;
            lines[at].total += diagnose_number(json_array_get(column, i), "recipients");
        }
    }
    qsort(lines, count, sizeof(*lines), longer_first);
    return count;
}

static void print_age_line(struct buffer *into, const char *name, long long total,
                           const long long *cells)
{
    CLEANUP(buffer_free) struct buffer safe = BUFFER_WITH_LIMIT(4 * KIB);

    diagnose_add_safe(&safe, name, "");
    buffer_print(into, "%32.*s %9lld", BYTES_PRINT(buffer_view(&safe)), total);
    for (size_t age = 0; age < COUNT_OF(AGES); age++)
        buffer_print(into, " %14lld", cells[age]);
    buffer_add_text(into, "\n");
}

/* Ages from left to right, destinations from above: what grows old where. */
static void print_by_age(struct buffer *into, const json_t *rows)
{
    struct line lines[COLUMNS_MOST] = {{0}};
    const size_t count = lines_of(rows, lines, COLUMNS_MOST);
    long long rest[COUNT_OF(AGES)] = {0}, all[COUNT_OF(AGES)] = {0}, total = 0, others = 0;

    buffer_print(into, "%32s %9s", "", "all");
    for (size_t age = 0; age < COUNT_OF(AGES); age++) {
        buffer_print(into, " %14s", AGES[age].name);
        all[age] = rest[age] = (long long)diagnose_number(age_row(rows, age), "recipients");
        total += all[age];
    }
    buffer_add_text(into, "\n");
    print_age_line(into, "TOTAL", total, all);
    others = total;
    for (size_t i = 0; i < count && i < LINES_MOST; i++) {
        long long cells[COUNT_OF(AGES)];
        for (size_t age = 0; age < COUNT_OF(AGES); age++) {
            cells[age] = cell_of(age_row(rows, age), lines[i].name);
            rest[age] -= cells[age];
        }
        print_age_line(into, lines[i].name, lines[i].total, cells);
        others -= lines[i].total;
    }
    if (others > 0)
        print_age_line(into, OTHERS, others, rest);
}

static void print_group(struct buffer *into, const json_t *row)
{
    char oldest[40];

    buffer_print(into, "%8lld  oldest %s  ", (long long)diagnose_number(row, "recipients"),
                 diagnose_moment(row, "oldest", oldest, sizeof oldest));
    diagnose_add_safe(into, diagnose_word(row, "name"), "");
    buffer_add_text(into, "\n");
}

void diagnose_print_queue(struct buffer *into, const json_t *rows, enum diagnose_grouping grouping)
{
    if (json_array_size(rows) == 0)
        buffer_add_text(into, "The queue is empty.\n");
    else if (grouping == DIAGNOSE_BY_AGE)
        print_by_age(into, rows);
    for (size_t i = 0; i < json_array_size(rows) && grouping != DIAGNOSE_BY_AGE; i++) {
        if (grouping == DIAGNOSE_BY_NONE)
            print_queue_row(into, json_array_get(rows, i));
        else
            print_group(into, json_array_get(rows, i));
    }
}
