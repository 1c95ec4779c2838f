/*
 * A configuration of three files that include each other as they please: refused with words that
 * name a file and a line, or accepted and then printed as one file that means the same.
 *
 * Input: three texts with 0xff between them: main, "a" and "b". None holds a slash, so that no file
 * of this machine is read.
 */
#include <string.h>
#include <unistd.h>

#include "config/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { FILES = 3 };

static char folder[64], paths[FILES][80];

static void folder_forget(void)
{
    for (unsigned i = 0; i < FILES; i++)
        unlink(paths[i]);
    rmdir(folder);
}

static void folder_make(void)
{
    static const char *const names[FILES] = {"main", "a", "b"};

    snprintf(folder, sizeof folder, "%s/fuzz-config-XXXXXX",
             access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    INVARIANT(mkdtemp(folder) != NULL);
    for (unsigned i = 0; i < FILES; i++)
        snprintf(paths[i], sizeof paths[i], "%s/%s", folder, names[i]);
    INVARIANT(atexit(folder_forget) == 0);
}

static void file_put(const char *path, struct bytes text)
{
    FILE *file = fopen(path, "w");

    INVARIANT(file != NULL);
    INVARIANT(fwrite(text.at, 1, text.count, file) == text.count && fclose(file) == 0);
}

static void check_accepted(const struct config *config)
{
    CLEANUP(buffer_free) struct buffer text = BUFFER_WITH_LIMIT(16 * MIB);
    CLEANUP(buffer_free) struct buffer again = BUFFER_WITH_LIMIT(16 * MIB);
    struct config_errors none = {0};

    config_print(&text, config);
    struct config *printed = config_parse_bytes(buffer_view(&text), "printed", &none);
    INVARIANT(printed != NULL);
    config_print(&again, printed);
    INVARIANT(bytes_equal(buffer_view(&text), buffer_view(&again)));
    config_free(printed);
    config_errors_free(&none);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct bytes rest = bytes_of(data, MIN_OF(size, (size_t)16384)), part;
    struct config_errors errors = {0};

    if (bytes_find_byte(rest, '/') < rest.count)
        return 0;
    if (!folder[0])
        folder_make();
    for (unsigned i = 0; i < FILES; i++) {
        rest = bytes_cut(rest, 0xff, &part);
        file_put(paths[i], part);
    }
    struct config *config = config_load(paths[0], &errors);
    INVARIANT((config == NULL) == (errors.count > 0));
    if (config)
        check_accepted(config);
    config_free(config);
    config_errors_free(&errors);
    return 0;
}
