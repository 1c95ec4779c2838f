/* Address lists: every address is a part of what was there, no longer than it, and the walk ends.
 */
#include "mail/mail.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    CLEANUP(buffer_free) struct buffer spec = BUFFER_WITH_LIMIT(MAIL_ADDRESS_MAX);
    struct address_list walk = {.rest = bytes_of(data, size)};
    size_t found = 0;

    while (address_list_next(&walk, &spec)) {
        INVARIANT(spec.count > 0 && spec.count <= size);
        found += spec.count;
    }
    INVARIANT(found <= size && walk.rest.count == 0);
    return 0;
}
