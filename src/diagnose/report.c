/*
 * The postmaster's report: recorded facts of one incident of sending, gathered for somebody at the
 * other side who has never heard of us.
 */
#include "diagnose/report.h"

#include <string.h>
#include <time.h>

/* ------------------------------------------------------------------ attempts */

struct gathering {
    json_t *report, *attempts, *replies, *hosts, *senders, *messages;
    const char *subject, *cause;
    json_t *message; /* at hand */
    int64_t size_failed_most, size_failed_least, size_passed_most;
    int64_t size; /* of the message at hand */
    json_int_t failures, successes;
};

static json_t *named(json_t *list, const char *member, struct bytes name)
{
    char text[512];

    snprintf(text, sizeof text, "%.*s", (int)MIN_OF(name.count, sizeof text - 1),
             name.count ? (const char *)name.at : "");
    for (size_t i = 0; i < json_array_size(list); i++)
        if (strcmp(diagnose_word(json_array_get(list, i), member), text) == 0)
            return json_array_get(list, i);
    json_t *made =
        json_pack("{s:o, s:i, s:i}", member, diagnose_text(name), "failures", 0, "successes", 0);
    json_array_append_new(list, made);
    return made;
}

static void count_up(json_t *object, const char *member)
{
    json_object_set_new(object, member, json_integer(diagnose_number(object, member) + 1));
}

/* RFC 3339 with the offset of this host: what stands in its logs. */
static json_t *local_time(int64_t wall_us)
{
    const time_t seconds = (time_t)(wall_us / 1000000);
    struct tm parts;
    char text[64] = "";

    if (localtime_r(&seconds, &parts))
        strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S %z", &parts);
    return json_string(text);
}

static json_t *attempt_json(const struct history_row *row)
{
    char id[ID_TEXT_MAX];
    json_t *attempt = json_pack(
        "{s:o, s:o, s:s, s:o, s:o, s:o, s:o, s:i, s:o, s:o}", "time", diagnose_time(row->wall_us),
        "local", local_time(row->wall_us), "message", id_print(row->message, id, sizeof id), "host",
        diagnose_text(row->mx), "stage", diagnose_text(row->stage), "tls", diagnose_text(row->tls),
        "enhanced", diagnose_text(row->enhanced), "code", (int)row->code, "reply",
        diagnose_text(row->text), "cause", diagnose_text(row->cause));

    json_object_set_new(attempt, "attempt", json_integer(row->attempt));
    return attempt;
}

static bool is_letter_or_digit(char byte)
{
    return (byte >= '0' && byte <= '9') || (byte >= 'a' && byte <= 'z') ||
           (byte >= 'A' && byte <= 'Z');
}

/* The last word with both letters and digits, long enough for an id of theirs; "" when none. */
static void remote_id(const char *reply, char into[64])
{
    into[0] = 0;
    for (const char *at = reply; *at;) {
        size_t count = 0, digits = 0, letters = 0;
        while (at[count] && (is_letter_or_digit(at[count]) || at[count] == '-')) {
            digits += at[count] >= '0' && at[count] <= '9';
            letters += at[count] > '9';
            count++;
        }
        if (count >= 10 && count < 64 && digits >= 2 && letters >= 2)
            snprintf(into, 64, "%.*s", (int)count, at);
        at += count ? count : 1;
    }
}

/* Replies that differ in nothing but an id of theirs would be told apart; stage and code group. */
static void add_reply(struct gathering *gathering, const struct history_row *row)
{
    char id[64];

    for (size_t i = 0; i < json_array_size(gathering->replies); i++) {
        json_t *known = json_array_get(gathering->replies, i);
        if (bytes_equal_text(row->text, diagnose_word(known, "reply")) &&
            bytes_equal_text(row->stage, diagnose_word(known, "stage"))) {
            count_up(known, "count");
            json_object_set_new(known, "last", diagnose_time(row->wall_us));
            return;
        }
    }
    if (json_array_size(gathering->replies) >= 10)
        return;
    json_t *reply = attempt_json(row);
    remote_id(diagnose_word(reply, "reply"), id);
    json_object_set_new(reply, "remote_id", json_string(id));
    json_object_set_new(reply, "count", json_integer(1));
    json_object_set_new(reply, "first", diagnose_time(row->wall_us));
    json_object_set_new(reply, "last", diagnose_time(row->wall_us));
    json_array_append_new(gathering->replies, reply);
}

static void take_failure(struct gathering *gathering, const struct history_row *row)
{
    gathering->failures++;
    if (json_array_size(gathering->attempts) < REPORT_ATTEMPTS_MAX)
        json_array_append_new(gathering->attempts, attempt_json(row));
    add_reply(gathering, row);
    count_up(named(gathering->hosts, "host", row->mx), "failures");
    count_up(named(gathering->senders, "sender", row->from), "failures");
    gathering->size_failed_most = MAX_OF(gathering->size_failed_most, gathering->size);
    if (gathering->size > 0 &&
        (gathering->size_failed_least == 0 || gathering->size < gathering->size_failed_least))
        gathering->size_failed_least = gathering->size;
    if (!json_object_get(gathering->message, "to"))
        json_object_set_new(gathering->message, "to", diagnose_text(row->to));
}

static bool take_row(void *argument, const struct history_row *row)
{
    struct gathering *gathering = argument;

    if (bytes_equal_text(row->event, "message.accepted")) {
        gathering->size = (int64_t)row->size_bytes;
        json_object_set_new(gathering->message, "accepted", diagnose_time(row->wall_us));
        json_object_set_new(gathering->message, "from", diagnose_text(row->from));
        json_object_set_new(gathering->message, "size", json_integer((json_int_t)row->size_bytes));
    }
    if (!bytes_equal_text(row->destination, gathering->subject))
        return true;
    if (bytes_equal_text(row->event, "delivery.done")) {
        gathering->successes++;
        gathering->size_passed_most = MAX_OF(gathering->size_passed_most, gathering->size);
        count_up(named(gathering->hosts, "host", row->mx), "successes");
        count_up(named(gathering->senders, "sender", row->from), "successes");
    } else if (bytes_equal_text(row->cause, gathering->cause)) {
        take_failure(gathering, row);
    }
    return true;
}

static int compare_times(const void *a, const void *b)
{
    const json_t *const *first = a, *const *second = b;

    return strcmp(diagnose_word(*first, "time"), diagnose_word(*second, "time"));
}

/* By time over all messages: each message's own story came in one piece. */
static void sort_attempts(json_t *attempts)
{
    const size_t count = json_array_size(attempts);
    json_t **order = calloc(count + 1, sizeof(json_t *));

    for (size_t i = 0; order && i < count; i++)
        order[i] = json_incref(json_array_get(attempts, i));
    if (order && count > 1)
        qsort(order, count, sizeof(json_t *), compare_times);
    if (order)
        json_array_clear(attempts);
    for (size_t i = 0; order && i < count; i++)
        json_array_append_new(attempts, order[i]);
    free(order);
}

static bool gather_messages(const struct diagnose_place *place, struct gathering *gathering,
                            uint64_t incident, char *why, size_t why_room)
{
    uint64_t messages[INCIDENT_MESSAGES_MAX];
    unsigned count = 0;
    char id[ID_TEXT_MAX];

    if (!incident_messages(place->history_directory, incident, messages, &count)) {
        snprintf(why, why_room, "the incident's messages cannot be read");
        return false;
    }
    for (unsigned i = 0; i < count; i++) {
        gathering->message = json_pack("{s:s}", "id", id_print(messages[i], id, sizeof id));
        gathering->size = 0;
        const bool read = history_of_message(place->history_directory, messages[i], take_row,
                                             gathering, why, why_room);
        if (read && json_array_size(gathering->messages) < REPORT_MESSAGES)
            json_array_append(gathering->messages, gathering->message);
        json_decref(gathering->message);
        if (!read)
            return false;
    }
    sort_attempts(gathering->attempts);
    return true;
}

/* ------------------------------------------------------------------ the facts */

const char *report_site(const char *subject, char *into, size_t room)
{
    const char *colon = strchr(subject, ':');

    snprintf(into, room, "%s", colon && colon[1] ? colon + 1 : subject);
    return into;
}

static json_t *report_make(const struct diagnose_place *place, json_t *incident)
{
    const struct config *config = place->config;
    char site[256], contact[600];
    const char *subject = diagnose_word(incident, "subject");

    report_site(subject, site, sizeof site);
    snprintf(contact, sizeof contact, "%s%s",
             config && *config->operator_mail ? config->operator_mail : "postmaster@",
             config && *config->operator_mail ? ""
             : config                         ? config->hostname
                                              : "localhost");
    return json_pack("{s:s, s:s, s:s, s:s, s:o, s:[], s:[], s:[], s:[], s:[], s:o}", "hostname",
                     config ? config->hostname : "", "contact", contact, "site", site, "domain",
                     diagnose_domain_of(subject, true), "drafted",
                     diagnose_time(place->now_wall_us), "attempts", "replies", "hosts", "senders",
                     "messages", "incident", incident);
}

json_t *report_facts(const struct diagnose_place *place, uint64_t id, char *why, size_t why_room)
{
    const struct incident_query query = {.id = id};
    json_t *incidents = NULL;

    if (!diagnose_incidents(place, query, &incidents, why, why_room))
        return NULL;
    json_t *incident = json_incref(json_array_get(incidents, 0));
    json_decref(incidents);
    if (!incident) {
        snprintf(why, why_room, "no such incident");
        return NULL;
    }
    if (*diagnose_word(incident, "direction") != 'o' ||
        strcmp(diagnose_word(incident, "side"), "ours") == 0) {
        snprintf(why, why_room,
                 "the fault of this incident is not at another postmaster's: `holdfast incidents` "
                 "says what to do");
        json_decref(incident);
        return NULL;
    }
    json_t *report = report_make(place, incident);
    struct gathering gathering = {.report = report,
                                  .attempts = json_object_get(report, "attempts"),
                                  .replies = json_object_get(report, "replies"),
                                  .hosts = json_object_get(report, "hosts"),
                                  .senders = json_object_get(report, "senders"),
                                  .messages = json_object_get(report, "messages"),
                                  .subject = diagnose_word(incident, "subject"),
                                  .cause = diagnose_word(incident, "cause")};
    if (!gather_messages(place, &gathering, id, why, why_room)) {
        json_decref(report);
        return NULL;
    }
    json_object_set_new(report, "sizes",
                        json_pack("{s:I, s:I, s:I}", "failed_least",
                                  (json_int_t)gathering.size_failed_least, "failed_most",
                                  (json_int_t)gathering.size_failed_most, "passed_most",
                                  (json_int_t)gathering.size_passed_most));
    return report;
}

json_t *diagnose_report(struct arena *arena, const struct report_request *request, char *why,
                        size_t why_room)
{
    json_t *report = report_facts(request->place, request->incident, why, why_room);

    if (report && request->resolver)
        report_add_records(arena, request, report);
    return report;
}
