/* An answer to a direct question, then the same bytes as an SPF record and as a key record. */
#include "auth/auth.h"
#include "resolve/direct.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct direct_question question = {.name = {(const uint8_t *)"mail.example", 12},
                                                    .type = DNS_MX};
    struct arena arena = ARENA_WITH_LIMIT(4 * MIB);
    const struct bytes message = bytes_of(data, size);
    struct direct_answer answer = {0};
    struct spf_term_facts *terms = NULL;
    struct dkim_key_facts facts;
    unsigned count = 0;

    if (direct_decode(&arena, &question, message, &answer))
        for (unsigned i = 0; i < answer.answer_count; i++)
            INVARIANT(answer.answers[i].data.count <= 4 * MIB);
    if (spf_lint_is_record(message))
        INVARIANT(bytes_starts_with_nocase(message, BYTES_LITERAL("v=spf1")));
    if (spf_lint(&arena, message, &terms, &count))
        for (unsigned i = 0; i < count; i++)
            INVARIANT(terms[i].offset + terms[i].text.count <= size &&
                      terms[i].fault_offset <= size);
    if (dkim_key_lint(&arena, message, &facts) == NULL)
        INVARIANT(!facts.revoked);
    arena_clear(&arena);
    return 0;
}
