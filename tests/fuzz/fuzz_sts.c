/* MTA-STS and TLS-RPT: records, policies, patterns. */
#include "auth/auth.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena arena = ARENA_WITH_LIMIT(MIB);
    const struct bytes text = bytes_of(data, MIN_OF(size, (size_t)65536));
    struct sts_policy policy;
    struct bytes part = BYTES_EMPTY, host = BYTES_EMPTY;

    if (sts_parse_record(text, &part))
        INVARIANT(part.count >= 1 && part.count <= 32);
    if (tlsrpt_parse_record(text, &part))
        INVARIANT(part.count > 6);
    if (sts_parse_policy(&arena, text, &policy))
        for (unsigned i = 0; i < policy.mx_count; i++)
            (void)sts_matches(BYTES_LITERAL("mx.example"), policy.mx[i]);
    const struct bytes pattern = bytes_cut(text, '\n', &host);
    (void)sts_matches(host, pattern);
    arena_clear(&arena);
    return 0;
}
