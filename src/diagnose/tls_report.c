/*
 * What came of TLS with other domains, as the reports of RFC 8460 4.4: one for each domain and day
 * (UTC), from the counts that deliver keeps.
 */
#include "diagnose/diagnose.h"

#include <jansson.h>
#include <string.h>
#include <time.h>

#include "deliver/deliver.h"
#include "diagnose/diagnose_private.h"

struct report_writer {
    const struct tls_report_request *request;
    json_t *reports;
    json_t *report; /* of that day and domain; borrowed */
    json_t *policy; /* the one that rows are added to; borrowed */
    int64_t day;
    char domain[256];
    enum tls_policy_kind kind;
    char text[1024];
};

static void print_time(int64_t seconds, char *into, size_t room)
{
    const time_t time = (time_t)seconds;
    struct tm parts;

    gmtime_r(&time, &parts);
    strftime(into, room, "%Y-%m-%dT%H:%M:%SZ", &parts);
}

static void begin_report(struct report_writer *writer, const struct tls_result *result)
{
    char start[32], end[32], id[400], contact[300];
    const char *const hostname = writer->request->hostname;

    print_time(result->day * 86400, start, sizeof start);
    print_time(result->day * 86400 + 86399, end, sizeof end);
    snprintf(id, sizeof id, "%.10s_%s@%.100s", start, result->domain, hostname);
    if (writer->request->contact && *writer->request->contact)
        snprintf(contact, sizeof contact, "%.299s", writer->request->contact);
    else
        snprintf(contact, sizeof contact, "postmaster@%.250s", hostname);
    writer->report = json_pack("{s:s, s:{s:s, s:s}, s:s, s:s, s:[]}", "organization-name", hostname,
                               "date-range", "start-datetime", start, "end-datetime", end,
                               "contact-info", contact, "report-id", id, "policies");
    json_array_append_new(writer->reports, writer->report);
    writer->day = result->day;
    snprintf(writer->domain, sizeof writer->domain, "%s", result->domain);
    writer->policy = NULL;
}

/* RFC 8460 4.4: the lines of the policy, and for MTA-STS the patterns of hosts again. */
static void add_policy_text(json_t *policy, const struct tls_result *result)
{
    json_t *const lines = json_array(), *const hosts = json_array();
    struct bytes rest = bytes_of_text(result->policy), line = BYTES_EMPTY;

    while (rest.count > 0) {
        rest = bytes_cut(rest, '\n', &line);
        line = bytes_trim(line);
        if (line.count > 0)
            json_array_append_new(lines, json_stringn((const char *)line.at, line.count));
        if (result->kind == TLS_POLICY_STS && bytes_starts_with(line, BYTES_LITERAL("mx:"))) {
            const struct bytes host = bytes_trim(bytes_skip(line, 3));
            json_array_append_new(hosts, json_stringn((const char *)host.at, host.count));
        }
    }
    if (json_array_size(lines) > 0)
        json_object_set(policy, "policy-string", lines);
    if (json_array_size(hosts) > 0)
        json_object_set(policy, "mx-host", hosts);
    json_decref(lines);
    json_decref(hosts);
}

static void begin_policy(struct report_writer *writer, const struct tls_result *result)
{
    static const char *const kinds[] = {[TLS_POLICY_NONE] = "no-policy-found",
                                        [TLS_POLICY_STS] = "sts",
                                        [TLS_POLICY_TLSA] = "tlsa"};

    writer->policy =
        json_pack("{s:{s:s, s:s}, s:{s:i, s:i}}", "policy", "policy-type", kinds[result->kind],
                  "policy-domain", result->domain, "summary", "total-successful-session-count", 0,
                  "total-failure-session-count", 0);
    json_array_append_new(json_object_get(writer->report, "policies"), writer->policy);
    add_policy_text(json_object_get(writer->policy, "policy"), result);
    writer->kind = result->kind;
    snprintf(writer->text, sizeof writer->text, "%s", result->policy);
}

static void add_count(json_t *policy, const char *member, uint64_t count)
{
    json_t *const summary = json_object_get(policy, "summary");

    json_object_set_new(
        summary, member,
        json_integer(json_integer_value(json_object_get(summary, member)) + (json_int_t)count));
}

static void set_if(json_t *object, const char *member, const char *text)
{
    if (*text)
        json_object_set_new(object, member, json_string(text));
}

static void add_failure(json_t *policy, const struct tls_result *result)
{
    json_t *const detail = json_object();

    json_object_set_new(detail, "result-type", json_string(result->failure));
    set_if(detail, "sending-mta-ip", result->source);
    set_if(detail, "receiving-mx-hostname", result->host);
    set_if(detail, "receiving-ip", result->ip);
    json_object_set_new(detail, "failed-session-count", json_integer((json_int_t)result->count));
    set_if(detail, "failure-reason-code", result->reason);
    if (!json_object_get(policy, "failure-details"))
        json_object_set_new(policy, "failure-details", json_array());
    json_array_append_new(json_object_get(policy, "failure-details"), detail);
}

static bool take_result(void *argument, const struct tls_result *result)
{
    struct report_writer *writer = argument;

    if (writer->request->domain && strcasecmp(writer->request->domain, result->domain) != 0)
        return true;
    if (!writer->report || writer->day != result->day ||
        strcmp(writer->domain, result->domain) != 0)
        begin_report(writer, result);
    if (!writer->policy || writer->kind != result->kind ||
        strcmp(writer->text, result->policy) != 0)
        begin_policy(writer, result);
    add_count(writer->policy,
              *result->failure ? "total-failure-session-count" : "total-successful-session-count",
              result->count);
    if (*result->failure)
        add_failure(writer->policy, result);
    return true;
}

json_t *diagnose_tls_report(const struct tls_report_request *request)
{
    struct report_writer *writer = calloc(1, sizeof *writer);
    json_t *reports = json_array();

    if (writer)
        *writer = (struct report_writer){.request = request, .reports = reports};
    const bool read =
        writer && deliver_tls_results(request->directory, request->since_day, take_result, writer);
    free(writer);
    if (read)
        return reports;
    json_decref(reports);
    return NULL;
}

/* ------------------------------------------------------------------ for people */

static void print_policy(struct buffer *into, const json_t *policy)
{
    const json_t *const summary = json_object_get(policy, "summary");
    const json_t *detail = NULL;
    size_t i = 0;

    buffer_print(into, "  %-16s %lld good, %lld failed\n",
                 diagnose_word(json_object_get(policy, "policy"), "policy-type"),
                 (long long)diagnose_number(summary, "total-successful-session-count"),
                 (long long)diagnose_number(summary, "total-failure-session-count"));
    json_array_foreach(json_object_get(policy, "failure-details"), i, detail)
    {
        const char *const host = diagnose_word(detail, "receiving-mx-hostname");
        buffer_print(into, "    %6lld  %s%s%s%s%s%s%s%s\n",
                     (long long)diagnose_number(detail, "failed-session-count"),
                     diagnose_word(detail, "result-type"), *host ? " at " : "", host,
                     *host ? "[" : "", diagnose_word(detail, "receiving-ip"), *host ? "]" : "",
                     *diagnose_word(detail, "failure-reason-code") ? ": " : "",
                     diagnose_word(detail, "failure-reason-code"));
    }
}

void diagnose_print_tls_report(struct buffer *into, const json_t *reports)
{
    const json_t *report = NULL, *policy = NULL;
    size_t i = 0, k = 0;

    json_array_foreach(reports, i, report)
    {
        const json_t *const policies = json_object_get(report, "policies");
        buffer_print(
            into, "%.10s %s\n",
            diagnose_word(json_object_get(report, "date-range"), "start-datetime"),
            diagnose_word(json_object_get(json_array_get(policies, 0), "policy"), "policy-domain"));
        json_array_foreach(policies, k, policy) print_policy(into, policy);
    }
    if (json_array_size(reports) == 0)
        buffer_add_text(into, "nothing was sent by MX in that time\n");
}
