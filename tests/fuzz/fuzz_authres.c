/* Authentication-Results: what is read ends; and what is left of a header holds no field in our
 * name. */
#include "policy/authenticate.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char OURS[] = "mx.example";

/* The message through the door in pieces of `piece` octets. */
static void pass(struct bytes message, size_t piece, struct buffer *kept)
{
    static struct policy policy;
    struct authentication *it = calloc(1, sizeof *it);
    struct transaction transaction = {.authentication = it};
    struct bytes part = BYTES_EMPTY;

    INVARIANT(it != NULL);
    it->policy = &policy;
    it->exempt = true;
    it->strip.authserv_id = OURS;
    const struct verdict begun = policy_body_begin(&transaction);
    INVARIANT(verdict_accepts(&begun));
    for (size_t at = 0; at < message.count; at += piece) {
        INVARIANT(policy_body_add(&transaction, bytes_slice(message, at, piece), &part));
        buffer_add(kept, part);
    }
    INVARIANT(policy_body_end(&transaction, &part));
    buffer_add(kept, part);
    policy_transaction_end(&transaction);
}

static void nothing_is_ours(struct bytes message)
{
    struct header_walk walk = HEADER_WALK_OF(message);
    struct header_field field;

    while (header_next(&walk, &field))
        if (bytes_equal_text_nocase(field.name, "authentication-results"))
            INVARIANT(!authres_claims(field.value, OURS));
}

/* Lines end in CR LF by the time that policy sees them. */
static void make_lines(struct bytes text, struct buffer *into)
{
    for (size_t i = 0; i < text.count; i++) {
        if (text.at[i] == '\r')
            continue;
        if (text.at[i] == '\n')
            buffer_add_byte(into, '\r');
        buffer_add_byte(into, text.at[i]);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena arena = ARENA_WITH_LIMIT(16 * MIB);
    const struct bytes text = bytes_of(data, MIN_OF(size, (size_t)65536));
    CLEANUP(buffer_free)
    struct buffer message = BUFFER_WITH_LIMIT(MIB), whole = BUFFER_WITH_LIMIT(MIB),
                  pieces = BUFFER_WITH_LIMIT(MIB);
    struct authres_item items[8];
    unsigned count = COUNT_OF(items);
    struct bytes id = BYTES_EMPTY;

    if (authres_parse(&arena, text, &id, items, &count))
        INVARIANT(count <= COUNT_OF(items));
    make_lines(text, &message);
    pass(buffer_view(&message), MAX_OF(message.count, (size_t)1), &whole);
    pass(buffer_view(&message), 1, &pieces);
    INVARIANT(bytes_equal(buffer_view(&whole), buffer_view(&pieces)));
    nothing_is_ours(buffer_view(&whole));
    arena_clear(&arena);
    return 0;
}
