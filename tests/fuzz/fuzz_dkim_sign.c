/* Any message: what can be signed verifies, and what can be sealed is a chain that passes. */
#include "auth/auth.h"
#include "no_resolver.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The published test key of RFC 8463, appendix A. */
static const char PEM[] = "-----BEGIN PRIVATE KEY-----\n"
                          "MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n"
                          "-----END PRIVATE KEY-----\n";

struct lookup resolve_ask(struct resolver *resolver, struct arena *arena, struct bytes name,
                          enum dns_type type, struct dns_answer *answer)
{
    (void)resolver;
    (void)name;
    (void)type;
    *answer = (struct dns_answer){.records = ARENA_NEW(arena, struct dns_record), .count = 1};
    INVARIANT(answer->records != NULL);
    answer->records[0].text =
        BYTES_LITERAL("v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=");
    return lookup_found();
}

static struct io_result read_at(void *argument, struct span into, uint64_t offset)
{
    const struct bytes part =
        bytes_slice(*(const struct bytes *)argument, (size_t)offset, into.count);

    memcpy(into.at, part.at, part.count);
    return (struct io_result){.status = IO_OK, .count = part.count};
}

static void verify(struct arena *arena, struct bytes added, struct bytes message,
                   struct dkim_report *report, struct arc_facts *arc)
{
    const struct auth_dns dns = {.arena = arena, .deadline_us = DEADLINE_NEVER};
    struct dkim *dkim = dkim_open(arena);

    INVARIANT(dkim != NULL);
    dkim_add(dkim, added);
    dkim_add(dkim, message);
    dkim_finish(dkim, &dns, report);
    arc_finish(dkim, &dns, arc);
    dkim_close(&dkim);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena arena = ARENA_WITH_LIMIT(16 * MIB);
    CLEANUP(buffer_free) struct buffer into = BUFFER_WITH_LIMIT(MIB);
    struct bytes message = bytes_of(data, MIN_OF(size, (size_t)65536));
    const struct auth_source source = {read_at, &message, message.count};
    char why[160] = "";
    CLEANUP(private_key_close)
    struct private_key *key = private_key_open_pem(bytes_of_text(PEM), why, sizeof why);
    struct arc_sealer sealer = {
        .signer = {.domain = "d.example", .selector = "s", .key = key, .wall_us = 1},
        .authentication_results = bytes_slice(message, 0, 100),
        .authserv_id = "mx.example"};
    struct dkim_report report;
    struct arc_facts arc;

    INVARIANT(key != NULL);
    if (dkim_sign(&sealer.signer, &source, &into, why, sizeof why)) {
        verify(&arena, buffer_view(&into), message, &report, &arc);
        INVARIANT(report.count > 0 && report.facts[0].result == AUTH_PASS);
    }
    verify(&arena, BYTES_EMPTY, message, &report, &arc);
    buffer_clear(&into);
    sealer.chain = arc.result;
    if (arc_seal(&sealer, &source, &into, why, sizeof why) && into.count > 0) {
        verify(&arena, buffer_view(&into), message, &report, &arc);
        INVARIANT(arc.result == (sealer.chain == AUTH_FAIL ? AUTH_FAIL : AUTH_PASS));
    }
    arena_clear(&arena);
    return 0;
}
