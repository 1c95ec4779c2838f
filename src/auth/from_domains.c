/*
 * The author domains: every domain in the From field (RFC 5322 3.4, 3.6.2), found by a small lexer
 * that knows comments, quoted strings, groups and angle brackets, so that none of them can hide an
 * address.
 */
#include "auth/from_domains.h"

#include "auth/auth.h"
#include "mail/mail.h"

struct lexer {
    struct bytes rest;
    bool bad;
};

/* Skips a comment, nested ones too, or a quoted string; the opening byte is at the front. */
static void skip_nested(struct lexer *lexer, uint8_t open, uint8_t close)
{
    unsigned depth = 0;

    while (lexer->rest.count > 0) {
        const uint8_t byte = lexer->rest.at[0];
        if (byte == '\\') {
            lexer->rest = bytes_skip(lexer->rest, 2);
            continue;
        }
        lexer->rest = bytes_skip(lexer->rest, 1);
        if (byte == close && depth > 0 && --depth == 0)
            return;
        if (byte == open && (open != close || depth == 0))
            depth++;
    }
    lexer->bad = true;
}

/* A domain after '@': labels with blanks and comments skipped, or a literal in brackets. */
static void read_domain(struct lexer *lexer, struct buffer *domain)
{
    bool after_gap = false;

    while (lexer->rest.count > 0) {
        const uint8_t byte = lexer->rest.at[0];
        if (byte == '(') {
            skip_nested(lexer, '(', ')');
            continue;
        }
        if (byte == ' ' || byte == '\t' || byte == '\r' || byte == '\n') {
            after_gap = domain->count > 0;
            lexer->rest = bytes_skip(lexer->rest, 1);
            continue;
        }
        if (!ascii_is_alnum(byte) && byte != '.' && byte != '-' && byte != '_' && byte < 0x80 &&
            byte != '[' && byte != ']' && byte != ':')
            return;
        /* Two words without a dot between them: what follows belongs to something else. */
        if (after_gap && byte != '.' && domain->at[domain->count - 1] != '.')
            return;
        after_gap = false;
        buffer_add_byte(domain, ascii_lower(byte));
        lexer->rest = bytes_skip(lexer->rest, 1);
    }
}

static bool keep_domain(struct arena *arena, struct bytes domain, struct from_domains *found)
{
    if (domain.count > 0 && domain.at[domain.count - 1] == '.')
        domain.count--;
    if (domain.count == 0)
        return false;
    if (domain.at[0] == '[') /* an address literal has no policy */
        return true;
    for (unsigned i = 0; i < found->count; i++)
        if (bytes_equal_nocase(found->domains[i], domain))
            return true;
    if (found->count == FROM_DOMAINS_MAX)
        return false;
    found->domains[found->count++] = arena_copy(arena, domain);
    return !arena->failed;
}

static bool read_address(struct arena *arena, struct lexer *lexer, struct from_domains *found)
{
    CLEANUP(buffer_free) struct buffer domain = BUFFER_WITH_LIMIT(1024);

    lexer->rest = bytes_skip(lexer->rest, 1);
    read_domain(lexer, &domain);
    /* "<@route:user@domain>": the domain of a source route is followed by a colon or a comma, never
     * an end. */
    return !domain.failed && keep_domain(arena, buffer_view(&domain), found);
}

static bool read_field(struct arena *arena, struct bytes value, struct from_domains *found)
{
    struct lexer lexer = {.rest = value};

    while (lexer.rest.count > 0 && !lexer.bad) {
        switch (lexer.rest.at[0]) {
        case '(':
            skip_nested(&lexer, '(', ')');
            break;
        case '"':
            skip_nested(&lexer, '"', '"');
            break;
        case '@':
            if (!read_address(arena, &lexer, found))
                return false;
            break;
        default:
            lexer.rest = bytes_skip(lexer.rest, 1);
        }
    }
    return !lexer.bad;
}

enum from_result from_domains_find(struct arena *arena, struct bytes head,
                                   struct from_domains *found)
{
    struct header_walk walk = HEADER_WALK_OF(head);
    struct header_field field;
    unsigned fields = 0;
    bool readable = true;

    *found = (struct from_domains){0};
    while (header_next(&walk, &field)) {
        if (!bytes_equal_text_nocase(field.name, "from"))
            continue;
        fields++;
        readable = readable && read_field(arena, field.value, found);
    }
    if (arena->failed)
        return FROM_NO_MEMORY;
    if (fields != 1 || !readable)
        return FROM_MALFORMED;
    return found->count > 0 ? FROM_FOUND : FROM_NO_DOMAIN;
}

bool auth_author_domain(struct arena *arena, struct bytes head, struct bytes *domain)
{
    struct from_domains found;

    if (from_domains_find(arena, head, &found) != FROM_FOUND || found.count != 1)
        return false;
    *domain = found.domains[0];
    return true;
}
