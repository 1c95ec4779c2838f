/* DMARC records and From fields: parsing ends, and an author is only ever a name. */
#include "../unit/fake_zone.h"
#include "auth/auth.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena arena = ARENA_WITH_LIMIT(16 * MIB);
    struct bytes text = BYTES_EMPTY;
    const struct bytes from = bytes_cut(bytes_of(data, MIN_OF(size, (size_t)4096)), 0, &text);
    CLEANUP(buffer_free) struct buffer head = BUFFER_WITH_LIMIT(64 * KIB);
    const struct auth_dns dns = {.arena = &arena, .deadline_us = DEADLINE_NEVER};
    const struct spf_facts spf = {.result = AUTH_PASS, .domain = BYTES_LITERAL("b.a.example")};
    struct dmarc_record record;
    struct dmarc_facts facts;
    struct bytes author = BYTES_EMPTY;

    const enum auth_result parsed = dmarc_parse(text, &record);
    INVARIANT(parsed == AUTH_NONE || parsed == AUTH_PASS || parsed == AUTH_PERMERROR);
    fake_zone_clear();
    fake_zone_add("_dmarc.a.example", DNS_TXT, text);
    buffer_add_text(&head, "From: ");
    buffer_add(&head, from);
    buffer_add_text(&head, "\r\n\r\n");
    dmarc_check(&dns, buffer_view(&head), &spf, NULL, &facts);
    INVARIANT(facts.author_domain.count <= 1024);
    if (auth_author_domain(&arena, buffer_view(&head), &author))
        for (size_t i = 0; i < author.count; i++)
            INVARIANT(author.at[i] > ' ' && author.at[i] != '@' && author.at[i] != '"' &&
                      author.at[i] != '<');
    arena_clear(&arena);
    return 0;
}
