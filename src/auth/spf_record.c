/*
 * The grammar of SPF records (RFC 7208 4.6.1, 5, 6, 12): a whole record is checked before any of it
 * is evaluated, so a syntax error anywhere is a permanent error.
 */
#include "auth/spf_inside.h"

static const struct {
    const char *name;
    enum spf_mechanism mechanism;
} MECHANISMS[] = {
    {"all", SPF_ALL}, {"include", SPF_INCLUDE}, {"a", SPF_A},     {"mx", SPF_MX},
    {"ptr", SPF_PTR}, {"ip4", SPF_IP4},         {"ip6", SPF_IP6}, {"exists", SPF_EXISTS},
};

bool spf_is_record(struct bytes txt)
{
    return bytes_starts_with_nocase(txt, BYTES_LITERAL("v=spf1")) &&
           (txt.count == 6 || txt.at[6] == ' ');
}

static bool is_name_byte(uint8_t byte)
{
    return ascii_is_alnum(byte) || byte == '-' || byte == '_' || byte == '.';
}

/* The run of name bytes at the front, when it starts with a letter. */
static struct bytes leading_name(struct bytes text)
{
    size_t end = 0;

    if (text.count == 0 || !ascii_is_alpha(text.at[0]))
        return BYTES_EMPTY;
    while (end < text.count && is_name_byte(text.at[end]))
        end++;
    return bytes_slice(text, 0, end);
}

/* toplabel: letters, digits and inner hyphens, not digits alone (RFC 7208 7.1). */
static bool is_toplabel(struct bytes label)
{
    bool only_digits = true;

    if (label.count == 0 || label.at[0] == '-' || label.at[label.count - 1] == '-')
        return false;
    for (size_t i = 0; i < label.count; i++) {
        if (!ascii_is_alnum(label.at[i]) && label.at[i] != '-')
            return false;
        only_digits = only_digits && ascii_is_digit(label.at[i]);
    }
    return !only_digits;
}

/* domain-spec: a macro-string that ends in a macro or in a dot and a toplabel. */
static bool is_domain_spec(struct bytes text)
{
    if (text.count == 0 || !spf_macro_valid(text, SPF_MACRO_DOMAIN))
        return false;
    if (spf_macro_ends_text(text))
        return true;
    if (text.at[text.count - 1] == '.')
        text.count--;
    const size_t dot = bytes_find_last_byte(text, '.');
    return dot < text.count && is_toplabel(bytes_skip(text, dot + 1));
}

/* Takes "/digits" from the end of *text. False: there is one, and it is bad. */
static bool take_prefix(struct bytes *text, unsigned most, unsigned *prefix)
{
    size_t digits = 0;
    uint64_t value = 0;

    while (digits < text->count && ascii_is_digit(text->at[text->count - 1 - digits]))
        digits++;
    const size_t slash = text->count - digits;
    if (slash == 0 || text->at[slash - 1] != '/')
        return true;
    const struct bytes number = bytes_skip(*text, slash);
    if (!bytes_to_u64(number, &value) || value > most || (number.count > 1 && number.at[0] == '0'))
        return false;
    *prefix = (unsigned)value;
    text->count = slash - 1;
    return true;
}

/* dual-cidr-length at the end of *text: "/24", "//64", "/24//64". */
static bool take_dual_prefix(struct bytes *text, struct spf_term *term)
{
    struct bytes six = *text;
    unsigned prefix = 0;

    if (!take_prefix(&six, 128, &prefix))
        return false;
    if (six.count < text->count && six.count > 0 && six.at[six.count - 1] == '/') {
        term->prefix6 = prefix;
        text->count = six.count - 1;
    }
    return take_prefix(text, 32, &term->prefix4);
}

static bool parse_network(struct bytes argument, struct spf_term *term)
{
    const bool six = term->mechanism == SPF_IP6;
    const unsigned most = six ? 128 : 32;
    unsigned prefix = most;

    if (!take_prefix(&argument, most, &prefix) || bytes_find_byte(argument, '/') < argument.count)
        return false;
    /* The text form decides the family: an IPv4-mapped address is still an ip6 network. */
    if ((bytes_find_byte(argument, ':') < argument.count) != six ||
        !ip_parse(argument, &term->network.base))
        return false;
    if (six && term->network.base.family == ENDPOINT_IPV4)
        prefix = prefix > 96 ? prefix - 96 : 0;
    term->network.prefix_bits = prefix;
    return true;
}

/* `rest` is what follows the mechanism's name: empty, ":argument", "/prefix", or both. */
static bool parse_argument(struct bytes rest, struct spf_term *term)
{
    const bool colon = rest.count > 0 && rest.at[0] == ':';

    switch (term->mechanism) {
    case SPF_ALL:
        return rest.count == 0;
    case SPF_IP4:
    case SPF_IP6:
        return colon && parse_network(bytes_skip(rest, 1), term);
    case SPF_A:
    case SPF_MX:
        if (!take_dual_prefix(&rest, term))
            return false;
        break;
    case SPF_PTR:
        break;
    case SPF_INCLUDE:
    case SPF_EXISTS:
        if (!colon)
            return false;
        break;
    }
    if (rest.count == 0)
        return !colon;
    term->domain = bytes_skip(rest, 1);
    return colon && is_domain_spec(term->domain);
}

static bool parse_mechanism(struct bytes text, struct spf_term *term)
{
    static const struct {
        char sign;
        enum auth_result result;
    } qualifiers[] = {
        {'+', AUTH_PASS}, {'-', AUTH_FAIL}, {'~', AUTH_SOFTFAIL}, {'?', AUTH_NEUTRAL}};

    *term = (struct spf_term){.text = text, .qualified = AUTH_PASS, .prefix4 = 32, .prefix6 = 128};
    for (size_t i = 0; i < COUNT_OF(qualifiers); i++) {
        if (text.count > 0 && text.at[0] == qualifiers[i].sign) {
            term->qualified = qualifiers[i].result;
            text = bytes_skip(text, 1);
            break;
        }
    }
    const struct bytes name = leading_name(text);
    for (size_t i = 0; i < COUNT_OF(MECHANISMS); i++) {
        if (bytes_equal_text_nocase(name, MECHANISMS[i].name)) {
            term->mechanism = MECHANISMS[i].mechanism;
            return parse_argument(bytes_skip(text, name.count), term);
        }
    }
    return false;
}

/* "name=value" with a name's first letter; the name's end tells it from a mechanism. */
static bool is_modifier(struct bytes text)
{
    const struct bytes name = leading_name(text);

    return name.count > 0 && name.count < text.count && text.at[name.count] == '=';
}

static bool parse_modifier(struct bytes text, struct spf_record *record)
{
    const struct bytes name = leading_name(text);
    const struct bytes value = bytes_skip(text, name.count + 1);
    struct bytes *known = bytes_equal_text_nocase(name, "redirect") ? &record->redirect
                          : bytes_equal_text_nocase(name, "exp")    ? &record->explanation
                                                                    : NULL;

    if (!known)
        return spf_macro_valid(value, SPF_MACRO_DOMAIN);
    if (known->count > 0 || !is_domain_spec(value))
        return false;
    *known = value;
    return true;
}

/* At least as many as there are terms. */
static size_t term_count(struct bytes text)
{
    size_t count = 1;

    for (size_t i = 0; i < text.count; i++)
        count += text.at[i] == ' ';
    return count;
}

bool spf_parse_record(struct arena *arena, struct bytes text, struct spf_record *record,
                      struct bytes *problem)
{
    struct bytes rest = bytes_skip(text, 6);

    *record =
        (struct spf_record){.terms = ARENA_NEW_ARRAY(arena, term_count(rest), struct spf_term)};
    if (!record->terms)
        return false;
    while (rest.count > 0) {
        struct bytes term = BYTES_EMPTY;
        rest = bytes_cut(rest, ' ', &term);
        if (term.count == 0)
            continue;
        const bool good = is_modifier(term)
                              ? parse_modifier(term, record)
                              : parse_mechanism(term, &record->terms[record->count++]);
        if (!good) {
            *problem = arena_print(arena, "syntax error at \"%.*s\"",
                                   BYTES_PRINT(bytes_slice(term, 0, 80)));
            return false;
        }
    }
    return true;
}
