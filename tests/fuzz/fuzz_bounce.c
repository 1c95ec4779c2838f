/* Bounces: any bytes give an explanation, and every view of it lies where it may. */
#include "diagnose/diagnose.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena arena = ARENA_WITH_LIMIT(64 * MIB);
    const struct bytes message = bytes_of(data, MIN_OF(size, (size_t)65536));
    struct bounce *bounce = ARENA_NEW(&arena, struct bounce);
    CLEANUP(buffer_free) struct buffer text = BUFFER_WITH_LIMIT(8 * MIB);

    if (bounce && bounce_parse(&arena, message, bounce)) {
        INVARIANT(bounce->recipient_count <= BOUNCE_RECIPIENTS_MAX);
        json_t *made = explain_bounce(bounce);
        INVARIANT(json_is_string(json_object_get(made, "reason")));
        explain_print(&text, made);
        json_decref(made);
    }
    arena_clear(&arena);
    return 0;
}
