/*
 * The findings of `dns check` and `dns propagation`: one table gives id, severity and words.
 */
#include <string.h>

#include "diagnose/dns_inside.h"

static const struct {
    const char *id;
    enum dns_severity severity;
    const char *text, *fix;
} FINDINGS[] = {
#define FINDING(token, id, severity, text, fix) {id, DNS_##severity, text, fix},
#include "diagnose/dns_findings.def"
#undef FINDING
};

enum { FINDINGS_MAX = 500, SUBJECT_MAX = 300 };

static const char *severity_name(enum dns_severity severity)
{
    switch (severity) {
    case DNS_ERROR:
        return "error";
    case DNS_WARNING:
        return "warning";
    case DNS_INFO:
        return "info";
    }
    return "error";
}

/* The table's words with {} and {domain} filled in. */
static json_t *fill_in(const char *words, struct bytes subject, struct bytes domain)
{
    CLEANUP(buffer_free) struct buffer text = BUFFER_WITH_LIMIT(16 * KIB);

    while (*words) {
        if (strncmp(words, "{}", 2) == 0) {
            buffer_add(&text, subject);
            words += 2;
        } else if (strncmp(words, "{domain}", 8) == 0) {
            buffer_add(&text, domain);
            words += 8;
        } else {
            buffer_add_byte(&text, (uint8_t)*words++);
        }
    }
    return diagnose_text(buffer_view(&text));
}

static bool is_there(const json_t *list, const json_t *wanted)
{
    for (size_t i = 0; i < json_array_size(list); i++)
        if (json_equal(json_array_get(list, i), wanted))
            return true;
    return false;
}

void dns_find(struct dns_findings *findings, enum dns_finding finding, struct bytes name,
              struct bytes subject)
{
    subject = bytes_slice(subject, 0, SUBJECT_MAX);
    json_t *one = json_pack("{s:s, s:s, s:o, s:o, s:o}", "severity",
                            severity_name(FINDINGS[finding].severity), "id", FINDINGS[finding].id,
                            "name", diagnose_text(name), "text",
                            fill_in(FINDINGS[finding].text, subject, findings->domain), "fix",
                            fill_in(FINDINGS[finding].fix, subject, findings->domain));

    if (one && json_array_size(findings->list) < FINDINGS_MAX && !is_there(findings->list, one))
        json_array_append(findings->list, one);
    json_decref(one);
}

bool dns_findings_have_error(const json_t *list)
{
    for (size_t i = 0; i < json_array_size(list); i++)
        if (strcmp(diagnose_word(json_array_get(list, i), "severity"), "error") == 0)
            return true;
    return false;
}

static void print_of_severity(struct buffer *into, const json_t *list, enum dns_severity severity)
{
    const char *word = severity_name(severity);

    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *one = json_array_get(list, i);
        if (strcmp(diagnose_word(one, "severity"), word) != 0)
            continue;
        buffer_print(into, "%-8s %s  ", word, diagnose_word(one, "id"));
        diagnose_add_safe(into, diagnose_word(one, "name"), "");
        buffer_add_text(into, "\n         means: ");
        diagnose_add_safe(into, diagnose_word(one, "text"), "                ");
        buffer_add_text(into, "\n         do:    ");
        diagnose_add_safe(into, diagnose_word(one, "fix"), "                ");
        buffer_add_text(into, "\n");
    }
}

void dns_print_findings(struct buffer *into, const json_t *list)
{
    for (int i = DNS_ERROR; i <= DNS_INFO; i++)
        print_of_severity(into, list, (enum dns_severity)i);
}
