/* Domains and address literals (RFC 5321 4.1.2 and 4.1.3, RFC 6531 3.3): syntax only, no look-up.
 */
#include "mail/mail.h"

enum { LABEL_MAX = 63 };

static bool literal_is_valid(struct bytes literal)
{
    static const struct bytes tag = BYTES_LITERAL("IPv6:");
    struct ip_address ip;

    if (literal.count < 2 || literal.at[literal.count - 1] != ']')
        return false;
    struct bytes inner = bytes_slice(literal, 1, literal.count - 2);
    const bool six = bytes_starts_with_nocase(inner, tag);
    if (six)
        inner = bytes_skip(inner, tag.count);
    return (bytes_find_byte(inner, ':') < inner.count) == six && ip_parse(inner, &ip);
}

static bool label_is_valid(struct bytes label)
{
    bool ascii = true;

    if (label.count == 0 || label.at[0] == '-' || label.at[label.count - 1] == '-')
        return false;
    for (size_t i = 0; i < label.count; i++) {
        ascii &= label.at[i] < 0x80;
        if (label.at[i] < 0x80 && !ascii_is_alnum(label.at[i]) && label.at[i] != '-')
            return false;
    }
    return ascii ? label.count <= LABEL_MAX : bytes_is_utf8(label);
}

bool domain_is_valid(struct bytes domain)
{
    if (domain.count == 0 || domain.count > MAIL_DOMAIN_MAX)
        return false;
    if (domain.at[0] == '[')
        return literal_is_valid(domain);
    for (;;) {
        const size_t end = bytes_find_byte(domain, '.');

        if (!label_is_valid(bytes_slice(domain, 0, end)))
            return false;
        if (end == domain.count)
            return true;
        domain = bytes_skip(domain, end + 1);
    }
}
