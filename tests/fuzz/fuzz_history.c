/* Rows of the history as a damaged database may give them: reading is bounded, and what was read
 * packs into what reads the same. */
#include "history/inside.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const int64_t BASE_US = INT64_C(1795512345000000);

static bool lies_within(struct bytes part, struct bytes whole)
{
    return part.count == 0 ||
           (part.at >= whole.at && part.at + part.count <= whole.at + whole.count);
}

static void check_again(const struct kept *kept)
{
    CLEANUP(buffer_free) struct buffer packed = BUFFER_WITH_LIMIT(MIB);
    struct kept again;

    kept_pack(&packed, kept, BASE_US);
    struct bytes rest = buffer_view(&packed);
    INVARIANT(kept_unpack(&rest, &again, BASE_US) && rest.count == 0);
    INVARIANT(again.kind == kept->kind && again.wall_us == kept->wall_us);
    for (unsigned i = 0; i < KEPT_NUMBERS; i++)
        INVARIANT(again.numbers[i] == kept->numbers[i]);
    for (unsigned i = 0; i < KEPT_TRANSCRIPT; i++)
        INVARIANT(bytes_equal(again.texts[i], kept->texts[i]));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct bytes whole = bytes_of(data, MIN_OF(size, (size_t)65536));
    struct bytes rest = whole;
    struct kept kept;

    while (rest.count > 0 && kept_unpack(&rest, &kept, BASE_US)) {
        for (unsigned i = 0; i < KEPT_TEXTS; i++)
            INVARIANT(lies_within(kept.texts[i], whole));
        check_again(&kept);
    }
    rest = whole;
    while (kept_read(&rest, &kept))
        for (unsigned i = 0; i < KEPT_TEXTS; i++)
            INVARIANT(lies_within(kept.texts[i], whole));
    return 0;
}
