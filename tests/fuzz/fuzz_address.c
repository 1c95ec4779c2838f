/* Paths, addresses and xtext: what is taken prints as something that is taken as the same. */
#include "mail/mail.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_again(struct arena *arena, struct address address)
{
    const struct bytes text = address_text(arena, address);
    struct address again;

    if (address.domain.count == 0)
        return;
    INVARIANT(domain_is_valid(address.domain));
    INVARIANT(address_parse(arena, text, &again) && address_equal(address, again));
}

static void check_xtext(struct arena *arena, struct bytes text)
{
    CLEANUP(buffer_free) struct buffer encoded = BUFFER_WITH_LIMIT(MIB);
    struct bytes plain, again;

    if (!xtext_decode(arena, text, &plain))
        return;
    xtext_encode(&encoded, plain);
    INVARIANT(xtext_decode(arena, buffer_view(&encoded), &again) && bytes_equal(plain, again));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena arena = ARENA_WITH_LIMIT(4 * MIB);
    const struct bytes text = bytes_of(data, MIN_OF(size, (size_t)4096));
    struct bytes rest = text;
    struct address address;

    if (address_parse(&arena, text, &address))
        check_again(&arena, address);
    if (address_parse_path(&arena, &rest, PATH_FORWARD, &address))
        check_again(&arena, address);
    rest = text;
    if (address_parse_path(&arena, &rest, PATH_REVERSE, &address))
        check_again(&arena, address);
    check_xtext(&arena, text);
    arena_clear(&arena);
    return 0;
}
