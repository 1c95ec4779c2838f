/*
 * The effective configuration in the language of the file, and the manual's tables: both straight
 * from the table of settings.
 */
#include "config/options.h"

#include <string.h>

/* Double quotes, unless libconfuse would read ${...} in them. */
static void print_quoted(struct buffer *into, struct bytes text)
{
    const uint8_t quote = bytes_find_byte(text, '$') < text.count ? '\'' : '"';

    buffer_add_byte(into, quote);
    for (size_t i = 0; i < text.count; i++) {
        if (text.at[i] == quote || text.at[i] == '\\')
            buffer_add_byte(into, '\\');
        buffer_add_byte(into, text.at[i]);
    }
    buffer_add_byte(into, quote);
}

static void print_duration(struct buffer *into, uint64_t duration_us)
{
    static const struct {
        uint64_t factor;
        const char *unit;
    } units[] = {{86400 * US_PER_S, "d"},
                 {3600 * US_PER_S, "h"},
                 {60 * US_PER_S, "m"},
                 {US_PER_S, "s"},
                 {US_PER_MS, "ms"}};

    for (size_t i = 0; i < COUNT_OF(units); i++) {
        if (duration_us == 0 || duration_us % units[i].factor != 0)
            continue;
        buffer_print(into, "%llu%s", (unsigned long long)(duration_us / units[i].factor),
                     units[i].unit);
        return;
    }
    buffer_add_text(into, "0");
}

static void print_size(struct buffer *into, uint64_t size_bytes)
{
    const char *const units = "GMK";

    for (unsigned i = 0; i < 3; i++) {
        const uint64_t factor = UINT64_C(1) << (10 * (3 - i));
        if (size_bytes == 0 || size_bytes % factor != 0)
            continue;
        buffer_print(into, "%llu%c", (unsigned long long)(size_bytes / factor), units[i]);
        return;
    }
    buffer_print(into, "%llu", (unsigned long long)size_bytes);
}

static void print_endpoint(struct buffer *into, const struct endpoint *endpoint)
{
    char text[ENDPOINT_TEXT_MAX];
    const bool none = endpoint->family == ENDPOINT_NONE;

    print_quoted(into, bytes_of_text(none ? "" : endpoint_print(endpoint, text, sizeof text)));
}

static void print_step(struct buffer *into, const struct config_retry_step *step)
{
    if (step->until_us != 0)
        buffer_add_text(into, "\"");
    print_duration(into, step->every_us);
    if (step->until_us == 0)
        return;
    buffer_add_text(into, " until ");
    print_duration(into, step->until_us);
    buffer_add_text(into, "\"");
}

static void print_item(struct buffer *into, enum option_type type, const void *items, unsigned i)
{
    const struct ip_network *network = items;
    const struct endpoint *endpoint = items;
    char text[ENDPOINT_TEXT_MAX];

    if (type == OPTION_NETWORKS) {
        buffer_print(into, "\"%s/%u\"", ip_print(&network[i].base, text, sizeof text),
                     network[i].prefix_bits);
    } else if (type == OPTION_RESOLVERS) {
        buffer_print(into, "\"%s@%u\"", ip_print(&endpoint[i].ip, text, sizeof text),
                     endpoint[i].port);
    } else if (type == OPTION_TEXTS) {
        print_quoted(into, bytes_of_text(((const char *const *)items)[i]));
    } else if (type == OPTION_STEPS) {
        print_step(into, (const struct config_retry_step *)items + i);
    } else {
        print_endpoint(into, &endpoint[i]);
    }
}

static void print_list(struct buffer *into, const struct option_row *row, const uint8_t *base)
{
    const void *items = NULL;
    unsigned count = 0;

    memcpy(&items, base + row->offset, sizeof items);
    memcpy(&count, base + row->count_offset, sizeof count);
    buffer_add_text(into, "{");
    for (unsigned i = 0; i < count; i++) {
        buffer_add_text(into, i ? ", " : "");
        print_item(into, row->type, items, i);
    }
    buffer_add_text(into, "}");
}

static void print_score(struct buffer *into, double score)
{
    buffer_print(into, "%.6f", score);
    while (into->count > 1 && into->at[into->count - 1] == '0' && into->at[into->count - 2] != '.')
        into->count--;
}

static void print_word(struct buffer *into, const struct option_row *row, const uint8_t *at)
{
    unsigned value = 0;

    memcpy(&value, at, sizeof value);
    for (const struct word *word = row->words; word->text; word++) {
        if (word->value != value)
            continue;
        buffer_add_text(into, word->text);
        return;
    }
}

static void print_text(struct buffer *into, const uint8_t *at)
{
    const char *text = NULL;

    memcpy(&text, at, sizeof text);
    print_quoted(into, bytes_of_text(text));
}

static void print_deliver(struct buffer *into, const struct config_deliver *deliver)
{
    CLEANUP(buffer_free) struct buffer text = BUFFER_WITH_LIMIT(64 * KIB);

    deliver_print(&text, deliver);
    print_quoted(into, buffer_view(&text));
}

static void print_passwords(struct buffer *into, const struct endpoint *endpoint)
{
    char text[sizeof "dovecot:" + ENDPOINT_TEXT_MAX] = "", at[ENDPOINT_TEXT_MAX];

    if (endpoint->family != ENDPOINT_NONE)
        snprintf(text, sizeof text, "dovecot:%s", endpoint_print(endpoint, at, sizeof at));
    print_quoted(into, bytes_of_text(text));
}

static void print_ip(struct buffer *into, const struct ip_address *ip)
{
    char text[ENDPOINT_TEXT_MAX] = "";

    if (ip->family != ENDPOINT_NONE)
        ip_print(ip, text, sizeof text);
    print_quoted(into, bytes_of_text(text));
}

void value_print(struct buffer *into, const struct option_row *row, const void *base)
{
    const uint8_t *at = (const uint8_t *)base + row->offset;

    switch (row->type) {
    case OPTION_TEXT:
    case OPTION_PATH:
    case OPTION_HOSTNAME:
    case OPTION_ADDRESS:
    case OPTION_USERS:
    case OPTION_ALIASES:
        print_text(into, at);
        break;
    case OPTION_CHARACTER:
        print_quoted(into, bytes_of(at, *at != 0));
        break;
    case OPTION_DELIVER:
    case OPTION_NEXT_HOP:
        print_deliver(into, (const void *)at);
        break;
    case OPTION_ENDPOINT:
    case OPTION_ENDPOINT_OR_NONE:
        print_endpoint(into, (const void *)at);
        break;
    case OPTION_IP:
        print_ip(into, (const void *)at);
        break;
    case OPTION_PASSWORDS:
        print_passwords(into, (const void *)at);
        break;
    case OPTION_DURATION:
        print_duration(into, *(const uint64_t *)(const void *)at);
        break;
    case OPTION_SIZE:
        print_size(into, *(const uint64_t *)(const void *)at);
        break;
    case OPTION_COUNT:
        buffer_print(into, "%u", *(const uint32_t *)(const void *)at);
        break;
    case OPTION_PORT:
        buffer_print(into, "%u", *(const uint16_t *)(const void *)at);
        break;
    case OPTION_SCORE:
        print_score(into, *(const double *)(const void *)at);
        break;
    case OPTION_FLAG:
        buffer_add_text(into, *(const bool *)(const void *)at ? "yes" : "no");
        break;
    case OPTION_WORD:
        print_word(into, row, at);
        break;
    case OPTION_NETWORKS:
    case OPTION_RESOLVERS:
    case OPTION_ENDPOINTS:
    case OPTION_STEPS:
    case OPTION_TEXTS:
        print_list(into, row, base);
        break;
    }
}

static void print_options(struct buffer *into, enum section section, const void *base,
                          const char *indent)
{
    for (size_t i = 0; i < OPTIONS_COUNT; i++) {
        if (OPTIONS[i].section != section)
            continue;
        buffer_print(into, "%s%s = ", indent, OPTIONS[i].name);
        value_print(into, &OPTIONS[i], base);
        buffer_add_text(into, "\n");
    }
}

static void print_section(struct buffer *into, enum section section, const char *title,
                          const void *base)
{
    buffer_print(into, "\n%s ", SECTIONS[section].name);
    if (title) {
        print_quoted(into, bytes_of_text(title));
        buffer_add_text(into, " ");
    }
    buffer_add_text(into, "{\n");
    print_options(into, section, base, "    ");
    buffer_add_text(into, "}\n");
}

void config_print(struct buffer *into, const struct config *config)
{
    print_options(into, SECTION_ROOT, config, "");
    for (unsigned i = 0; i < config->listen_count; i++)
        print_section(into, SECTION_LISTEN, config->listens[i].name, &config->listens[i]);
    for (unsigned i = 0; i < config->domain_count; i++)
        print_section(into, SECTION_DOMAIN, config->domains[i].name, &config->domains[i]);
    for (unsigned i = 0; i < config->pipe_count; i++)
        print_section(into, SECTION_PIPE, config->pipes[i].name, &config->pipes[i]);
    for (unsigned i = 0; i < config->route_count; i++)
        print_section(into, SECTION_ROUTE, config->routes[i].domain, &config->routes[i]);
    for (unsigned i = 0; i < config->destination_count; i++)
        print_section(into, SECTION_DESTINATION, config->destinations[i].name,
                      &config->destinations[i]);
    for (unsigned i = 0; i < config->verp_count; i++)
        print_section(into, SECTION_VERP, config->verps[i].sender, &config->verps[i]);
    for (unsigned i = 0; i < config->filter_count; i++)
        print_section(into, SECTION_FILTER, config->filters[i].name, &config->filters[i]);
    for (unsigned i = 0; i < config->dnsbl_count; i++)
        print_section(into, SECTION_DNSBL, config->dnsbls[i].name, &config->dnsbls[i]);
    for (unsigned i = 0; i < config->sign_count; i++)
        print_section(into, SECTION_SIGN, config->signs[i].name, &config->signs[i]);
    for (unsigned i = SECTION_ROOT + 1; i < SECTION_COUNT; i++)
        if (!SECTIONS[i].titled)
            print_section(into, (enum section)i, NULL, config);
}

/* ------------------------------------------------------------------ the manual */

static void manual_cell(struct buffer *into, const char *text)
{
    for (; *text; text++) {
        if (*text == '|')
            buffer_add_byte(into, '\\');
        buffer_add_byte(into, (uint8_t)*text);
    }
}

static void manual_values(struct buffer *into, const struct option_row *row)
{
    static const char *const kinds[] = {[OPTION_TEXT] = "text",
                                        [OPTION_PATH] = "path",
                                        [OPTION_HOSTNAME] = "host name",
                                        [OPTION_ADDRESS] = "address",
                                        [OPTION_CHARACTER] = "a mark",
                                        [OPTION_USERS] = "users",
                                        [OPTION_ALIASES] = "aliases",
                                        [OPTION_DELIVER] = "delivery",
                                        [OPTION_NEXT_HOP] = "next hop",
                                        [OPTION_ENDPOINT] = "endpoint",
                                        [OPTION_ENDPOINT_OR_NONE] = "endpoint or empty",
                                        [OPTION_PASSWORDS] = "passwords",
                                        [OPTION_IP] = "IP or empty",
                                        [OPTION_DURATION] = "duration",
                                        [OPTION_SIZE] = "size",
                                        [OPTION_COUNT] = "number",
                                        [OPTION_PORT] = "port",
                                        [OPTION_SCORE] = "score",
                                        [OPTION_FLAG] = "yes, no",
                                        [OPTION_NETWORKS] = "list of networks",
                                        [OPTION_RESOLVERS] = "list of resolvers",
                                        [OPTION_ENDPOINTS] = "list of endpoints",
                                        [OPTION_STEPS] = "list of waits",
                                        [OPTION_TEXTS] = "list of texts"};

    if (row->type == OPTION_WORD)
        for (const struct word *word = row->words; word->text; word++)
            buffer_print(into, "%s%s", word == row->words ? "" : ", ", word->text);
    else
        buffer_add_text(into, kinds[row->type]);
    if (row->type == OPTION_DURATION || row->type == OPTION_SIZE) {
        buffer_add_text(into, ", ");
        row->type == OPTION_SIZE ? print_size(into, row->min) : print_duration(into, row->min);
        buffer_add_text(into, " to ");
        row->type == OPTION_SIZE ? print_size(into, row->max) : print_duration(into, row->max);
    } else if (row->max != 0) {
        buffer_print(into, ", %llu to %llu", (unsigned long long)row->min,
                     (unsigned long long)row->max);
    }
}

static void manual_row(struct buffer *into, const struct option_row *row)
{
    buffer_print(into, "| `%s` | ", row->name);
    manual_values(into, row);
    buffer_add_text(into, " | ");
    if (!row->fallback)
        buffer_add_text(into, "must be given");
    else if (*row->fallback)
        buffer_print(into, "`%s`", row->fallback);
    else
        buffer_add_text(into, "empty");
    buffer_add_text(into, " | ");
    manual_cell(into, row->help);
    buffer_add_text(into, " |\n");
}

void config_print_manual(struct buffer *into)
{
    buffer_add_text(into, "# Settings\n\nMade from `src/config/options.def`; do not edit.\n");
    for (unsigned section = 0; section < SECTION_COUNT; section++) {
        const struct section_row *row = &SECTIONS[section];
        if (section == SECTION_ROOT)
            buffer_add_text(into, "\n## At the top\n");
        else
            buffer_print(into, "\n## `%s%s { ... }`\n", row->name, row->titled ? " TITLE" : "");
        buffer_print(into, "%s\n\n| setting | values | default | meaning |\n|---|---|---|---|\n",
                     row->help);
        for (size_t i = 0; i < OPTIONS_COUNT; i++)
            if (OPTIONS[i].section == (enum section)section)
                manual_row(into, &OPTIONS[i]);
    }
}
