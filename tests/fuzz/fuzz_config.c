/* Any bytes as a configuration: refused with words, or accepted and then printed to the same. */
#include <stdlib.h>
#include <string.h>

#include "config/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct config_errors errors = {0}, none = {0};
    struct buffer first = BUFFER_WITH_LIMIT(16 * MIB), second = BUFFER_WITH_LIMIT(16 * MIB);

    if (memmem(data, size, "include", 7)) /* other files are not the fuzzer's business */
        return 0;
    struct config *config = config_parse_bytes(bytes_of(data, size), "fuzz", &errors);
    INVARIANT((config == NULL) == (errors.count > 0));
    if (config) {
        config_print(&first, config);
        config_free(config);
        config = config_parse_bytes(buffer_view(&first), "printed", &none);
        INVARIANT(config != NULL);
        config_print(&second, config);
        INVARIANT(bytes_equal(buffer_view(&first), buffer_view(&second)));
        config_free(config);
    }
    buffer_free(&first);
    buffer_free(&second);
    config_errors_free(&errors);
    config_errors_free(&none);
    return 0;
}
