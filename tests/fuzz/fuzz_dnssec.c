/* DS, DNSKEY and RRSIG as text: three lines of anything. */
#include "diagnose/dns_inside.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena arena = ARENA_WITH_LIMIT(MIB);
    struct bytes zone, ds, key;
    struct bytes rest = bytes_cut(bytes_of(data, size), '\n', &zone);

    rest = bytes_cut(rest, '\n', &ds);
    rest = bytes_cut(rest, '\n', &key);
    const bool named = dnssec_ds_names_key(&arena, zone, ds, key);
    INVARIANT(!named || (ds.count > 0 && key.count > 0));
    const int64_t end UNUSED = dnssec_signature_end(rest);
    arena_clear(&arena);
    return 0;
}
