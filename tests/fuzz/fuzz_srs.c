/*
 * Senders that were rewritten (SRS). The first line is a local part that comes back: it stands for
 * somebody only when our secret made it. Local part and domain of the second and third line are a
 * sender: what it is rewritten to leads back to it on the same day, to nobody when a letter of it
 * is changed, and to nobody with another secret.
 */
#include <string.h>

#include "directory/source.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { DAY = 700, MOST = 21 };
static const struct srs_secrets OURS = {{BYTES_LITERAL("0123456789abcdef")}, 1},
                                OTHERS = {{BYTES_LITERAL("fedcba9876543210")}, 1};

static bool leads(struct arena *arena, const struct srs_secrets *secrets, struct bytes local,
                  unsigned day, struct address *original)
{
    const struct lookup lookup =
        srs_decode(arena, secrets, local, (struct srs_time){day % SRS_DAYS, MOST}, original);

    INVARIANT(lookup.status != LOOKUP_FAILED);
    return lookup.status == LOOKUP_FOUND;
}

static void check_round(struct arena *arena, struct address sender, uint8_t where)
{
    const struct bytes made = srs_encode(arena, &OURS, sender, DAY);
    struct address back;

    INVARIANT(made.count > 0);
    uint8_t *changed = arena_take(arena, made.count);
    INVARIANT(changed);
    memcpy(changed, made.at, made.count);
    changed[where % made.count] ^= 0x05;
    INVARIANT(!leads(arena, &OTHERS, made, DAY, &back));
    INVARIANT(!leads(arena, &OURS, bytes_of(changed, made.count), DAY, &back) ||
              made.at[where % made.count] == changed[where % made.count] ||
              where % made.count == 4); /* the sign behind the tag is anybody's choice */
    if (made.at[3] != '0')              /* to who rewrote it first, whose affair its age is */
        return;
    INVARIANT(leads(arena, &OURS, made, DAY, &back) == domain_is_valid(sender.domain));
    INVARIANT(!leads(arena, &OURS, made, DAY + MOST + 1, &back));
    INVARIANT(!leads(arena, &OURS, made, DAY + SRS_DAYS - 1, &back));
    if (leads(arena, &OURS, made, DAY + MOST, &back))
        INVARIANT(bytes_equal(back.local, sender.local) && bytes_equal(back.domain, sender.domain));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena arena = ARENA_WITH_LIMIT(4 * MIB);
    struct bytes rest = bytes_of(data, MIN_OF(size, (size_t)2048)), line;
    struct address sender, back;

    rest = bytes_cut(rest, '\n', &line);
    /* A guess of 30 bits; what the corpus has was not made with this secret. */
    if (leads(&arena, &OURS, line, DAY, &back))
        INVARIANT(back.local.count > 0 && domain_is_valid(back.domain));
    rest = bytes_cut(rest, '\n', &sender.local);
    bytes_cut(rest, '\n', &sender.domain);
    if (bytes_find_byte(bytes_of(data, size), 0) < size) /* no address has one */
        sender.local = BYTES_EMPTY;
    if (sender.local.count > 0 && bytes_find_byte(sender.domain, '=') == sender.domain.count &&
        sender.domain.count > 0)
        check_round(&arena, sender, size > 0 ? data[size - 1] : 0);
    arena_clear(&arena);
    return 0;
}
