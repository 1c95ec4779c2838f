/*
 * The structure of a configuration: statements, sections, includes; every name known, none twice.
 * Stops at the first error of structure in a file, since what follows would be nonsense, and
 * reports all other errors.
 */
#include "config/scan.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config/lex.h"

enum { INCLUDE_DEPTH = 10, FILES_MAX = 64, FILE_MAX = 1024 * 1024, STATEMENTS_MAX = 1000000 };

/* One file under the scan. */
struct source {
    struct scan *scan;
    const char *name;
    struct lexer lexer;
    unsigned depth;
    /* the open section */
    enum section section; /* SECTION_COUNT: an unknown one */
    unsigned instance, opened_line;
    bool inside;
};

static struct place place_of(const struct source *source, unsigned line)
{
    return (struct place){.file = source->name, .line = line};
}

static bool grow(void **array, size_t *room, size_t count, size_t size)
{
    if (count < *room)
        return true;
    const size_t wanted = *room ? *room * 2 : 64;
    void *larger = wanted > STATEMENTS_MAX ? NULL : realloc(*array, wanted * size);
    if (!larger)
        return false;
    *array = larger;
    *room = wanted;
    return true;
}

/* The token goes to libconfuse on a line of its own origin. */
static void flat_add(struct source *source, const struct token *token)
{
    struct scan *scan = source->scan;
    const struct place *last = scan->line_count ? &scan->lines[scan->line_count - 1] : NULL;

    if (last && last->file == source->name && last->line == token->line) {
        buffer_add_byte(&scan->flat, ' ');
    } else {
        void *lines = scan->lines;
        if (!grow(&lines, &scan->line_room, scan->line_count, sizeof *scan->lines)) {
            scan->flat.failed = true;
            return;
        }
        scan->lines = lines;
        if (scan->line_count > 0)
            buffer_add_byte(&scan->flat, '\n');
        scan->lines[scan->line_count++] = place_of(source, token->line);
    }
    buffer_add(&scan->flat, token->raw);
}

static struct token source_next(struct source *source)
{
    return lexer_next(&source->lexer);
}

static bool complain(struct source *source, const struct token *token, const char *expected)
{
    const struct place place = place_of(source, token->line);

    if (token->kind == TOKEN_BAD)
        errors_add(source->scan->errors, place, "%s", token->why);
    else if (token->kind == TOKEN_END && source->inside)
        errors_add(source->scan->errors, place_of(source, source->opened_line),
                   "the section that begins here is not closed");
    else if (token->kind == TOKEN_END)
        errors_add(source->scan->errors, place, "the text ends where %s was expected", expected);
    else
        errors_add(source->scan->errors, place, "\"%.*s\" stands where %s was expected",
                   QUOTED_PRINT(token->raw), expected);
    return false;
}

static bool is_mark(const struct token *token, uint8_t mark)
{
    return token->kind == TOKEN_MARK && token->mark == mark;
}

static bool is_value(const struct token *token)
{
    return token->kind == TOKEN_WORD || token->kind == TOKEN_STRING;
}

/* ------------------------------------------------------------------ what was said where */

static size_t place_by_number(const struct scan *scan, enum section section, unsigned instance)
{
    size_t place = (section * 0x9e3779b1U + instance) & (scan->head_room - 1);

    for (; scan->heads[place] != 0; place = (place + 1) & (scan->head_room - 1)) {
        const struct statement *head = &scan->statements[scan->heads[place] - 1];
        if (head->section == section && head->instance == instance)
            break;
    }
    return place;
}

static size_t place_by_title(const struct scan *scan, enum section section, struct bytes title)
{
    size_t place = (size_t)(bytes_hash_nocase(title) >> 16) & (scan->head_room - 1);

    for (; scan->titles[place] != 0; place = (place + 1) & (scan->head_room - 1)) {
        const struct statement *head = &scan->statements[scan->titles[place] - 1];
        if (head->section == section && bytes_equal_text_nocase(title, head->title))
            break;
    }
    return place;
}

/* A title that was there before keeps its first place. */
static void heads_put(struct scan *scan, uint32_t number)
{
    const struct statement *head = &scan->statements[number - 1];
    uint32_t *by_title =
        &scan->titles[place_by_title(scan, head->section, bytes_of_text(head->title))];

    scan->heads[place_by_number(scan, head->section, head->instance)] = number;
    if (*by_title == 0)
        *by_title = number;
}

/* Room for one more head; both tables are made anew at twice the size. */
static bool heads_grow(struct scan *scan)
{
    const size_t room = scan->head_room ? 2 * scan->head_room : 64;

    if (2 * (scan->head_count + 1) <= scan->head_room)
        return true;
    uint32_t *heads = calloc(room, sizeof *heads), *titles = calloc(room, sizeof *titles);
    if (!heads || !titles) {
        free(heads);
        free(titles);
        return false;
    }
    free(scan->heads);
    free(scan->titles);
    scan->heads = heads;
    scan->titles = titles;
    scan->head_room = room;
    for (size_t i = 0; i < scan->count; i++)
        if (!scan->statements[i].option)
            heads_put(scan, (uint32_t)i + 1);
    return true;
}

/* The settings of one section stand behind its head, up to the next one. */
static const struct statement *find_behind(const struct scan *scan, size_t head,
                                           const struct option_row *option)
{
    for (size_t i = head + 1; i < scan->count && scan->statements[i].option; i++)
        if (scan->statements[i].option == option)
            return &scan->statements[i];
    return NULL;
}

const struct statement *scan_find(const struct scan *scan, enum section section, unsigned instance,
                                  const struct option_row *option)
{
    if (section == SECTION_ROOT) {
        for (size_t i = 0; i < scan->count && option; i++)
            if (scan->statements[i].option == option)
                return &scan->statements[i];
        return NULL;
    }
    const uint32_t number =
        scan->head_room ? scan->heads[place_by_number(scan, section, instance)] : 0;
    if (number == 0 || !option)
        return number ? &scan->statements[number - 1] : NULL;
    return find_behind(scan, number - 1, option);
}

static void remember(struct source *source, const struct statement *statement)
{
    struct scan *scan = source->scan;
    void *statements = scan->statements;

    if (!statement->option && !heads_grow(scan)) {
        scan->flat.failed = true;
        return;
    }
    if (!grow(&statements, &scan->room, scan->count, sizeof *scan->statements)) {
        scan->flat.failed = true;
        return;
    }
    scan->statements = statements;
    scan->statements[scan->count++] = *statement;
    if (!statement->option) {
        scan->head_count++;
        heads_put(scan, (uint32_t)scan->count);
    }
}

/* The same setting before, in any instance if the section has no titles. */
static const struct statement *find_earlier(const struct source *source,
                                            const struct option_row *option)
{
    const struct scan *scan = source->scan;
    const unsigned first = SECTIONS[source->section].titled ? source->instance : 0;

    for (unsigned i = first; i <= source->instance; i++) {
        const struct statement *earlier = scan_find(scan, source->section, i, option);
        if (earlier)
            return earlier;
    }
    return NULL;
}

static const struct statement *find_title(const struct scan *scan, enum section section,
                                          struct bytes title)
{
    const uint32_t number =
        scan->head_room ? scan->titles[place_by_title(scan, section, title)] : 0;

    return number ? &scan->statements[number - 1] : NULL;
}

/* ------------------------------------------------------------------ settings */

static bool scan_list(struct source *source)
{
    for (;;) {
        const struct token value = source_next(source);
        flat_add(source, &value);
        if (is_mark(&value, '}'))
            return true;
        if (!is_value(&value))
            return complain(source, &value, "a value");
        const struct token mark = source_next(source);
        flat_add(source, &mark);
        if (is_mark(&mark, '}'))
            return true;
        if (!is_mark(&mark, ','))
            return complain(source, &mark, "\",\" or \"}\"");
    }
}

/* Known, and not said before? */
static const struct option_row *scan_option_name(struct source *source, const struct token *name)
{
    struct scan *scan = source->scan;
    const struct place place = place_of(source, name->line);

    if (source->section == SECTION_COUNT)
        return NULL;
    const struct option_row *option = option_find(source->section, name->inner);
    if (!option) {
        errors_add(scan->errors, place, "unknown setting \"%.*s\"%s%s", QUOTED_PRINT(name->inner),
                   source->inside ? " in section " : "", SECTIONS[source->section].name);
        return NULL;
    }
    const struct statement *earlier = find_earlier(source, option);
    if (earlier)
        errors_add(scan->errors, place, "\"%s\" was already set at %s:%u", option->name,
                   earlier->at.file, earlier->at.line);
    remember(source, &(struct statement){.section = source->section,
                                         .instance = source->instance,
                                         .option = option,
                                         .at = place});
    return option;
}

static bool scan_setting(struct source *source, const struct token *name)
{
    const struct option_row *option = scan_option_name(source, name);
    const struct token value = source_next(source);

    flat_add(source, &value);
    if (is_value(&value))
        return true;
    if (!is_mark(&value, '{'))
        return complain(source, &value, "a value");
    if (option && !option_is_list(option))
        errors_add(source->scan->errors, place_of(source, value.line),
                   "\"%s\" takes one value, not a list", option->name);
    return scan_list(source);
}

/* ------------------------------------------------------------------ sections */

static bool scan_section_body(struct source *source)
{
    for (;;) {
        const struct token name = source_next(source);
        flat_add(source, &name);
        if (is_mark(&name, '}'))
            return true;
        if (name.kind != TOKEN_WORD)
            return complain(source, &name, "a setting's name or \"}\"");
        const struct token mark = source_next(source);
        flat_add(source, &mark);
        if (is_mark(&mark, '=')) {
            if (!scan_setting(source, &name))
                return false;
        } else if (is_mark(&mark, '{') || is_value(&mark)) {
            errors_add(source->scan->errors, place_of(source, mark.line),
                       "a section may not begin inside another; is the one of line %u closed?",
                       source->opened_line);
            return false;
        } else {
            return complain(source, &mark, "\"=\"");
        }
    }
}

/* Checks the section's name and title, and gives it its number. */
static void section_enter(struct source *source, const struct token *name,
                          const struct token *title)
{
    struct scan *scan = source->scan;
    const struct place place = place_of(source, name->line);
    const struct bytes words = title ? title->inner : BYTES_EMPTY;

    source->inside = true;
    source->opened_line = name->line;
    source->section = section_find(name->inner);
    if (source->section == SECTION_COUNT) {
        errors_add(scan->errors, place, "unknown section \"%.*s\"", QUOTED_PRINT(name->inner));
        return;
    }
    if (SECTIONS[source->section].titled != (title != NULL))
        errors_add(scan->errors, place,
                   title ? "section %s takes no title" : "section %s needs a title",
                   SECTIONS[source->section].name);
    const struct statement *earlier = title ? find_title(scan, source->section, words) : NULL;
    if (earlier)
        errors_add(scan->errors, place, "%s \"%.*s\" already stands at %s:%u",
                   SECTIONS[source->section].name, QUOTED_PRINT(words), earlier->at.file,
                   earlier->at.line);
    source->instance = scan->instances[source->section]++;
    const char *kept = arena_text(scan->arena, words);
    remember(source, &(struct statement){.section = source->section,
                                         .instance = source->instance,
                                         .title = kept ? kept : "",
                                         .at = place});
}

/* `next` is the title or the opening brace, and already in the flat text. */
static bool scan_section(struct source *source, const struct token *name, const struct token *next)
{
    const bool titled = is_value(next);

    if (titled) {
        const struct token brace = source_next(source);
        flat_add(source, &brace);
        if (!is_mark(&brace, '{'))
            return complain(source, &brace, "\"{\" or \"=\"");
    }
    section_enter(source, name, titled ? next : NULL);
    const bool closed = scan_section_body(source);
    source->inside = false;
    source->section = SECTION_ROOT;
    source->instance = 0;
    return closed;
}

/* ------------------------------------------------------------------ files */

static void scan_source(struct source *source);

/* "-" is standard input; what is included is a plain file, so that reading it ends. -1: see errno.
 */
static int open_plain(const char *path, unsigned depth)
{
    struct stat facts;

    if (depth == 0 && strcmp(path, "-") == 0)
        return fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 0);
    const int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | (depth ? O_NONBLOCK : 0));
    if (depth == 0 || descriptor < 0 || (fstat(descriptor, &facts) == 0 && S_ISREG(facts.st_mode)))
        return descriptor;
    close(descriptor);
    errno = EINVAL;
    return -1;
}

/* Reads the file into the arena. */
static bool read_whole(struct source *source, struct place from, struct bytes *text)
{
    struct scan *scan = source->scan;
    const char *path = source->name;
    const int descriptor = open_plain(path, source->depth);
    size_t count = 0;

    if (descriptor < 0) {
        errors_add(scan->errors, from, "cannot open %s: %s", path, strerror(errno));
        return false;
    }
    uint8_t *memory = malloc(FILE_MAX + 1);
    ssize_t got = memory ? 1 : -1;
    while (got > 0 && count <= FILE_MAX) {
        got = read(descriptor, memory + count, FILE_MAX + 1 - count);
        count += got > 0 ? (size_t)got : 0;
    }
    if (got < 0)
        errors_add(scan->errors, from, "cannot read %s: %s", path, strerror(errno));
    else if (count > FILE_MAX)
        errors_add(scan->errors, from, "%s is larger than 1 MiB", path);
    else
        *text = arena_copy(scan->arena, bytes_of(memory, count));
    free(memory);
    close(descriptor);
    return got >= 0 && count <= FILE_MAX && (count == 0 || text->count == count);
}

static void scan_path(struct scan *scan, const char *path, struct place from, unsigned depth)
{
    struct bytes text = BYTES_EMPTY;
    struct source source = {.scan = scan, .name = path, .depth = depth};

    if (depth > INCLUDE_DEPTH || ++scan->files > FILES_MAX) {
        errors_add(scan->errors, from, "too many files include each other (%s)", path);
        return;
    }
    if (!read_whole(&source, from, &text))
        return;
    source.lexer = (struct lexer){.text = text, .line = 1};
    scan_source(&source);
}

/* Relative to the file that includes, not to wherever the server was started. */
static const char *included_path(const struct source *source, struct bytes name)
{
    const struct bytes here = bytes_of_text(source->name);
    const size_t slash = bytes_find_last_byte(here, '/');

    if (name.count > 0 && name.at[0] == '/')
        return arena_text(source->scan->arena, name);
    const struct bytes folder = slash == here.count ? BYTES_EMPTY : bytes_slice(here, 0, slash + 1);
    return (const char *)arena_print(source->scan->arena, "%.*s%.*s", BYTES_PRINT(folder),
                                     BYTES_PRINT(name))
        .at;
}

static bool scan_include(struct source *source, const struct token *name)
{
    const struct token path = source_next(source);

    if (!bytes_equal_text(name->inner, "include"))
        return complain(source, name, "a setting");
    if (!is_value(&path))
        return complain(source, &path, "a file name");
    const struct token mark = source_next(source);
    if (!is_mark(&mark, ')'))
        return complain(source, &mark, "\")\"");
    const char *file = included_path(source, path.inner);
    if (!file || !*file)
        errors_add(source->scan->errors, place_of(source, path.line), "include names no file");
    else
        scan_path(source->scan, file, place_of(source, path.line), source->depth + 1);
    return true;
}

/* Marks of an include are not for libconfuse, so a name is passed on only once it is known to be
 * none. */
static void scan_source(struct source *source)
{
    bool sound = true;

    while (sound) {
        const struct token name = source_next(source);
        if (name.kind == TOKEN_END)
            return;
        if (name.kind != TOKEN_WORD) {
            complain(source, &name, "a setting or a section");
            return;
        }
        const struct token next = source_next(source);
        if (is_mark(&next, '(')) {
            sound = scan_include(source, &name);
            continue;
        }
        flat_add(source, &name);
        flat_add(source, &next);
        if (is_mark(&next, '='))
            sound = scan_setting(source, &name);
        else if (is_mark(&next, '{') || is_value(&next))
            sound = scan_section(source, &name, &next);
        else
            sound = complain(source, &next, "\"=\" or \"{\"");
    }
}

void scan_text(struct scan *scan, const char *name, struct bytes text)
{
    struct source source = {.scan = scan, .name = name, .lexer = {.text = text, .line = 1}};

    scan_source(&source);
}

void scan_file(struct scan *scan, const char *path)
{
    scan_path(scan, path, (struct place){.file = path, .line = 1}, 0);
}

void scan_free(struct scan *scan)
{
    free(scan->statements);
    free(scan->lines);
    free(scan->heads);
    free(scan->titles);
    buffer_free(&scan->flat);
    scan->statements = NULL;
    scan->lines = NULL;
}
