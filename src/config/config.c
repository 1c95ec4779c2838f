/*
 * From a text to the snapshot: scan, libconfuse, values, checks. All errors are gathered; any of
 * them means no snapshot.
 */
#include "config/options.h"

#include <confuse.h>
#include <pthread.h>
#include <stdarg.h>
#include <string.h>

#include "config/check.h"
#include "config/scan.h"

enum { ERRORS_MAX = 200, ERRORS_ROOM = 128 * 1024 };
#define ARENA_ROOM (64 * MIB)
#define FLAT_ROOM (16 * MIB)

void errors_add(struct config_errors *errors, struct place place, const char *format, ...)
{
    char words[600];
    va_list arguments;

    if (errors->text.limit_bytes == 0)
        errors->text.limit_bytes = ERRORS_ROOM;
    if (++errors->count > ERRORS_MAX)
        return;
    va_start(arguments, format);
    vsnprintf(words, sizeof words, format, arguments);
    va_end(arguments);
    /* Foreign bytes of the file stay visible, but cannot steer a terminal. */
    for (char *at = words; *at; at++)
        if ((unsigned char)*at < 0x20 || *at == 0x7f)
            *at = '?';
    buffer_print(&errors->text, "%s:%u: %s\n", place.file, place.line, words);
}

void config_errors_free(struct config_errors *errors)
{
    buffer_free(&errors->text);
    errors->count = 0;
}

/* ------------------------------------------------------------------ libconfuse */

/* libconfuse calls back without an argument, and its lexer is global: one reading at a time. */
static pthread_mutex_t reading = PTHREAD_MUTEX_INITIALIZER;
static struct scan *reading_scan;

PRINTF_LIKE(2, 0)
static void library_error(cfg_t *cfg, const char *format, va_list arguments)
{
    char words[300];
    const size_t line = cfg && cfg->line > 0 ? (size_t)cfg->line - 1 : 0;
    const size_t last = reading_scan->line_count ? reading_scan->line_count - 1 : 0;

    vsnprintf(words, sizeof words, format, arguments);
    if (reading_scan->line_count > 0)
        errors_add(reading_scan->errors, reading_scan->lines[MIN_OF(line, last)], "%s", words);
}

/* Every value is a string to libconfuse; this room reads them, since CFG_INT takes 010 for 8. */
static cfg_opt_t *library_options(enum section section, cfg_opt_t *into)
{
    for (size_t i = 0; i < OPTIONS_COUNT; i++) {
        if (OPTIONS[i].section != section)
            continue;
        const cfg_opt_t one = CFG_STR(OPTIONS[i].name, NULL, CFGF_NODEFAULT);
        const cfg_opt_t list = CFG_STR_LIST(OPTIONS[i].name, NULL, CFGF_NODEFAULT);
        *into++ = option_is_list(&OPTIONS[i]) ? list : one;
    }
    return into;
}

static cfg_t *library_open(void)
{
    /* Room for every setting and an end mark for every section. */
    cfg_opt_t *options = calloc(OPTIONS_COUNT + 3 * SECTION_COUNT + 1, sizeof *options);
    cfg_opt_t *starts[SECTION_COUNT];
    cfg_opt_t *next = options;
    const cfg_opt_t end = CFG_END();

    if (!options)
        return NULL;
    for (unsigned i = SECTION_ROOT + 1; i < SECTION_COUNT; i++) {
        starts[i] = next;
        next = library_options((enum section)i, next);
        *next++ = end;
    }
    starts[SECTION_ROOT] = next;
    next = library_options(SECTION_ROOT, next);
    for (unsigned i = SECTION_ROOT + 1; i < SECTION_COUNT; i++) {
        const cfg_opt_t section = CFG_SEC(SECTIONS[i].name, starts[i],
                                          CFGF_MULTI | (SECTIONS[i].titled ? CFGF_TITLE : 0));
        *next++ = section;
    }
    *next = end;
    cfg_t *cfg = cfg_init(starts[SECTION_ROOT], CFGF_NONE);
    free(options); /* cfg_init copied the table */
    return cfg;
}

/* NULL when libconfuse objected. Free with cfg_free. */
static cfg_t *library_read(struct scan *scan)
{
    cfg_t *cfg = library_open();

    if (!cfg)
        return NULL;
    cfg_set_error_function(cfg, library_error);
    reading_scan = scan;
    const int result = cfg_parse_buf(cfg, (const char *)scan->flat.at);
    reading_scan = NULL;
    if (result == CFG_SUCCESS)
        return cfg;
    cfg_free(cfg);
    return NULL;
}

/* ------------------------------------------------------------------ values */

/* One reading, from the library's tree into the snapshot. */
struct filling {
    struct config *config;
    struct scan *scan;
    cfg_t *cfg;
};

static struct place filling_place(const struct filling *filling, const struct option_row *row,
                                  unsigned instance)
{
    const struct statement *statement = scan_find(filling->scan, row->section, instance, row);

    if (!statement)
        statement = scan_find(filling->scan, row->section, instance, NULL);
    return statement ? statement->at : (struct place){.file = filling->config->file, .line = 1};
}

/* "filter "clamav": timeout: " */
static void fill_complain(const struct filling *filling, const struct option_row *row,
                          unsigned instance, const char *why)
{
    const struct statement *head = scan_find(filling->scan, row->section, instance, NULL);
    const struct section_row *section = &SECTIONS[row->section];
    const bool titled = section->titled && head;

    errors_add(filling->scan->errors, filling_place(filling, row, instance), "%s%s%s%s%s%s%s%s",
               section->name, titled ? " \"" : "", titled ? head->title : "", titled ? "\"" : "",
               row->section == SECTION_ROOT ? "" : ": ", row->name, why[0] == ' ' ? "" : ": ", why);
}

static void fill_one(const struct filling *filling, struct value_target *target,
                     const struct option_row *row, unsigned instance, const char *value)
{
    if (!value_set(target, row, bytes_of_text(value)))
        fill_complain(filling, row, instance, target->why);
}

static void fill_option(const struct filling *filling, struct value_target *target,
                        const struct option_row *row, unsigned instance)
{
    cfg_t *section = row->section == SECTION_ROOT
                         ? filling->cfg
                         : cfg_getnsec(filling->cfg, SECTIONS[row->section].name, instance);

    if (!section || !scan_find(filling->scan, row->section, instance, row))
        return;
    const unsigned count = cfg_size(section, row->name);
    if (option_is_list(row) && !value_list_begin(target, row, count)) {
        fill_complain(filling, row, instance, target->why);
        return;
    }
    for (unsigned i = 0; i < count; i++) {
        const char *value = cfg_getnstr(section, row->name, i);
        fill_one(filling, target, row, instance, value ? value : "");
    }
}

static void fill_section(const struct filling *filling, enum section section, unsigned instance,
                         void *base)
{
    struct value_target target = {.arena = &filling->config->arena, .base = base};

    for (size_t i = 0; i < OPTIONS_COUNT; i++) {
        const struct option_row *row = &OPTIONS[i];
        if (row->section != section)
            continue;
        if (instance == 0 || SECTIONS[section].titled)
            if (!value_set_fallback(&target, row))
                fill_complain(filling, row, instance, target.why);
        fill_option(filling, &target, row, instance);
        if (!row->fallback && !scan_find(filling->scan, section, instance, row))
            fill_complain(filling, row, instance, " is missing");
    }
}

/* The array of a titled section, its titles in the first member of each. */
static void *fill_titled(const struct filling *filling, enum section section, unsigned *count)
{
    const size_t size = SECTIONS[section].size;

    *count = filling->scan->instances[section];
    uint8_t *array = *count ? arena_take_array(&filling->config->arena, *count, size) : NULL;
    if (!array)
        *count = 0;
    for (unsigned i = 0; i < *count; i++) {
        const char *title = scan_find(filling->scan, section, i, NULL)->title;
        char *name = arena_text(&filling->config->arena, bytes_of_text(title));
        memcpy(array + i * size, &name, sizeof name);
        fill_section(filling, section, i, array + i * size);
    }
    return array;
}

static void fill_all(const struct filling *filling)
{
    struct config *config = filling->config;

    for (unsigned i = 0; i < SECTION_COUNT; i++) {
        const unsigned given = filling->scan->instances[i];
        for (unsigned k = 0; !SECTIONS[i].titled && k < MAX_OF(given, 1U); k++)
            fill_section(filling, (enum section)i, k, config);
    }
    config->listens = fill_titled(filling, SECTION_LISTEN, &config->listen_count);
    config->domains = fill_titled(filling, SECTION_DOMAIN, &config->domain_count);
    config->pipes = fill_titled(filling, SECTION_PIPE, &config->pipe_count);
    config->routes = fill_titled(filling, SECTION_ROUTE, &config->route_count);
    config->filters = fill_titled(filling, SECTION_FILTER, &config->filter_count);
    config->destinations = fill_titled(filling, SECTION_DESTINATION, &config->destination_count);
    config->verps = fill_titled(filling, SECTION_VERP, &config->verp_count);
    config->dnsbls = fill_titled(filling, SECTION_DNSBL, &config->dnsbl_count);
    config->signs = fill_titled(filling, SECTION_SIGN, &config->sign_count);
    if (config->arena.failed)
        errors_add(filling->scan->errors, (struct place){.file = config->file, .line = 1},
                   "the configuration needs more memory than there is");
}

/* ------------------------------------------------------------------ the whole */

static struct config *config_open(const char *name)
{
    struct config *config = calloc(1, sizeof *config);

    if (!config)
        return NULL;
    config->arena = ARENA_WITH_LIMIT(ARENA_ROOM);
    config->file = arena_text(&config->arena, bytes_of_text(name));
    if (config->file)
        return config;
    config_free(config);
    return NULL;
}

static void config_fill(struct config *config, struct scan *scan)
{
    struct filling filling = {.config = config, .scan = scan};

    buffer_add_byte(&scan->flat, '\n');
    buffer_add_byte(&scan->flat, 0);
    if (scan->flat.failed) {
        errors_add(scan->errors, (struct place){.file = config->file, .line = 1},
                   "the configuration is too large");
        return;
    }
    pthread_mutex_lock(&reading);
    filling.cfg = library_read(scan);
    pthread_mutex_unlock(&reading);
    if (!filling.cfg) {
        if (scan->errors->count == 0)
            errors_add(scan->errors, (struct place){.file = config->file, .line = 1},
                       "the configuration could not be read");
        return;
    }
    fill_all(&filling);
    cfg_free(filling.cfg);
    config_check(config, scan);
}

/* `text` NULL: the file of that name. */
static struct config *config_read(const char *name, const struct bytes *text,
                                  struct config_errors *errors)
{
    struct config *config = config_open(name);
    struct scan scan = {.errors = errors, .flat = BUFFER_WITH_LIMIT(FLAT_ROOM)};

    if (!config) {
        errors_add(errors, (struct place){.file = name, .line = 1}, "no memory");
        return NULL;
    }
    scan.arena = &config->arena;
    if (text)
        scan_text(&scan, config->file, *text);
    else
        scan_file(&scan, config->file);
    if (errors->count == 0)
        config_fill(config, &scan);
    scan_free(&scan);
    if (errors->count == 0)
        return config;
    config_free(config);
    return NULL;
}

struct config *config_load(const char *file, struct config_errors *errors)
{
    return config_read(file, NULL, errors);
}

struct config *config_parse(const char *text, const char *name, struct config_errors *errors)
{
    const struct bytes view = bytes_of_text(text);

    return config_read(name, &view, errors);
}

struct config *config_parse_bytes(struct bytes text, const char *name, struct config_errors *errors)
{
    return config_read(name, &text, errors);
}

void config_free(struct config *config)
{
    if (!config)
        return;
    arena_clear(&config->arena);
    free(config);
}

/* ------------------------------------------------------------------ look-ups */

/* Both arrays are sorted by config_check; names are lower case. */
static const void *find_sorted(const void *array, unsigned count, size_t size, struct bytes name)
{
    size_t low = 0, high = count;

    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        const char *text = NULL;
        const uint8_t *row = (const uint8_t *)array + middle * size;
        memcpy(&text, row, sizeof text);
        const int order = name_compare(name, bytes_of_text(text));
        if (order == 0)
            return row;
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

void config_drop_path(const char *spool, char *into, size_t room)
{
    snprintf(into, room, "%s-drop", spool);
}

uint64_t config_filters_of(const struct config *config, const struct config_domain *domain)
{
    const uint64_t all = config->filter_count >= CONFIG_FILTERS_MAX
                             ? UINT64_MAX
                             : (UINT64_C(1) << config->filter_count) - 1;

    return domain ? all & ~domain->spared_filters : all;
}

const struct config_domain *config_find_domain(const struct config *config, struct bytes domain)
{
    return find_sorted(config->domains, config->domain_count, sizeof *config->domains, domain);
}

const struct config_pipe *config_find_pipe(const struct config *config, struct bytes name)
{
    for (unsigned i = 0; i < config->pipe_count; i++)
        if (bytes_equal_text(name, config->pipes[i].name))
            return &config->pipes[i];
    return NULL;
}

bool config_names(const char *list, struct bytes word)
{
    struct bytes rest = bytes_of_text(list ? list : ""), one;

    while (rest.count > 0) {
        rest = bytes_cut(rest, ' ', &one);
        if (one.count > 0 && bytes_equal(one, word))
            return true;
    }
    return false;
}

enum pipe_value config_pipe_value(const char *text, size_t *length)
{
    static const char *const words[PIPE_VALUES] = {[PIPE_USER] = "{user}",
                                                   [PIPE_DOMAIN] = "{domain}",
                                                   [PIPE_TAG] = "{tag}",
                                                   [PIPE_SENDER] = "{sender}",
                                                   [PIPE_RECIPIENT] = "{recipient}",
                                                   [PIPE_ORIGINAL] = "{original}",
                                                   [PIPE_CLIENT] = "{client}",
                                                   [PIPE_ID] = "{id}"};

    for (unsigned i = 0; i < PIPE_VALUES; i++) {
        *length = strlen(words[i]);
        if (strncmp(text, words[i], *length) == 0)
            return (enum pipe_value)i;
    }
    *length = 0;
    return PIPE_VALUES;
}

const struct config_route *config_find_route(const struct config *config, struct bytes domain)
{
    return find_sorted(config->routes, config->route_count, sizeof *config->routes, domain);
}
