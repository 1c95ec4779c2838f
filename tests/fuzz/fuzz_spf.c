/* SPF records, macros and explanations from a hostile zone: the evaluation ends within its limits.
 */
#include "../unit/fake_zone.h"
#include "auth/auth.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Pieces between NULs: the record, that of the name it may include, the explanation, the sender. */
static struct bytes next_piece(struct bytes *rest)
{
    struct bytes piece = BYTES_EMPTY;

    *rest = bytes_cut(*rest, 0, &piece);
    return bytes_slice(piece, 0, 2000);
}

static void fill_zone(struct bytes *rest)
{
    fake_zone_clear();
    fake_zone_add("a.example", DNS_TXT, next_piece(rest));
    fake_zone_add("b.example", DNS_TXT, next_piece(rest));
    fake_zone_add("e.example", DNS_TXT, next_piece(rest));
    fake_zone_add("a.example", DNS_A, BYTES_LITERAL("192.0.2.1"));
    fake_zone_add("b.example", DNS_MX, BYTES_LITERAL("a.example"));
    fake_zone_add("3.2.0.192.in-addr.arpa", DNS_PTR, BYTES_LITERAL("a.example"));
    fake_zone_fault("sick.example", (enum dns_type)0, FAKE_TIMEOUT);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena arena = ARENA_WITH_LIMIT(16 * MIB);
    struct bytes rest = bytes_of(data, MIN_OF(size, (size_t)8192));
    CLEANUP(buffer_free) struct buffer received = BUFFER_WITH_LIMIT(MIB);
    struct spf_request request = {.client = {ENDPOINT_IPV4, {192, 0, 2, 3}},
                                  .receiver = "mx.example"};
    const struct auth_dns dns = {.arena = &arena, .deadline_us = DEADLINE_NEVER};
    struct spf_facts facts;

    fill_zone(&rest);
    request.helo = next_piece(&rest);
    request.from = (struct address){rest, BYTES_LITERAL("a.example")};
    spf_check(&dns, &request, &facts);
    INVARIANT(facts.lookups <= SPF_LOOKUPS_MAX + 1 &&
              facts.void_lookups <= SPF_VOID_LOOKUPS_MAX + 1);
    spf_print_received(&received, &request, &facts);
    const struct bytes text = buffer_view(&received);
    struct header_walk walk = HEADER_WALK_OF(text);
    struct header_field field;
    INVARIANT(header_next(&walk, &field) && field.whole.count == text.count);
    arena_clear(&arena);
    return 0;
}
