/*
 * A key record (the first line) and a message: whatever they are, verification of DKIM and ARC
 * ends, stays within its bounds, and says the same whether the message came in one piece or in
 * many.
 */
#include "auth/auth.h"
#include "no_resolver.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct bytes key_record;

/* Stands in for the resolver: every name has this record and another. */
struct lookup resolve_ask(struct resolver *resolver, struct arena *arena, struct bytes name,
                          enum dns_type type, struct dns_answer *answer)
{
    (void)resolver;
    (void)type;
    *answer =
        (struct dns_answer){.records = ARENA_NEW_ARRAY(arena, 2, struct dns_record), .count = 2};
    if (!answer->records || name.count == 0 || name.count > 253)
        return lookup_failed(LOOKUP_REASON_UNKNOWN, BYTES_EMPTY);
    answer->records[0].text = key_record;
    answer->records[1].text =
        BYTES_LITERAL("v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=");
    return lookup_found();
}

static void verify(struct arena *arena, struct bytes message, size_t piece,
                   struct dkim_report *report, struct arc_facts *arc)
{
    const struct auth_dns dns = {.arena = arena, .deadline_us = DEADLINE_NEVER};
    struct dkim *dkim = dkim_open(arena);

    INVARIANT(dkim != NULL);
    for (size_t i = 0; i < message.count; i += piece)
        dkim_add(dkim, bytes_slice(message, i, piece));
    dkim_finish(dkim, &dns, report);
    arc_finish(dkim, &dns, arc);
    dkim_close(&dkim);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena arena = ARENA_WITH_LIMIT(16 * MIB);
    struct dkim_report whole, parts;
    struct arc_facts arc_whole, arc_parts;
    const struct bytes message =
        bytes_cut(bytes_of(data, MIN_OF(size, (size_t)65536)), '\n', &key_record);

    verify(&arena, message, 1 << 20, &whole, &arc_whole);
    verify(&arena, message, 1 + size % 7, &parts, &arc_parts);
    INVARIANT(whole.count == parts.count && whole.ignored == parts.ignored &&
              whole.count <= DKIM_SIGNATURES_MAX);
    for (unsigned i = 0; i < whole.count; i++) {
        INVARIANT(whole.facts[i].result == parts.facts[i].result &&
                  bytes_equal(whole.facts[i].reason, parts.facts[i].reason));
        INVARIANT(whole.facts[i].result !=
                  AUTH_TEMPERROR); /* the memory is enough and every name is found */
        INVARIANT(whole.facts[i].result != AUTH_PASS || whole.facts[i].domain.count > 0);
    }
    INVARIANT(arc_whole.result == arc_parts.result && arc_whole.instances <= 50 &&
              arc_whole.result != AUTH_TEMPERROR);
    arena_clear(&arena);
    return 0;
}
