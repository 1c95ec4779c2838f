/*
 * The queue as rows, or grouped by destination, cause or age.
 */
#include "diagnose/diagnose_private.h"

struct queue_account {
    enum diagnose_grouping grouping;
    json_t *rows;   /* array of rows, or of groups */
    json_t *groups; /* name -> group, borrowed from rows */
    int64_t now_wall_us;
};

static const struct {
    int64_t below_s;
    const char *name;
} AGES[] = {{900, "under 15 min"},  {3600, "15 min to 1 h"},   {4 * 3600, "1 h to 4 h"},
            {86400, "4 h to 24 h"}, {5 * 86400, "1 d to 5 d"}, {INT64_MAX, "over 5 d"}};

static const char *age_name(int64_t age_s)
{
    size_t i = 0;

    while (age_s >= AGES[i].below_s)
        i++;
    return AGES[i].name;
}

static void group_name(const struct queue_account *account, const struct spool_row *row,
                       struct buffer *name)
{
    switch (account->grouping) {
    case DIAGNOSE_BY_DESTINATION:
        buffer_add(name, row->domain);
        break;
    case DIAGNOSE_BY_CAUSE:
        buffer_add_text(name, row->attempts == 0 ? "not tried yet" : cause_name(row->cause));
        break;
    case DIAGNOSE_BY_AGE:
        buffer_add_text(name, age_name((account->now_wall_us - row->accepted_wall_us) / 1000000));
        break;
    case DIAGNOSE_BY_NONE:
        break;
    }
    buffer_add_byte(name, 0);
}

static json_t *group_of(struct queue_account *account, const char *name)
{
    json_t *group = json_object_get(account->groups, name);

    if (group)
        return group;
    group = json_pack("{s:s, s:i, s:i, s:n, s:I}", "name", name, "recipients", 0, "bytes", 0,
                      "oldest", "oldest_us", (json_int_t)0);
    json_object_set_new(account->groups, name, group);
    return group;
}

static bool queue_add(void *argument, const struct spool_row *row)
{
    struct queue_account *account = argument;
    CLEANUP(buffer_free) struct buffer name = BUFFER_WITH_LIMIT(1024);

    if (row->state != RECIPIENT_WAITING)
        return true;
    if (account->grouping == DIAGNOSE_BY_NONE) {
        json_array_append_new(account->rows, diagnose_queue_row(row));
        return true;
    }
    group_name(account, row, &name);
    json_t *group = name.failed ? NULL : group_of(account, (const char *)name.at);
    const int64_t oldest = diagnose_number(group, "oldest_us");
    json_object_set_new(group, "recipients",
                        json_integer(diagnose_number(group, "recipients") + 1));
    json_object_set_new(
        group, "bytes",
        json_integer(diagnose_number(group, "bytes") + (json_int_t)row->size_bytes));
    if (oldest == 0 || row->accepted_wall_us < oldest) {
        json_object_set_new(group, "oldest_us", json_integer(row->accepted_wall_us));
        json_object_set_new(group, "oldest", diagnose_time(row->accepted_wall_us));
    }
    return true;
}

static void queue_collect_groups(struct queue_account *account)
{
    const char *name;
    json_t *group;

    json_object_foreach(account->groups, name, group)
    {
        json_object_del(group, "oldest_us");
        json_array_append(account->rows, group);
    }
}

bool diagnose_queue(const struct diagnose_place *place, const struct spool_view_filter *filter,
                    enum diagnose_grouping grouping, json_t **rows, char *why)
{
    struct queue_account account = {.grouping = grouping,
                                    .rows = json_array(),
                                    .groups = json_object(),
                                    .now_wall_us = place->now_wall_us};

    *rows = NULL;
    const bool read =
        spool_view(place->spool_directory, filter, queue_add, &account, why, DIAGNOSE_WHY_ROOM);
    if (read) {
        queue_collect_groups(&account);
        *rows = json_incref(account.rows);
    }
    json_decref(account.groups);
    json_decref(account.rows);
    return read;
}

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
    if (diagnose_number(row, "attempts") == 0)
        return;
    buffer_print(into, "               %lld attempt(s), next %s, %s (%s): ",
                 (long long)diagnose_number(row, "attempts"),
                 diagnose_moment(row, "next", next, sizeof next), diagnose_word(row, "cause"),
                 diagnose_word(row, "side"));
    diagnose_add_safe(into, diagnose_word(row, "reply"), "               ");
    buffer_add_text(into, "\n");
}

void diagnose_print_queue(struct buffer *into, const json_t *rows, enum diagnose_grouping grouping)
{
    char oldest[40];

    for (size_t i = 0; i < json_array_size(rows); i++) {
        const json_t *row = json_array_get(rows, i);
        if (grouping == DIAGNOSE_BY_NONE) {
            print_queue_row(into, row);
            continue;
        }
        buffer_print(into, "%8lld  oldest %s  ", (long long)diagnose_number(row, "recipients"),
                     diagnose_moment(row, "oldest", oldest, sizeof oldest));
        diagnose_add_safe(into, diagnose_word(row, "name"), "");
        buffer_add_text(into, "\n");
    }
    if (json_array_size(rows) == 0)
        buffer_add_text(into, "The queue is empty.\n");
}
