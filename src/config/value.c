/*
 * One value as written -> the member of a struct. Never allocates but from the arena; says in words
 * why a value will not do.
 */
#include "config/options.h"

#include <string.h>

static void *member(const struct value_target *target, size_t offset)
{
    return (uint8_t *)target->base + offset;
}

static bool refuse(struct value_target *target, struct bytes text, const char *what)
{
    snprintf(target->why, sizeof target->why, "\"%.*s\" %s", QUOTED_PRINT(text), what);
    return false;
}

bool hostname_is_valid(struct bytes name)
{
    struct bytes rest = name;

    if (name.count == 0 || name.count > 253)
        return false;
    while (rest.count > 0) {
        struct bytes label = BYTES_EMPTY;
        const bool last = bytes_find_byte(rest, '.') == rest.count;
        rest = bytes_cut(rest, '.', &label);
        if (label.count == 0 || label.count > 63 || label.at[0] == '-' ||
            label.at[label.count - 1] == '-' || (!last && rest.count == 0))
            return false;
        for (size_t i = 0; i < label.count; i++)
            if (!ascii_is_alnum(label.at[i]) && label.at[i] != '-' && label.at[i] != '_')
                return false;
    }
    return true;
}

/* ------------------------------------------------------------------ where mail goes */

enum { SMTP_PORT = 25, SMTPS_PORT = 465 };

static bool host_and_port(struct bytes text, uint64_t port, struct config_deliver *deliver)
{
    const size_t colon = bytes_find_last_byte(text, ':');

    if (endpoint_parse(text, &deliver->endpoint)) {
        deliver->port = deliver->endpoint.port;
        return deliver->endpoint.family == ENDPOINT_UNIX || deliver->port != 0;
    }
    deliver->endpoint = (struct endpoint){0};
    deliver->host = bytes_slice(text, 0, colon);
    if (colon < text.count &&
        (!bytes_to_u64(bytes_skip(text, colon + 1), &port) || port == 0 || port > UINT16_MAX))
        return false;
    deliver->port = (uint16_t)port;
    if (ip_parse(deliver->host, &deliver->endpoint.ip)) {
        deliver->endpoint.family = deliver->endpoint.ip.family;
        deliver->endpoint.port = deliver->port;
        deliver->host = BYTES_EMPTY;
        return true;
    }
    return hostname_is_valid(deliver->host);
}

static const struct {
    const char *prefix;
    enum deliver_kind kind;
    bool implicit_tls;
} DELIVER_KINDS[] = {{"maildir:", DELIVER_MAILDIR, false},
                     {"lmtp:", DELIVER_LMTP, false},
                     {"smtp:", DELIVER_SMTP, false},
                     {"smtps:", DELIVER_SMTP, true},
                     {"pipe:", DELIVER_PIPE, false}};

bool config_parse_deliver(struct bytes text, struct config_deliver *deliver)
{
    *deliver = (struct config_deliver){0};
    if (text.count == 0)
        return true;
    for (size_t i = 0; i < COUNT_OF(DELIVER_KINDS); i++) {
        const struct bytes prefix = bytes_of_text(DELIVER_KINDS[i].prefix);
        if (!bytes_starts_with(text, prefix))
            continue;
        deliver->kind = DELIVER_KINDS[i].kind;
        deliver->target = bytes_skip(text, prefix.count);
        deliver->implicit_tls = DELIVER_KINDS[i].implicit_tls;
        if (deliver->kind == DELIVER_MAILDIR || deliver->kind == DELIVER_PIPE)
            return deliver->target.count > 0;
        return host_and_port(deliver->target, deliver->implicit_tls ? SMTPS_PORT : SMTP_PORT,
                             deliver);
    }
    return false;
}

void deliver_print(struct buffer *into, const struct config_deliver *deliver)
{
    for (size_t i = 0; i < COUNT_OF(DELIVER_KINDS); i++)
        if (deliver->kind == DELIVER_KINDS[i].kind &&
            deliver->implicit_tls == DELIVER_KINDS[i].implicit_tls)
            buffer_print(into, "%s%.*s", DELIVER_KINDS[i].prefix, BYTES_PRINT(deliver->target));
}

bool config_next_delivery(struct bytes *rest, struct config_deliver *deliver)
{
    struct bytes word = BYTES_EMPTY;

    while (rest->count > 0 && word.count == 0)
        *rest = bytes_cut(*rest, ' ', &word);
    return word.count > 0 && config_parse_deliver(word, deliver) && deliver->kind != DELIVER_PIPE &&
           (deliver->kind != DELIVER_MAILDIR || deliver->target.at[0] == '/');
}

bool config_parse_next_hop(struct bytes text, struct config_deliver *deliver)
{
    return config_parse_deliver(text, deliver) &&
           (deliver->kind == DELIVER_SMTP || deliver->kind == DELIVER_LMTP);
}

static bool set_deliver(struct value_target *target, const struct option_row *row,
                        struct bytes text)
{
    struct config_deliver deliver;
    const bool parsed = config_parse_deliver(arena_copy(target->arena, text), &deliver);

    if (!parsed)
        return refuse(
            target, text,
            row->type == OPTION_NEXT_HOP
                ? "is not smtp:HOST:PORT, smtps:HOST:PORT, lmtp:HOST:PORT or lmtp:unix:PATH"
                : "is not maildir:PATH, lmtp:unix:PATH, lmtp:HOST:PORT, smtp:HOST:PORT "
                  "or pipe:NAME");
    if (row->type == OPTION_NEXT_HOP &&
        (deliver.kind == DELIVER_MAILDIR || deliver.kind == DELIVER_PIPE))
        return refuse(target, text, "is not a next hop: only smtp: and lmtp: are");
    if ((row->fallback == NULL || row->type == OPTION_DELIVER) && deliver.kind == DELIVER_NONE)
        return refuse(target, text, "names no way of delivery");
    memcpy(member(target, row->offset), &deliver, sizeof deliver);
    return true;
}

/* ------------------------------------------------------------------ texts */

static bool set_text(struct value_target *target, size_t offset, struct bytes text)
{
    const char *copy = arena_text(target->arena, text);

    if (!copy)
        return refuse(target, text, "needs more memory than there is");
    memcpy(member(target, offset), &copy, sizeof copy);
    return true;
}

static bool set_lower(struct value_target *target, size_t offset, struct bytes text)
{
    char *copy = arena_text(target->arena, text);

    if (!copy)
        return refuse(target, text, "needs more memory than there is");
    for (char *at = copy; *at; at++)
        *at = (char)ascii_lower((uint8_t)*at);
    memcpy(member(target, offset), &copy, sizeof copy);
    return true;
}

static bool has_prefix_and_rest(struct bytes text, const char *const *prefixes)
{
    for (; *prefixes; prefixes++)
        if (bytes_starts_with(text, bytes_of_text(*prefixes)))
            return text.count > strlen(*prefixes);
    return false;
}

static bool set_users(struct value_target *target, const struct option_row *row, struct bytes text)
{
    static const char *const sources[] = {"file:",    "sqlite:",       "ldap://", "ldaps://",
                                          "ldapi://", "postgresql://", NULL};

    if (text.count > 0 && !has_prefix_and_rest(text, sources))
        return refuse(target, text,
                      "is not file:PATH, sqlite:FILE?..., ldap://... or postgresql://...");
    return set_text(target, row->offset, text);
}

static bool set_address(struct value_target *target, const struct option_row *row,
                        struct bytes text)
{
    const size_t at = bytes_find_last_byte(text, '@');
    bool sound = at > 0 && at < text.count && hostname_is_valid(bytes_skip(text, at + 1));

    for (size_t i = 0; i < text.count; i++)
        sound = sound && ascii_is_print(text.at[i]) && text.at[i] != ' ';
    if (text.count > 0 && !sound)
        return refuse(target, text, "is not an address like user@example.com");
    return set_text(target, row->offset, text);
}

static bool set_character(struct value_target *target, const struct option_row *row,
                          struct bytes text)
{
    if (text.count > 1 || (text.count == 1 && (!ascii_is_print(text.at[0]) ||
                                               ascii_is_alnum(text.at[0]) || text.at[0] == '@')))
        return refuse(target, text, "is not one mark like + or -");
    *(char *)member(target, row->offset) = text.count ? (char)text.at[0] : 0;
    return true;
}

/* ------------------------------------------------------------------ numbers */

static bool in_bounds(struct value_target *target, const struct option_row *row, struct bytes text,
                      uint64_t value)
{
    if (value < row->min)
        return refuse(target, text, "is too small");
    return value <= row->max || refuse(target, text, "is too large");
}

static bool set_duration(struct value_target *target, const struct option_row *row,
                         struct bytes text)
{
    uint64_t value = 0;

    if (!duration_parse(text, &value))
        return refuse(target, text, "is not a duration like 30s, 5m, 4h or 5d");
    if (!in_bounds(target, row, text, value))
        return false;
    memcpy(member(target, row->offset), &value, sizeof value);
    return true;
}

static bool set_size(struct value_target *target, const struct option_row *row, struct bytes text)
{
    uint64_t value = 0;

    if (!size_parse(text, &value))
        return refuse(target, text, "is not a size like 1000, 64K or 50M");
    if (!in_bounds(target, row, text, value))
        return false;
    memcpy(member(target, row->offset), &value, sizeof value);
    return true;
}

static bool set_count(struct value_target *target, const struct option_row *row, struct bytes text)
{
    uint64_t value = 0;

    if (!bytes_to_u64(text, &value))
        return refuse(target, text, "is not a number");
    if (!in_bounds(target, row, text, value))
        return false;
    const uint32_t wide = (uint32_t)value;
    const uint16_t narrow = (uint16_t)value;
    if (row->type == OPTION_PORT)
        memcpy(member(target, row->offset), &narrow, sizeof narrow);
    else
        memcpy(member(target, row->offset), &wide, sizeof wide);
    return true;
}

/* Up to nine digits before and six behind the point, so that no number is too exact for a double.
 */
static bool set_score(struct value_target *target, const struct option_row *row, struct bytes text)
{
    struct bytes whole = BYTES_EMPTY;
    const bool negative = text.count > 0 && text.at[0] == '-';
    const struct bytes fraction = bytes_cut(bytes_skip(text, negative), '.', &whole);
    uint64_t integer = 0, parts = 0;
    double scale = 1;

    if (whole.count > 9 || fraction.count > 6 || !bytes_to_u64(whole, &integer) ||
        (fraction.count > 0 && !bytes_to_u64(fraction, &parts)))
        return refuse(target, text, "is not a number like 15 or 7.5");
    for (size_t i = 0; i < fraction.count; i++)
        scale *= 10;
    const double size = (double)integer + (double)parts / scale;
    const double value = negative ? -size : size;
    memcpy(member(target, row->offset), &value, sizeof value);
    return true;
}

static bool set_flag(struct value_target *target, const struct option_row *row, struct bytes text)
{
    static const char *const words[] = {"no", "yes", "false", "true", "off", "on"};

    for (size_t i = 0; i < COUNT_OF(words); i++) {
        if (!bytes_equal_text(text, words[i]))
            continue;
        *(bool *)member(target, row->offset) = i % 2 == 1;
        return true;
    }
    return refuse(target, text, "is not yes or no");
}

static bool set_word(struct value_target *target, const struct option_row *row, struct bytes text)
{
    size_t used = 0;

    for (const struct word *word = row->words; word->text; word++) {
        if (!bytes_equal_text(text, word->text))
            continue;
        memcpy(member(target, row->offset), &word->value, sizeof word->value);
        return true;
    }
    refuse(target, text, "is none of");
    for (const struct word *word = row->words; word->text; word++) {
        used = strlen(target->why);
        snprintf(target->why + used, sizeof target->why - used, "%s %s",
                 word == row->words ? "" : ",", word->text);
    }
    return false;
}

/* ------------------------------------------------------------------ places in the net */

static bool set_endpoint(struct value_target *target, const struct option_row *row,
                         struct bytes text)
{
    struct endpoint *endpoint = member(target, row->offset);

    if (text.count == 0 && row->type == OPTION_ENDPOINT_OR_NONE) {
        *endpoint = (struct endpoint){0};
        return true;
    }
    return endpoint_parse(text, endpoint) ||
           refuse(target, text, "is not IP:PORT, [IPv6]:PORT or unix:PATH");
}

/* "dovecot:" and the endpoint of its auth-client socket. */
static bool set_passwords(struct value_target *target, const struct option_row *row,
                          struct bytes text)
{
    static const struct bytes dovecot = BYTES_LITERAL("dovecot:");
    struct endpoint *endpoint = member(target, row->offset);

    *endpoint = (struct endpoint){0};
    if (text.count == 0)
        return true;
    return (bytes_starts_with(text, dovecot) &&
            endpoint_parse(bytes_skip(text, dovecot.count), endpoint)) ||
           refuse(target, text, "is not dovecot:unix:PATH or dovecot:IP:PORT");
}

static bool set_ip(struct value_target *target, const struct option_row *row, struct bytes text)
{
    struct ip_address *ip = member(target, row->offset);
    const enum endpoint_family family = row->min == 4 ? ENDPOINT_IPV4 : ENDPOINT_IPV6;

    *ip = (struct ip_address){0};
    if (text.count == 0 || (ip_parse(text, ip) && ip->family == family))
        return true;
    return refuse(target, text,
                  row->min == 4 ? "is not an IPv4 address" : "is not an IPv6 address");
}

static bool network_is_exact(const struct ip_network *network)
{
    for (unsigned bit = network->prefix_bits; bit < ip_bytes(&network->base) * 8; bit++)
        if (network->base.octets[bit / 8] & (0x80 >> bit % 8))
            return false;
    return true;
}

static bool parse_step(struct bytes text, struct config_retry_step *step)
{
    static const char joint[] = " until ";
    const size_t at = bytes_find(text, bytes_of_text(joint));

    *step = (struct config_retry_step){0};
    if (!duration_parse(bytes_trim(bytes_slice(text, 0, at)), &step->every_us) ||
        step->every_us < 10 * US_PER_MS || step->every_us > 365 * 86400 * US_PER_S)
        return false;
    if (at == text.count)
        return true;
    return duration_parse(bytes_trim(bytes_skip(text, at + sizeof joint - 1)), &step->until_us) &&
           step->until_us > 0;
}

static size_t list_item_size(enum option_type type)
{
    return type == OPTION_NETWORKS ? sizeof(struct ip_network)
           : type == OPTION_STEPS  ? sizeof(struct config_retry_step)
           : type == OPTION_TEXTS  ? sizeof(const char *)
                                   : sizeof(struct endpoint);
}

bool value_list_begin(struct value_target *target, const struct option_row *row, size_t count)
{
    void *items = count ? arena_take_array(target->arena, count, list_item_size(row->type)) : NULL;
    const unsigned none = 0;

    if (count && !items)
        return refuse(target, BYTES_EMPTY, "needs more memory than there is");
    memcpy(member(target, row->offset), &items, sizeof(void *));
    memcpy(member(target, row->count_offset), &none, sizeof none);
    return true;
}

/* Behind the items so far; value_list_begin made the room. */
static bool list_add(struct value_target *target, const struct option_row *row, struct bytes text)
{
    unsigned *count = member(target, row->count_offset);
    uint8_t *items = NULL;

    memcpy(&items, member(target, row->offset), sizeof items);
    void *item = items + *count * list_item_size(row->type);
    if (row->type == OPTION_NETWORKS) {
        if (!ip_network_parse(text, item))
            return refuse(target, text, "is not a network like 192.0.2.0/24");
        if (!network_is_exact(item))
            return refuse(target, text, "has bits set behind its prefix");
    } else if (row->type == OPTION_RESOLVERS) {
        if (!endpoint_parse_resolver(text, item))
            return refuse(target, text, "is not IP or IP@PORT");
    } else if (row->type == OPTION_TEXTS) {
        const char *copy = arena_text(target->arena, text);
        if (!copy)
            return refuse(target, text, "needs more memory than there is");
        memcpy(item, &copy, sizeof copy);
    } else if (row->type == OPTION_STEPS) {
        if (!parse_step(text, item))
            return refuse(target, text, "is not a wait like 5m or \"1h until 6h\"");
    } else if (!endpoint_parse(text, item)) {
        return refuse(target, text, "is not IP:PORT, [IPv6]:PORT or unix:PATH");
    }
    ++*count;
    return true;
}

bool value_set(struct value_target *target, const struct option_row *row, struct bytes text)
{
    switch (row->type) {
    case OPTION_TEXT:
        return set_text(target, row->offset, text);
    case OPTION_PATH:
        return text.count > 0 ? set_text(target, row->offset, text)
                              : refuse(target, text, "is not a path");
    case OPTION_HOSTNAME:
        return hostname_is_valid(text) || (text.count == 0 && row->fallback)
                   ? set_lower(target, row->offset, text)
                   : refuse(target, text, "is not a host name");
    case OPTION_ADDRESS:
        return set_address(target, row, text);
    case OPTION_CHARACTER:
        return set_character(target, row, text);
    case OPTION_USERS:
    case OPTION_ALIASES:
        return set_users(target, row, text);
    case OPTION_DELIVER:
    case OPTION_NEXT_HOP:
        return set_deliver(target, row, text);
    case OPTION_ENDPOINT:
    case OPTION_ENDPOINT_OR_NONE:
        return set_endpoint(target, row, text);
    case OPTION_PASSWORDS:
        return set_passwords(target, row, text);
    case OPTION_IP:
        return set_ip(target, row, text);
    case OPTION_DURATION:
        return set_duration(target, row, text);
    case OPTION_SIZE:
        return set_size(target, row, text);
    case OPTION_COUNT:
    case OPTION_PORT:
        return set_count(target, row, text);
    case OPTION_SCORE:
        return set_score(target, row, text);
    case OPTION_FLAG:
        return set_flag(target, row, text);
    case OPTION_WORD:
        return set_word(target, row, text);
    case OPTION_NETWORKS:
    case OPTION_RESOLVERS:
    case OPTION_ENDPOINTS:
    case OPTION_STEPS:
    case OPTION_TEXTS:
        return list_add(target, row, text);
    }
    return false;
}

static size_t parts_count(struct bytes text)
{
    size_t count = text.count > 0;

    for (size_t i = 0; i < text.count; i++)
        count += text.at[i] == ',';
    return count;
}

bool value_set_fallback(struct value_target *target, const struct option_row *row)
{
    struct bytes rest = bytes_of_text(row->fallback), part = BYTES_EMPTY;

    if (!row->fallback) /* it must be given; until then nothing reads it */
        return true;
    if (!option_is_list(row))
        return value_set(target, row, rest);
    if (!value_list_begin(target, row, parts_count(rest)))
        return false;
    while (rest.count > 0) {
        rest = bytes_cut(rest, ',', &part);
        if (!value_set(target, row, part))
            return false;
    }
    return true;
}
