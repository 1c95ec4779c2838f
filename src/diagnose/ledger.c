/*
 * What we deferred: the ledger's rows, and their account by cause.
 */
#include "diagnose/diagnose_private.h"

static const char *ledger_state_word(enum ledger_state state)
{
    switch (state) {
    case LEDGER_STILL_OUT:
        return "still out";
    case LEDGER_CAME_BACK:
        return "came back";
    case LEDGER_REFUSED_LATER:
        return "refused later";
    case LEDGER_OVERDUE:
        return "overdue";
    }
    return "still out";
}

json_t *diagnose_ledger_row(const struct ledger_row *row)
{
    char session[ID_TEXT_MAX], message[ID_TEXT_MAX];
    enum cause cause = CAUSE_UNDECIDED;
    const bool known = cause_parse(row->cause, &cause);
    json_t *object = json_pack(
        "{s:o, s:o, s:o, s:o, s:s, s:o, s:o, s:o, s:i, s:s, s:s}", "client_network",
        diagnose_text(row->client_network), "from", diagnose_text(row->from), "to",
        diagnose_text(row->to), "cause", diagnose_text(row->cause), "side",
        known ? side_name(cause_row(cause)->side) : "", "first", diagnose_time(row->first_wall_us),
        "last", diagnose_time(row->last_wall_us), "ended", diagnose_time(row->ended_wall_us),
        "attempts", (int)row->attempts, "state", ledger_state_word(row->state), "session",
        id_print(row->session, session, sizeof session));

    if (row->dependency.count > 0)
        json_object_set_new(object, "dependency", diagnose_text(row->dependency));
    if (row->message != 0)
        json_object_set_new(object, "message",
                            json_string(id_print(row->message, message, sizeof message)));
    return object;
}

/* ------------------------------------------------------------------ the account */

enum { CLIENTS_MAX = 5000, CLIENTS_SHOWN = 20, ROWS_SHOWN = 50 };

struct ledger_account {
    json_t *by_cause, *rows;
    json_t *dependencies; /* name -> group */
    json_t *clients;      /* network -> group */
    int64_t oldest_wall_us;
    json_int_t deferred, states[LEDGER_OVERDUE + 1];
};

static void count_up(json_t *object, const char *member)
{
    json_object_set_new(object, member, json_integer(diagnose_number(object, member) + 1));
}

static json_t *group_at(json_t *groups, struct bytes name)
{
    char key[320];

    snprintf(key, sizeof key, "%.*s", (int)MIN_OF(name.count, sizeof key - 1),
             name.count ? (const char *)name.at : "");
    json_t *group = json_object_get(groups, key);
    if (group || json_object_size(groups) >= CLIENTS_MAX)
        return group;
    group = json_pack("{s:o, s:i, s:i, s:i, s:i, s:{}}", "name", diagnose_text(name), "deferred", 0,
                      "came_back", 0, "refused_later", 0, "still_out", 0, "causes");
    json_object_set_new(groups, key, group);
    return group;
}

static bool is_out(const struct ledger_row *row)
{
    return row->state == LEDGER_STILL_OUT || row->state == LEDGER_OVERDUE;
}

static void group_count(json_t *group, const struct ledger_row *row)
{
    char cause[64];

    if (!group)
        return;
    snprintf(cause, sizeof cause, "%.*s", (int)MIN_OF(row->cause.count, sizeof cause - 1),
             row->cause.count ? (const char *)row->cause.at : "");
    count_up(group, "deferred");
    count_up(json_object_get(group, "causes"), cause);
    count_up(group, is_out(row)                          ? "still_out"
                    : row->state == LEDGER_REFUSED_LATER ? "refused_later"
                                                         : "came_back");
}

/* Rules (greylisting, rates) have no dependency: they stand under their cause's first word. */
static struct bytes dependency_of(const struct ledger_row *row)
{
    if (row->dependency.count > 0)
        return row->dependency;
    return bytes_slice(row->cause, 0, bytes_find_byte(row->cause, '.'));
}

static bool account_add(void *argument, const struct ledger_row *row)
{
    struct ledger_account *account = argument;
    char cause[64];

    snprintf(cause, sizeof cause, "%.*s", (int)MIN_OF(row->cause.count, sizeof cause - 1),
             row->cause.count ? (const char *)row->cause.at : "");
    count_up(account->by_cause, cause);
    account->deferred++;
    account->states[row->state]++;
    group_count(group_at(account->dependencies, dependency_of(row)), row);
    group_count(group_at(account->clients, row->client_network), row);
    if (is_out(row)) {
        if (account->oldest_wall_us == 0 || row->first_wall_us < account->oldest_wall_us)
            account->oldest_wall_us = row->first_wall_us;
        if (json_array_size(account->rows) < DIAGNOSE_EVENTS_MAX)
            json_array_append_new(account->rows, diagnose_ledger_row(row));
    }
    return true;
}

static int compare_groups(const void *a, const void *b)
{
    const json_t *const *first = a, *const *second = b;
    const int64_t out =
        diagnose_number(*second, "still_out") - diagnose_number(*first, "still_out");
    const int64_t all = diagnose_number(*second, "deferred") - diagnose_number(*first, "deferred");

    return out ? (out > 0) - (out < 0) : (all > 0) - (all < 0);
}

/* The groups as a list, those with the most still out first. */
static json_t *groups_list(json_t *groups, size_t most)
{
    const size_t count = json_object_size(groups);
    json_t **order = calloc(count + 1, sizeof(json_t *)), *list = json_array(), *group;
    const char *name;
    size_t filled = 0;

    json_object_foreach(groups, name, group)
    {
        if (order && filled < count)
            order[filled++] = group;
    }
    if (filled > 1)
        qsort(order, filled, sizeof(json_t *), compare_groups);
    for (size_t i = 0; i < filled && i < most; i++)
        json_array_append(list, order[i]);
    free(order);
    json_decref(groups);
    return list;
}

static void account_close(struct ledger_account *account)
{
    json_decref(account->by_cause);
    json_decref(account->rows);
    json_decref(account->dependencies);
    json_decref(account->clients);
}

/* What is open now on the receiving side, with its meaning and what to run. */
static json_t *incidents_in(const struct diagnose_place *place)
{
    const struct incident_query query = {.choice = INCIDENTS_OPEN};
    json_t *all = NULL, *list = json_array();
    char why[DIAGNOSE_WHY_ROOM];

    if (!diagnose_incidents(place, query, &all, why, sizeof why))
        return list;
    for (size_t i = 0; i < json_array_size(all); i++)
        if (*diagnose_word(json_array_get(all, i), "direction") == 'i')
            json_array_append(list, json_array_get(all, i));
    json_decref(all);
    return list;
}

bool diagnose_ledger(const struct diagnose_place *place, int64_t since_wall_us, json_t **summary,
                     char *why, size_t why_room)
{
    struct ledger_account account = {.by_cause = json_object(),
                                     .rows = json_array(),
                                     .dependencies = json_object(),
                                     .clients = json_object()};

    *summary = NULL;
    if (!ledger_view(place->history_directory, since_wall_us, account_add, &account, why,
                     why_room)) {
        account_close(&account);
        return false;
    }
    *summary = json_pack(
        "{s:I, s:I, s:I, s:I, s:I, s:o, s:I, s:o, s:o}", "deferred", account.deferred, "came_back",
        account.states[LEDGER_CAME_BACK], "refused_later", account.states[LEDGER_REFUSED_LATER],
        "still_out", account.states[LEDGER_STILL_OUT], "overdue", account.states[LEDGER_OVERDUE],
        "oldest_out", diagnose_time(account.oldest_wall_us), "oldest_out_s",
        (json_int_t)(account.oldest_wall_us
                         ? (place->now_wall_us - account.oldest_wall_us) / 1000000
                         : 0),
        "by_cause", account.by_cause, "out", account.rows);
    json_object_set_new(*summary, "by_dependency", groups_list(account.dependencies, CLIENTS_MAX));
    json_object_set_new(*summary, "clients", groups_list(account.clients, CLIENTS_SHOWN));
    json_object_set_new(*summary, "incidents", incidents_in(place));
    return *summary != NULL;
}

/* ------------------------------------------------------------------ text */

static void print_group(struct buffer *into, const json_t *group)
{
    const char *name, *separator = ": ";
    json_t *count;

    buffer_add_text(into, "  ");
    diagnose_add_safe(into, *diagnose_word(group, "name") ? diagnose_word(group, "name") : "-", "");
    buffer_print(into, ": %lld deferred, %lld came back, %lld refused later, %lld still out",
                 (long long)diagnose_number(group, "deferred"),
                 (long long)diagnose_number(group, "came_back"),
                 (long long)diagnose_number(group, "refused_later"),
                 (long long)diagnose_number(group, "still_out"));
    json_object_foreach(json_object_get(group, "causes"), name, count)
    {
        buffer_print(into, "%s%lld %s", separator, (long long)json_integer_value(count), name);
        separator = ", ";
    }
    buffer_add_text(into, "\n");
}

static void print_out(struct buffer *into, const json_t *rows)
{
    char moment[40];

    for (size_t i = 0; i < json_array_size(rows) && i < ROWS_SHOWN; i++) {
        const json_t *row = json_array_get(rows, i);
        buffer_print(
            into, "  out since %s  %s  from=", diagnose_moment(row, "first", moment, sizeof moment),
            diagnose_word(row, "cause"));
        diagnose_add_safe(into, diagnose_word(row, "from"), "");
        buffer_add_text(into, " to=");
        diagnose_add_safe(into, diagnose_word(row, "to"), "");
        buffer_print(into, " network=%s attempts=%lld session=%s\n",
                     diagnose_word(row, "client_network"),
                     (long long)diagnose_number(row, "attempts"), diagnose_word(row, "session"));
    }
    if (json_array_size(rows) > ROWS_SHOWN)
        buffer_print(into, "  and %zu more (all of them with --json)\n",
                     json_array_size(rows) - ROWS_SHOWN);
}

static void print_groups(struct buffer *into, const char *head, const json_t *groups)
{
    if (json_array_size(groups) > 0)
        buffer_print(into, "%s\n", head);
    for (size_t i = 0; i < json_array_size(groups); i++)
        print_group(into, json_array_get(groups, i));
}

void diagnose_print_ledger(struct buffer *into, const json_t *summary)
{
    char age[64];
    const json_t *rows = json_object_get(summary, "out"),
                 *incidents = json_object_get(summary, "incidents");
    const char *name;
    json_t *count;

    buffer_print(
        into, "%lld deferred, %lld came back, %lld refused later, %lld still out",
        (long long)diagnose_number(summary, "deferred"),
        (long long)diagnose_number(summary, "came_back"),
        (long long)diagnose_number(summary, "refused_later"),
        (long long)(diagnose_number(summary, "still_out") + diagnose_number(summary, "overdue")));
    if (json_array_size(rows) > 0)
        buffer_print(into, ", the oldest %s",
                     duration_print((uint64_t)diagnose_number(summary, "oldest_out_s") * US_PER_S,
                                    age, sizeof age));
    buffer_add_text(into, "\n");
    json_object_foreach(json_object_get(summary, "by_cause"), name, count)
        buffer_print(into, "  %6lld  %s\n", (long long)json_integer_value(count), name);
    print_groups(into, "By dependency:", json_object_get(summary, "by_dependency"));
    print_groups(into, "By client network:", json_object_get(summary, "clients"));
    if (json_array_size(rows) > 0)
        buffer_add_text(into, "Still out:\n");
    print_out(into, rows);
    if (json_array_size(incidents) > 0)
        buffer_add_text(into, "What is wrong now:\n");
    for (size_t i = 0; i < json_array_size(incidents); i++)
        diagnose_print_incident(into, json_array_get(incidents, i));
}
