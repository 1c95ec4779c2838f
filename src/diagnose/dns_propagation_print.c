/*
 * `dns propagation` for a terminal: who says what, then the servers, then what it means.
 */
#include <string.h>

#include "diagnose/dns_inside.h"

static void print_names(struct buffer *into, const json_t *list, const char *kind)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        buffer_print(into, "        %s ", kind);
        diagnose_add_safe(into, json_string_value(json_array_get(list, i)), "");
        buffer_add_text(into, "\n");
    }
}

static void print_group(struct buffer *into, const json_t *group)
{
    const json_t *lines = json_object_get(group, "answer");
    char left[64];

    for (size_t i = 0; i < json_array_size(lines); i++) {
        buffer_add_text(into, "    ");
        diagnose_add_safe(into, json_string_value(json_array_get(lines, i)), "");
        buffer_add_text(into, "\n");
    }
    duration_print((uint64_t)diagnose_number(group, "ttl") * US_PER_S, left, sizeof left);
    buffer_print(into, "      may be remembered for %s, said by\n", left);
    print_names(into, json_object_get(group, "servers"), "server");
    print_names(into, json_object_get(group, "resolvers"), "resolver");
}

static void print_type(struct buffer *into, const json_t *name, const json_t *type)
{
    const json_t *groups = json_object_get(type, "groups");

    diagnose_add_safe(into, json_string_value(name), "");
    buffer_print(into, " %s: %zu answer(s)\n", diagnose_word(type, "type"),
                 json_array_size(groups));
    for (size_t i = 0; i < json_array_size(groups); i++)
        print_group(into, json_array_get(groups, i));
}

static void print_server(struct buffer *into, const json_t *server)
{
    buffer_print(into, "%s ", diagnose_word(server, "kind"));
    diagnose_add_safe(into, diagnose_word(server, "host"), "");
    buffer_print(into, "%s%s", *diagnose_word(server, "host") ? " " : "",
                 diagnose_word(server, "address"));
    if (json_object_get(server, "serial"))
        buffer_print(into, " serial %lld", (long long)diagnose_number(server, "serial"));
    buffer_add_text(into, "\n");
}

void diagnose_print_dns_propagation(struct buffer *into, const json_t *answer)
{
    const json_t *types = json_object_get(answer, "types");
    const json_t *servers = json_object_get(answer, "servers");

    for (size_t i = 0; i < json_array_size(types); i++)
        print_type(into, json_object_get(answer, "name"), json_array_get(types, i));
    for (size_t i = 0; i < json_array_size(servers); i++)
        print_server(into, json_array_get(servers, i));
    buffer_print(into, "\n%s\n",
                 json_is_true(json_object_get(answer, "agree")) ? "All agree."
                                                                : "They do not agree.");
    dns_print_findings(into, json_object_get(answer, "findings"));
}
