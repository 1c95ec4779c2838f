/*
 * Macros in SPF domain-specs and explanations (RFC 7208 7).
 */
#include "auth/spf_inside.h"

#include <string.h>

enum { EXPANDED_MAX = 4096 };

static const char DOMAIN_LETTERS[] = "slodipvh";
static const char EXPLANATION_LETTERS[] = "slodipvhcrt";
static const char DELIMITERS[] = ".-+,/_=";

/* "%{" letter digits "r" delimiters "}" taken apart. */
struct macro {
    uint8_t letter;
    bool escape, reverse;
    uint64_t keep; /* labels from the right; 0: all */
    struct bytes delimiters;
};

static bool is_one_of(uint8_t byte, const char *set)
{
    return byte != 0 && strchr(set, byte) != NULL;
}

/* `inside` is what stands between the braces. */
static bool macro_parse(struct bytes inside, const char *letters, struct macro *macro)
{
    size_t i = 1;

    if (inside.count == 0 || !is_one_of(ascii_lower(inside.at[0]), letters))
        return false;
    *macro = (struct macro){.letter = ascii_lower(inside.at[0]), .escape = inside.at[0] < 'a'};
    while (i < inside.count && ascii_is_digit(inside.at[i]))
        i++;
    if (i > 1 && (!bytes_to_u64(bytes_slice(inside, 1, i - 1), &macro->keep) || macro->keep == 0))
        return false;
    if (i < inside.count && ascii_lower(inside.at[i]) == 'r') {
        macro->reverse = true;
        i++;
    }
    macro->delimiters = bytes_skip(inside, i);
    for (size_t k = 0; k < macro->delimiters.count; k++)
        if (!is_one_of(macro->delimiters.at[k], DELIMITERS))
            return false;
    return true;
}

/*
 * The next piece of a macro-string: a literal run, "%%", "%_", "%-", or a macro. Returns its
 * length, 0 when it is malformed. `literal` is what it stands for; its `at` is NULL for a macro.
 */
static size_t next_piece(struct bytes text, const char *letters, struct bytes *literal,
                         struct macro *macro)
{
    const size_t percent = bytes_find_byte(text, '%');

    if (percent > 0) {
        *literal = bytes_slice(text, 0, percent);
        return percent;
    }
    switch (text.count > 1 ? text.at[1] : 0) {
    case '%':
        *literal = BYTES_LITERAL("%");
        return 2;
    case '_':
        *literal = BYTES_LITERAL(" ");
        return 2;
    case '-':
        *literal = BYTES_LITERAL("%20");
        return 2;
    case '{':
        break;
    default:
        return 0;
    }
    const size_t close = bytes_find_byte(text, '}');
    *literal = BYTES_EMPTY;
    return close < text.count && macro_parse(bytes_slice(text, 2, close - 2), letters, macro)
               ? close + 1
               : 0;
}

static const char *letters_of(enum spf_macro_place place)
{
    return place == SPF_MACRO_DOMAIN ? DOMAIN_LETTERS : EXPLANATION_LETTERS;
}

bool spf_macro_valid(struct bytes text, enum spf_macro_place place)
{
    while (text.count > 0) {
        struct bytes literal = BYTES_EMPTY;
        struct macro macro;
        const size_t length = next_piece(text, letters_of(place), &literal, &macro);

        if (length == 0)
            return false;
        for (size_t i = 0; i < literal.count; i++)
            if (!ascii_is_print(literal.at[i]))
                return false;
        text = bytes_skip(text, length);
    }
    return true;
}

bool spf_macro_ends_text(struct bytes text)
{
    bool macro_was_last = false;

    while (text.count > 0) {
        struct bytes literal = BYTES_EMPTY;
        struct macro macro;
        const size_t length = next_piece(text, DOMAIN_LETTERS, &literal, &macro);

        if (length == 0)
            return false;
        macro_was_last = text.at[0] == '%';
        text = bytes_skip(text, length);
    }
    return macro_was_last;
}

static void add_sender(const struct spf_run *run, struct buffer *into)
{
    buffer_add(into, run->sender_local);
    buffer_add_byte(into, '@');
    buffer_add(into, run->sender_domain);
}

/* IPv4 dotted; IPv6 as 32 nibbles with dots (7.3). */
static void add_client(const struct spf_run *run, struct buffer *into)
{
    char text[ENDPOINT_TEXT_MAX];
    const struct ip_address *ip = &run->request->client;

    if (ip->family == ENDPOINT_IPV4) {
        buffer_add_text(into, ip_print(ip, text, sizeof text));
        return;
    }
    for (size_t i = 0; i < sizeof ip->octets; i++)
        buffer_print(into, "%s%X.%X", i ? "." : "", ip->octets[i] >> 4, ip->octets[i] & 15);
}

static void add_validated(struct spf_run *run, struct bytes domain, struct buffer *into)
{
    struct bytes names[10];

    if (run->validated_name.count == 0) {
        const unsigned count = spf_validated_names(run, names, COUNT_OF(names));
        run->validated_name = count > 0 ? names[0] : BYTES_LITERAL("unknown");
        for (unsigned i = count; i-- > 0;)
            if (bytes_ends_with_nocase(names[i], domain) &&
                (names[i].count == domain.count ||
                 names[i].at[names[i].count - domain.count - 1] == '.'))
                run->validated_name = names[i];
        for (unsigned i = 0; i < count; i++)
            if (bytes_equal_nocase(names[i], domain))
                run->validated_name = names[i];
    }
    buffer_add(into, run->validated_name);
}

static void add_value(struct spf_run *run, uint8_t letter, struct bytes domain, struct buffer *into)
{
    char text[ENDPOINT_TEXT_MAX];

    switch (letter) {
    case 's':
        add_sender(run, into);
        break;
    case 'l':
        buffer_add(into, run->sender_local);
        break;
    case 'o':
        buffer_add(into, run->sender_domain);
        break;
    case 'd':
        buffer_add(into, domain);
        break;
    case 'i':
        add_client(run, into);
        break;
    case 'p':
        add_validated(run, domain, into);
        break;
    case 'v':
        buffer_add_text(into, run->request->client.family == ENDPOINT_IPV4 ? "in-addr" : "ip6");
        break;
    case 'h':
        buffer_add(into, run->helo);
        break;
    case 'c':
        buffer_add_text(into, ip_print(&run->request->client, text, sizeof text));
        break;
    case 'r':
        buffer_add_text(into, run->request->receiver && *run->request->receiver
                                  ? run->request->receiver
                                  : "unknown");
        break;
    default: /* 't' */
        buffer_print(into, "%lld", (long long)(clock_wall_us() / 1000000));
        break;
    }
}

static void add_escaped(struct buffer *into, struct bytes text, bool escape)
{
    for (size_t i = 0; i < text.count; i++) {
        if (!escape || ascii_is_alnum(text.at[i]) || is_one_of(text.at[i], "-._~"))
            buffer_add_byte(into, text.at[i]);
        else
            buffer_print(into, "%%%02X", text.at[i]);
    }
}

/* Splits at the delimiters, keeps the rightmost parts (of the reversed order, if so), joins by
 * dots. */
static void add_transformed(struct buffer *into, const struct macro *macro, struct bytes value)
{
    struct bytes parts[256];
    size_t count = 0, start = 0;

    for (size_t i = 0; i <= value.count && count < COUNT_OF(parts); i++) {
        const bool cut =
            i == value.count ||
            (macro->delimiters.count > 0
                 ? bytes_find_byte(macro->delimiters, value.at[i]) < macro->delimiters.count
                 : value.at[i] == '.');
        if (!cut)
            continue;
        parts[count++] = bytes_slice(value, start, i - start);
        start = i + 1;
    }
    const size_t kept = macro->keep > 0 && macro->keep < count ? (size_t)macro->keep : count;
    for (size_t i = 0; i < kept; i++) {
        if (i > 0)
            buffer_add_byte(into, '.');
        add_escaped(into, macro->reverse ? parts[kept - 1 - i] : parts[count - kept + i],
                    macro->escape);
    }
}

static void expand_macro(struct spf_run *run, const struct macro *macro, struct bytes domain,
                         struct buffer *into)
{
    CLEANUP(buffer_free) struct buffer value = BUFFER_WITH_LIMIT(EXPANDED_MAX);

    add_value(run, macro->letter, domain, &value);
    if (macro->reverse || macro->keep > 0 || macro->delimiters.count > 0)
        add_transformed(into, macro, buffer_view(&value));
    else
        add_escaped(into, buffer_view(&value), macro->escape);
}

bool spf_macro_expand(struct spf_run *run, struct bytes text, struct bytes domain,
                      struct bytes *expanded)
{
    CLEANUP(buffer_free) struct buffer into = BUFFER_WITH_LIMIT(EXPANDED_MAX);

    while (text.count > 0) {
        struct bytes literal = BYTES_EMPTY;
        struct macro macro;
        const size_t length = next_piece(text, EXPLANATION_LETTERS, &literal, &macro);

        if (length == 0)
            return false;
        if (literal.at)
            buffer_add(&into, literal);
        else
            expand_macro(run, &macro, domain, &into);
        text = bytes_skip(text, length);
    }
    *expanded = arena_copy(run->dns->arena, buffer_view(&into));
    return !into.failed && (expanded->count > 0 || into.count == 0);
}
