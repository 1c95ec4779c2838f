/*
 * `dns check` for a terminal: the tree of SPF with what each term costs, a caret under each fault,
 * the hosts and keys, then the findings, the worst first.
 */
#include <string.h>

#include "diagnose/dns_inside.h"

enum { TREE_DEPTH_MAX = 20, LIMIT = SPF_LOOKUPS_MAX };

static void add_safe(struct buffer *into, const json_t *object, const char *member)
{
    diagnose_add_safe(into, diagnose_word(object, member), " ");
}

/* ------------------------------------------------------------------ SPF */

static void print_faults(struct buffer *into, const json_t *node, int indent)
{
    const json_t *faults = json_object_get(node, "faults");

    for (size_t i = 0; i < json_array_size(faults); i++) {
        const json_t *fault = json_array_get(faults, i);
        buffer_print(into, "%*s^ ", indent + (int)diagnose_number(fault, "offset"), "");
        add_safe(into, fault, "problem");
        buffer_add_text(into, "\n");
    }
}

static void print_record(struct buffer *into, const json_t *node, int depth);

static void print_term(struct buffer *into, const json_t *term, int depth)
{
    const int64_t cost = diagnose_number(term, "lookups"), total = diagnose_number(term, "total");

    if (cost == 0)
        return;
    buffer_print(into, "%*s", 2 * depth, "");
    add_safe(into, term, "term");
    buffer_print(into, "  costs %lld, %lld so far%s%s\n", (long long)cost, (long long)total,
                 total > LIMIT && total - cost <= LIMIT ? "  <- passes the limit of 10" : "",
                 json_is_true(json_object_get(term, "void")) ? "  (void: finds nothing)" : "");
    if (json_object_get(term, "record"))
        print_record(into, term, depth + 1);
}

static void print_record(struct buffer *into, const json_t *node, int depth)
{
    const json_t *tree = json_object_get(node, "tree");
    const char *domain = diagnose_word(node, "domain");

    if (depth > TREE_DEPTH_MAX)
        return;
    buffer_print(into, "%*s", 2 * depth, "");
    diagnose_add_safe(into, domain, " ");
    buffer_add_text(into, ": ");
    add_safe(into, node, "record");
    buffer_add_text(into, "\n");
    print_faults(into, node, 2 * depth + (int)strlen(domain) + 2);
    for (size_t i = 0; i < json_array_size(tree); i++)
        print_term(into, json_array_get(tree, i), depth + 1);
}

static void print_spf(struct buffer *into, const json_t *spf)
{
    const json_t *tree = json_object_get(spf, "tree");

    buffer_print(into, "SPF: %lld of 10 look-ups, %lld void\n",
                 (long long)diagnose_number(spf, "lookups"),
                 (long long)diagnose_number(spf, "void_lookups"));
    for (size_t i = 0; i < json_array_size(tree); i++)
        print_record(into, json_array_get(tree, i), 1);
}

/* ------------------------------------------------------------------ the others */

static void print_hosts(struct buffer *into, const json_t *hosts)
{
    for (size_t i = 0; i < json_array_size(hosts); i++) {
        const json_t *host = json_array_get(hosts, i);
        const json_t *addresses = json_object_get(host, "addresses");
        buffer_print(into, "MX: %lld ", (long long)diagnose_number(host, "preference"));
        add_safe(into, host, "host");
        for (size_t j = 0; j < json_array_size(addresses); j++)
            buffer_print(into, " %s", json_string_value(json_array_get(addresses, j)));
        buffer_add_text(into, "\n");
    }
}

static void print_keys(struct buffer *into, const json_t *keys)
{
    for (size_t i = 0; i < json_array_size(keys); i++) {
        const json_t *key = json_array_get(keys, i);
        buffer_add_text(into, "DKIM: ");
        add_safe(into, key, "selector");
        buffer_print(into, " %s, %lld bits\n", diagnose_word(key, "kind"),
                     (long long)diagnose_number(key, "bits"));
    }
}

static void print_line(struct buffer *into, const char *title, const json_t *object)
{
    if (*diagnose_word(object, "record")) {
        buffer_print(into, "%s: ", title);
        add_safe(into, object, "record");
        buffer_add_text(into, "\n");
    }
}

void diagnose_print_dns_check(struct buffer *into, const json_t *answer)
{
    print_hosts(into, json_object_get(answer, "mx"));
    print_spf(into, json_object_get(answer, "spf"));
    print_keys(into, json_object_get(answer, "dkim"));
    print_line(into, "DMARC", json_object_get(answer, "dmarc"));
    print_line(into, "MTA-STS", json_object_get(answer, "mta_sts"));
    print_line(into, "TLS-RPT", json_object_get(answer, "tls_rpt"));
    buffer_add_text(into, "\n");
    dns_print_findings(into, json_object_get(answer, "findings"));
}
