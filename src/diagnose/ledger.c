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

    if (row->message != 0)
        json_object_set_new(object, "message",
                            json_string(id_print(row->message, message, sizeof message)));
    return object;
}

struct ledger_account {
    json_t *by_cause, *rows;
    int64_t oldest_wall_us;
    json_int_t deferred, states[LEDGER_OVERDUE + 1];
};

static bool account_add(void *argument, const struct ledger_row *row)
{
    struct ledger_account *account = argument;
    CLEANUP(buffer_free) struct buffer name = BUFFER_WITH_LIMIT(256);

    buffer_add(&name, row->cause);
    buffer_add_byte(&name, 0);
    if (name.failed)
        return true;
    const json_t *count = json_object_get(account->by_cause, (const char *)name.at);
    json_object_set_new(account->by_cause, (const char *)name.at,
                        json_integer(json_integer_value(count) + 1));
    account->deferred++;
    account->states[row->state]++;
    if (row->state == LEDGER_STILL_OUT || row->state == LEDGER_OVERDUE) {
        if (account->oldest_wall_us == 0 || row->first_wall_us < account->oldest_wall_us)
            account->oldest_wall_us = row->first_wall_us;
        if (json_array_size(account->rows) < DIAGNOSE_EVENTS_MAX)
            json_array_append_new(account->rows, diagnose_ledger_row(row));
    }
    return true;
}

bool diagnose_ledger(const struct diagnose_place *place, int64_t since_wall_us, json_t **summary,
                     char *why, size_t why_room)
{
    struct ledger_account account = {.by_cause = json_object(), .rows = json_array()};

    *summary = NULL;
    if (!ledger_view(place->spool_directory, since_wall_us, account_add, &account, why, why_room)) {
        json_decref(account.by_cause);
        json_decref(account.rows);
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
    return *summary != NULL;
}

void diagnose_print_ledger(struct buffer *into, const json_t *summary)
{
    char age[64], moment[40];
    const json_t *rows = json_object_get(summary, "out");
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
    for (size_t i = 0; i < json_array_size(rows); i++) {
        const json_t *row = json_array_get(rows, i);
        buffer_print(
            into, "  out since %s  %s  from=", diagnose_moment(row, "first", moment, sizeof moment),
            diagnose_word(row, "cause"));
        diagnose_add_safe(into, diagnose_word(row, "from"), "");
        buffer_add_text(into, " to=");
        diagnose_add_safe(into, diagnose_word(row, "to"), "");
        buffer_print(into, " network=%s session=%s\n", diagnose_word(row, "client_network"),
                     diagnose_word(row, "session"));
    }
}
