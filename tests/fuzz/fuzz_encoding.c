/* Base 64 and quoted-printable: what was encoded comes back; what is decoded is no longer than it
 * was. */
#include "crypto/crypto.h"
#include "mail/bounce.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena arena = ARENA_WITH_LIMIT(4 * MIB);
    const struct bytes text = bytes_of(data, MIN_OF(size, (size_t)65536));
    CLEANUP(buffer_free) struct buffer encoded = BUFFER_WITH_LIMIT(MIB);
    struct bytes plain = BYTES_EMPTY;

    base64_encode(&encoded, text);
    INVARIANT(base64_decode(&arena, buffer_view(&encoded), &plain) && bytes_equal(plain, text));
    if (base64_decode(&arena, text, &plain))
        INVARIANT(plain.count <= text.count);
    INVARIANT(mime_decode_base64(&arena, text).count <= text.count);
    INVARIANT(mime_decode_quoted(&arena, text).count <= text.count);
    arena_clear(&arena);
    return 0;
}
