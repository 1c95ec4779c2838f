/*
 * SPF records read for people (`dns check`): each term goes through the parser that the server
 * itself uses, alone, so that every fault is found and has a place, where a server stops at the
 * first (RFC 7208 4.6).
 */
#include "auth/spf_inside.h"

static const struct {
    const char *name;
    enum spf_term_kind kind;
} MODIFIERS[] = {{"redirect=", SPF_TERM_REDIRECT}, {"exp=", SPF_TERM_EXP}};

bool spf_lint_is_record(struct bytes txt)
{
    return spf_is_record(txt);
}

static enum spf_term_kind kind_of(enum spf_mechanism mechanism)
{
    switch (mechanism) {
    case SPF_ALL:
        return SPF_TERM_ALL;
    case SPF_INCLUDE:
        return SPF_TERM_INCLUDE;
    case SPF_A:
        return SPF_TERM_A;
    case SPF_MX:
        return SPF_TERM_MX;
    case SPF_PTR:
        return SPF_TERM_PTR;
    case SPF_IP4:
        return SPF_TERM_IP4;
    case SPF_IP6:
        return SPF_TERM_IP6;
    case SPF_EXISTS:
        return SPF_TERM_EXISTS;
    }
    return SPF_TERM_BROKEN;
}

/* ------------------------------------------------------------------ what is wrong, and where */

static size_t skip_sign(struct bytes term)
{
    return term.count > 0 && bytes_find_byte(BYTES_LITERAL("+-~?"), term.at[0]) < 4 ? 1 : 0;
}

static size_t name_end(struct bytes term)
{
    size_t end = skip_sign(term);

    while (end < term.count && (ascii_is_alnum(term.at[end]) || term.at[end] == '-' ||
                                term.at[end] == '_' || term.at[end] == '.'))
        end++;
    return end;
}

static bool name_is(struct bytes term, const char *name)
{
    const size_t start = skip_sign(term);

    return bytes_equal_text_nocase(bytes_slice(term, start, name_end(term) - start), name);
}

static bool name_is_known(struct bytes term)
{
    static const char *const names[] = {"all", "include", "a",        "mx",  "ptr",
                                        "ip4", "ip6",     "redirect", "exp", "exists"};

    for (size_t i = 0; i < COUNT_OF(names); i++)
        if (name_is(term, names[i]))
            return true;
    return false;
}

/* The first '%' that begins no macro; term.count when there is none. */
static size_t find_bad_macro(struct bytes term)
{
    for (size_t at = 0; at < term.count; at++) {
        if (term.at[at] != '%')
            continue;
        const struct bytes rest = bytes_skip(term, at);
        const size_t length =
            rest.count > 1 && rest.at[1] == '{' ? bytes_find_byte(rest, '}') + 1 : 2;
        if (length > rest.count || !spf_macro_valid(bytes_slice(rest, 0, length), SPF_MACRO_DOMAIN))
            return at;
        at += length - 1;
    }
    return term.count;
}

static void explain_fault(struct arena *arena, struct spf_term_facts *facts)
{
    const struct bytes term = facts->text;
    const size_t name = name_end(term), macro = find_bad_macro(term);
    const size_t argument = name < term.count ? name + 1 : name;

    facts->fault_offset = facts->offset + argument;
    if (!name_is_known(term)) {
        facts->fault_offset = facts->offset + skip_sign(term);
        facts->problem = BYTES_LITERAL("there is no such mechanism");
    } else if (name_is(term, "ip4")) {
        facts->problem = BYTES_LITERAL("ip4: needs an IPv4 address, and at most /32");
    } else if (name_is(term, "ip6")) {
        facts->problem = BYTES_LITERAL("ip6: needs an IPv6 address, and at most /128");
    } else if (name_is(term, "all")) {
        facts->problem = BYTES_LITERAL("all stands alone");
    } else if (macro < term.count) {
        facts->fault_offset = facts->offset + macro;
        facts->problem = BYTES_LITERAL("this is no macro (RFC 7208 7.1); a bare % is written %%");
    } else if (argument == term.count) {
        facts->problem = arena_print(arena, "a domain name has to follow %.*s",
                                     BYTES_PRINT(bytes_slice(term, 0, name)));
    } else {
        facts->problem = BYTES_LITERAL("this is neither a domain name nor a prefix length");
    }
}

/* ------------------------------------------------------------------ terms */

static void take_mechanism(const struct spf_term *term, struct spf_term_facts *facts)
{
    facts->kind = kind_of(term->mechanism);
    facts->qualified = term->qualified;
    facts->domain = term->domain;
    facts->prefix_bits = term->network.prefix_bits;
}

static void take_modifier(const struct spf_record *record, struct spf_term_facts *facts)
{
    facts->kind = SPF_TERM_OTHER;
    for (size_t i = 0; i < COUNT_OF(MODIFIERS); i++)
        if (bytes_starts_with_nocase(facts->text, bytes_of_text(MODIFIERS[i].name)))
            facts->kind = MODIFIERS[i].kind;
    facts->domain = record->redirect.count > 0 ? record->redirect : record->explanation;
}

/* False: memory. */
static bool read_term(struct arena *arena, struct spf_term_facts *facts)
{
    const struct bytes alone = arena_print(arena, "v=spf1 %.*s", BYTES_PRINT(facts->text));
    struct spf_record record = {0};
    struct bytes problem = BYTES_EMPTY;

    if (arena->failed)
        return false;
    const bool whole = alone.count == facts->text.count + 7; /* printing ends at a NUL */
    if (!whole || !spf_parse_record(arena, alone, &record, &problem))
        explain_fault(arena, facts);
    else if (record.count > 0)
        take_mechanism(&record.terms[0], facts);
    else
        take_modifier(&record, facts);
    facts->has_macro = bytes_find_byte(facts->domain, '%') < facts->domain.count;
    return !arena->failed;
}

/* redirect= and exp= may stand once (RFC 7208 6). */
static void refuse_second(struct spf_term_facts *terms, unsigned count)
{
    struct spf_term_facts *last = &terms[count - 1];

    if (last->kind != SPF_TERM_REDIRECT && last->kind != SPF_TERM_EXP)
        return;
    for (unsigned i = 0; i + 1 < count; i++) {
        if (terms[i].kind == last->kind) {
            last->kind = SPF_TERM_BROKEN;
            last->fault_offset = last->offset;
            last->problem = BYTES_LITERAL("this modifier stands in the record already");
            return;
        }
    }
}

bool spf_lint(struct arena *arena, struct bytes record, struct spf_term_facts **terms,
              unsigned *count)
{
    size_t room = 1;

    for (size_t i = 0; i < record.count; i++)
        room += record.at[i] == ' ';
    *count = 0;
    *terms = ARENA_NEW_ARRAY(arena, room, struct spf_term_facts);
    if (!*terms)
        return false;
    for (size_t at = MIN_OF(record.count, (size_t)6); at < record.count;) {
        const struct bytes rest = bytes_skip(record, at);
        const struct bytes term = bytes_slice(rest, 0, bytes_find_byte(rest, ' '));
        if (term.count > 0) {
            struct spf_term_facts *facts = &(*terms)[(*count)++];
            *facts = (struct spf_term_facts){.text = term, .offset = at};
            if (!read_term(arena, facts))
                return false;
            refuse_second(*terms, *count);
        }
        at += term.count + 1;
    }
    return true;
}
