/* DNS record data and names: whatever decodes has to be plain text within its limits. */
#include "resolve/codec.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_name(struct bytes name)
{
    char text[DNS_NAME_MAX + 2];

    INVARIANT(name.count <= DNS_NAME_MAX);
    INVARIANT(name.count == 0 || dns_name_text(name, text, sizeof text));
}

/* The first byte chooses the type. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const enum dns_type types[] = {DNS_A,  DNS_NS,  DNS_CNAME, DNS_SOA, DNS_PTR,
                                          DNS_MX, DNS_TXT, DNS_AAAA,  DNS_TLSA};
    struct arena arena = ARENA_WITH_LIMIT(MIB);
    struct dns_record record;
    char text[DNS_NAME_MAX + 2];

    if (size == 0)
        return 0;
    const struct bytes rest = bytes_of(data + 1, size - 1);

    if (dns_record_decode(&arena, types[data[0] % COUNT_OF(types)], rest, &record)) {
        check_name(record.name);
        INVARIANT(record.text.count <= rest.count);
    }
    if (dns_name_text(rest, text, sizeof text))
        INVARIANT(bytes_of_text(text).count > 0 && bytes_of_text(text).count <= DNS_NAME_MAX);
    arena_clear(&arena);
    return 0;
}
