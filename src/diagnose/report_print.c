/*
 * The report as a letter: plain text that a person reads, signs and sends. Every line comes from
 * the document; what is not known is said to be unknown.
 */
#include "diagnose/report.h"

#include <string.h>

static const struct {
    const char *prefix, *text;
} QUESTIONS[] = {
#define QUESTION(prefix, text) {prefix, text},
#include "diagnose/report_questions.def"
#undef QUESTION
};

static void add_word(struct buffer *into, const json_t *object, const char *member,
                     const char *otherwise)
{
    const char *word = diagnose_word(object, member);

    diagnose_add_safe(into, *word ? word : otherwise, "      ");
}

static const char *utc(const json_t *object, const char *member, char into[40])
{
    return diagnose_moment(object, member, into, 40);
}

/* ------------------------------------------------------------------ who and whom */

static void print_us(struct buffer *into, const json_t *report)
{
    const json_t *addresses = json_object_get(report, "addresses");

    buffer_print(into, "WHO WE ARE\n  host and EHLO name: %s\n", diagnose_word(report, "hostname"));
    for (size_t i = 0; i < json_array_size(addresses); i++) {
        const json_t *address = json_array_get(addresses, i);
        buffer_print(into, "  address: %s, reverse name: ", diagnose_word(address, "ip"));
        add_word(into, address, "name", "-");
        buffer_print(into, " (%s)\n", diagnose_word(address, "reverse"));
    }
    if (json_array_size(addresses) == 0)
        buffer_add_text(into, "  address: not known here; it stands in your logs\n");
    buffer_print(into, "  contact: %s\n\n", diagnose_word(report, "contact"));
}

static void print_them(struct buffer *into, const json_t *report)
{
    const json_t *mx = json_object_get(report, "mx"), *hosts = json_object_get(report, "hosts");

    buffer_add_text(into, "WHOM WE TRIED\n");
    for (size_t i = 0; i < json_array_size(mx); i++) {
        const json_t *host = json_array_get(mx, i), *addresses = json_object_get(host, "addresses");
        buffer_print(into, "  MX %lld ", (long long)diagnose_number(host, "preference"));
        add_word(into, host, "host", "-");
        for (size_t k = 0; k < json_array_size(addresses); k++)
            buffer_print(into, "%s%s", k == 0 ? ": " : ", ",
                         json_string_value(json_array_get(addresses, k)));
        buffer_add_text(into, json_array_size(addresses) ? "\n" : ": no address\n");
    }
    for (size_t i = 0; i < json_array_size(hosts); i++) {
        const json_t *host = json_array_get(hosts, i);
        buffer_add_text(into, "  tried ");
        add_word(into, host, "host", "no host, as none was found");
        buffer_print(into, ": %lld failure(s), %lld success(es)\n",
                     (long long)diagnose_number(host, "failures"),
                     (long long)diagnose_number(host, "successes"));
    }
    buffer_add_text(into, "\n");
}

/* ------------------------------------------------------------------ what was said, and when */

static void print_replies(struct buffer *into, const json_t *report)
{
    const json_t *replies = json_object_get(report, "replies");
    char first[40], last[40];

    buffer_add_text(into, "WHAT WAS ANSWERED\n");
    for (size_t i = 0; i < json_array_size(replies); i++) {
        const json_t *reply = json_array_get(replies, i);
        buffer_print(into, "  %lld time(s), first %s, last %s, stage %s, by ",
                     (long long)diagnose_number(reply, "count"), utc(reply, "first", first),
                     utc(reply, "last", last), diagnose_word(reply, "stage"));
        add_word(into, reply, "host", "-");
        buffer_add_text(into, "\n    TLS: ");
        add_word(into, reply, "tls", "none");
        if (diagnose_number(reply, "code") > 0)
            buffer_print(into, "; code %lld", (long long)diagnose_number(reply, "code"));
        else
            buffer_add_text(into, "; no reply code");
        buffer_add_text(into, "; enhanced code ");
        add_word(into, reply, "enhanced", "none");
        buffer_add_text(into, "; your id ");
        add_word(into, reply, "remote_id", "none given");
        buffer_add_text(into, "\n      ");
        add_word(into, reply, "reply", diagnose_word(reply, "cause"));
        buffer_add_text(into, "\n");
    }
    buffer_add_text(into, "\n");
}

static void print_attempts(struct buffer *into, const json_t *report)
{
    const json_t *attempts = json_object_get(report, "attempts"),
                 *incident = json_object_get(report, "incident");
    char first[40], last[40], good[40], moment[40];

    buffer_print(into, "WHEN\n  first %s, last %s, %lld failure(s)\n  last success: %s",
                 utc(incident, "first", first), utc(incident, "last", last),
                 (long long)diagnose_number(incident, "failures"),
                 json_is_string(json_object_get(incident, "last_success"))
                     ? utc(incident, "last_success", good)
                     : "none since our records begin");
    buffer_print(into, "; %lld success(es) since the first failure\n",
                 (long long)diagnose_number(incident, "successes_since"));
    for (size_t i = 0; i < json_array_size(attempts); i++) {
        const json_t *attempt = json_array_get(attempts, i);
        buffer_print(into, "  %s (%s)  ", utc(attempt, "time", moment),
                     diagnose_word(attempt, "local"));
        add_word(into, attempt, "host", "-");
        buffer_print(into, "  %s", diagnose_word(attempt, "stage"));
        if (diagnose_number(attempt, "code") > 0)
            buffer_print(into, "  %lld %s", (long long)diagnose_number(attempt, "code"),
                         diagnose_word(attempt, "enhanced"));
        else
            buffer_print(into, "  %s", diagnose_word(attempt, "cause"));
        buffer_print(into, "  message %s\n", diagnose_word(attempt, "message"));
    }
    if (diagnose_number(incident, "failures") > (json_int_t)json_array_size(attempts))
        buffer_print(into, "  (%zu of %lld attempts are listed)\n", json_array_size(attempts),
                     (long long)diagnose_number(incident, "failures"));
    buffer_add_text(into, "\n");
}

/* ------------------------------------------------------------------ the pattern */

static size_t with_failures(const json_t *list, const char *without_success)
{
    size_t count = 0;

    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *row = json_array_get(list, i);
        count += diagnose_number(row, "failures") > 0 &&
                 (!without_success || diagnose_number(row, without_success) == 0);
    }
    return count;
}

static void print_pattern(struct buffer *into, const json_t *report)
{
    const json_t *hosts = json_object_get(report, "hosts"),
                 *senders = json_object_get(report, "senders"),
                 *sizes = json_object_get(report, "sizes");
    const size_t host_count = json_array_size(hosts), bad_hosts = with_failures(hosts, NULL);

    buffer_print(into,
                 "PATTERN (of the messages listed here)\n  hosts: %zu of %zu tried failed%s\n",
                 bad_hosts, host_count,
                 host_count > 1 && bad_hosts == host_count ? ", all of them"
                 : bad_hosts < host_count                  ? ", the others took mail"
                                                           : "");
    buffer_print(into, "  senders: %zu, %zu of them never succeeded\n", json_array_size(senders),
                 with_failures(senders, "successes"));
    buffer_print(into, "  sizes: failed from %lld to %lld octets; largest that passed: ",
                 (long long)diagnose_number(sizes, "failed_least"),
                 (long long)diagnose_number(sizes, "failed_most"));
    if (diagnose_number(sizes, "passed_most") > 0)
        buffer_print(into, "%lld octets\n\n", (long long)diagnose_number(sizes, "passed_most"));
    else
        buffer_add_text(into, "none passed\n\n");
}

/* ------------------------------------------------------------------ our records */

/* " (192.0.2.53:53, 198.51.100.53:53)" */
static void print_names(struct buffer *into, const json_t *names)
{
    for (size_t i = 0; i < json_array_size(names); i++) {
        buffer_add_text(into, i == 0 ? " (" : ", ");
        diagnose_add_safe(into, json_string_value(json_array_get(names, i)), "");
    }
    if (json_array_size(names) > 0)
        buffer_add_text(into, ")");
}

static void print_group(struct buffer *into, const json_t *group)
{
    const json_t *lines = json_object_get(group, "answer");

    for (size_t i = 0; i < json_array_size(lines); i++) {
        buffer_add_text(into, "    ");
        diagnose_add_safe(into, json_string_value(json_array_get(lines, i)), "");
        buffer_add_text(into, "\n");
    }
    buffer_print(into, "      TTL %lld s; said by %zu authoritative server(s)",
                 (long long)diagnose_number(group, "ttl"),
                 json_array_size(json_object_get(group, "servers")));
    print_names(into, json_object_get(group, "servers"));
    buffer_print(into, ", %zu resolver(s)", json_array_size(json_object_get(group, "resolvers")));
    print_names(into, json_object_get(group, "resolvers"));
    buffer_add_text(into, "\n");
}

/* Which server is behind, lame or silent. */
static void print_record_findings(struct buffer *into, const json_t *record)
{
    const json_t *findings = json_object_get(record, "findings");

    for (size_t i = 0; i < json_array_size(findings); i++) {
        const json_t *finding = json_array_get(findings, i);
        if (strcmp(diagnose_word(finding, "severity"), "error") != 0)
            continue;
        buffer_add_text(into, "    ");
        add_word(into, finding, "name", "-");
        buffer_add_text(into, ": ");
        add_word(into, finding, "text", "-");
        buffer_add_text(into, "\n");
    }
}

static void print_records(struct buffer *into, const json_t *report)
{
    const json_t *records = json_object_get(report, "records"),
                 *spf = json_object_get(report, "spf"),
                 *findings = json_object_get(report, "findings");

    buffer_add_text(into, "OUR OWN RECORDS, AS EACH AUTHORITATIVE SERVER AND RESOLVER HAS THEM\n");
    for (size_t i = 0; i < json_array_size(records); i++) {
        const json_t *record = json_array_get(records, i),
                     *type = json_array_get(json_object_get(record, "types"), 0),
                     *groups = json_object_get(type, "groups");
        for (size_t t = 0; t < json_array_size(json_object_get(record, "types")); t++) {
            const json_t *other = json_array_get(json_object_get(record, "types"), t);
            if (strcmp(diagnose_word(other, "type"), diagnose_word(record, "type")) == 0)
                groups = json_object_get(other, "groups");
        }
        buffer_print(into, "  %s: ", diagnose_word(record, "what"));
        add_word(into, record, "name", "-");
        buffer_print(into, " %s, %s\n", diagnose_word(record, "type"),
                     json_array_size(groups) == 0                     ? "nobody answered"
                     : json_is_true(json_object_get(record, "agree")) ? "the same everywhere"
                                                                      : "NOT the same everywhere");
        for (size_t k = 0; k < json_array_size(groups); k++)
            print_group(into, json_array_get(groups, k));
        print_record_findings(into, record);
    }
    if (json_array_size(records) == 0)
        buffer_add_text(into, "  not looked at\n");
    for (size_t i = 0; i < json_array_size(spf); i++)
        buffer_print(into, "  SPF of %s costs %lld of 10 look-ups, %lld of them void\n",
                     diagnose_word(json_array_get(spf, i), "domain"),
                     (long long)diagnose_number(json_array_get(spf, i), "lookups"),
                     (long long)diagnose_number(json_array_get(spf, i), "void_lookups"));
    for (size_t i = 0; i < json_array_size(findings); i++) {
        buffer_add_text(into, "  error of ours: ");
        add_word(into, json_array_get(findings, i), "text", "-");
        buffer_add_text(into, "\n");
    }
    buffer_add_text(into, "\n");
}

/* ------------------------------------------------------------------ the end */

static void print_fault(struct buffer *into, const json_t *report)
{
    const json_t *incident = json_object_get(report, "incident"),
                 *explained = json_object_get(incident, "explained");
    const char *side = diagnose_word(explained, "side"),
               *sure = diagnose_word(explained, "confidence");

    buffer_print(into, "WHERE THE FAULT LIKELY IS\n  %s (confidence: %s)\n  ",
                 strcmp(side, "theirs") == 0   ? "at your end"
                 : strcmp(side, "ours") == 0   ? "at our end"
                 : strcmp(side, "sender") == 0 ? "in the records of the sender's domain"
                                               : "on the way between us",
                 *sure ? sure : "high");
    add_word(into, explained, "meaning", "-");
    buffer_add_text(into, "\n\n");
}

static void print_messages(struct buffer *into, const json_t *report)
{
    const json_t *messages = json_object_get(report, "messages");
    char moment[40];

    buffer_add_text(into, "MESSAGES TO LOOK FOR (our ids, as in their Received fields)\n");
    for (size_t i = 0; i < json_array_size(messages); i++) {
        const json_t *message = json_array_get(messages, i);
        buffer_print(into, "  %s  taken %s  ", diagnose_word(message, "id"),
                     utc(message, "accepted", moment));
        add_word(into, message, "from", "<>");
        buffer_add_text(into, " -> ");
        add_word(into, message, "to", "-");
        buffer_print(into, "  %lld octets\n", (long long)diagnose_number(message, "size"));
    }
    buffer_add_text(into, "\n");
}

static void print_question(struct buffer *into, const json_t *report)
{
    const json_t *incident = json_object_get(report, "incident");
    const char *cause = diagnose_word(incident, "cause"), *text = QUESTIONS[0].text;
    const json_t *address = json_array_get(json_object_get(report, "addresses"), 0);
    struct bytes rest, plain, name;

    for (size_t i = COUNT_OF(QUESTIONS); i > 0; i--)
        if (strncmp(cause, QUESTIONS[i - 1].prefix, strlen(QUESTIONS[i - 1].prefix)) == 0)
            text = QUESTIONS[i - 1].text;
    buffer_add_text(into, "OUR QUESTION\n  ");
    for (rest = bytes_of_text(text); rest.count > 0;) {
        const bool has_name = bytes_find_byte(rest, '{') < rest.count;
        rest = bytes_cut(rest, '{', &plain);
        buffer_add(into, plain);
        if (!has_name)
            break;
        rest = bytes_cut(rest, '}', &name);
        if (bytes_equal_text(name, "host"))
            add_word(into, incident, "host", diagnose_word(report, "site"));
        else
            add_word(into, address, "ip", diagnose_word(report, "hostname"));
    }
    buffer_add_text(into, "\n");
}

void diagnose_print_report(struct buffer *into, const json_t *report)
{
    const json_t *incident = json_object_get(report, "incident");
    const char *domain = diagnose_word(report, "domain");
    char first[40], drafted[40];

    buffer_print(into, "To: postmaster@%s\n", *domain ? domain : diagnose_word(report, "site"));
    buffer_print(into, "Subject: mail from %s to %s fails since %s (incident %s)\n\n",
                 diagnose_word(report, "hostname"), diagnose_word(report, "site"),
                 utc(incident, "first", first), diagnose_word(incident, "id"));
    buffer_print(into,
                 "Hello,\n\nour server cannot deliver mail to %s. What follows was recorded by it "
                 "(drafted %s);\nit contains no message's content.\n\n",
                 diagnose_word(report, "site"), utc(report, "drafted", drafted));
    print_us(into, report);
    print_them(into, report);
    print_replies(into, report);
    print_attempts(into, report);
    print_pattern(into, report);
    print_records(into, report);
    print_fault(into, report);
    print_messages(into, report);
    print_question(into, report);
}
