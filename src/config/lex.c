/*
 * Reads the next token of a configuration. A pure function on bytes; whatever could be read in two
 * ways (an environment variable in a string, a stray byte, an unknown escape) is a bad token.
 */
#include "config/lex.h"

#include <string.h>

static struct bytes rest_of(const struct lexer *lexer)
{
    return bytes_skip(lexer->text, lexer->at);
}

static bool starts(const struct lexer *lexer, const char *text)
{
    return bytes_starts_with(rest_of(lexer), bytes_of_text(text));
}

/* Skips blanks and comments; false inside an unclosed block comment. */
static bool skip_blank(struct lexer *lexer)
{
    while (lexer->at < lexer->text.count) {
        const uint8_t byte = lexer->text.at[lexer->at];
        if (byte == '\n') {
            lexer->line++;
            lexer->at++;
        } else if (byte == ' ' || byte == '\t' || byte == '\r') {
            lexer->at++;
        } else if (byte == '#' || starts(lexer, "//")) {
            lexer->at += bytes_find_byte(rest_of(lexer), '\n');
        } else if (starts(lexer, "/*")) {
            const struct bytes body = bytes_skip(rest_of(lexer), 2);
            const size_t end = bytes_find(body, BYTES_LITERAL("*/"));
            if (end == body.count)
                return false;
            for (size_t i = 0; i < end; i++)
                lexer->line += body.at[i] == '\n';
            lexer->at += end + 4;
        } else {
            return true;
        }
    }
    return true;
}

static struct token bad(unsigned line, const char *why)
{
    return (struct token){.kind = TOKEN_BAD, .line = line, .why = why};
}

/* The reason why the byte (with the one behind it) may not stand in a string; NULL: it may. */
static const char *string_objection(uint8_t quote, uint8_t byte, uint8_t next)
{
    if (byte == '\n')
        return "the string is not closed on its line";
    if (byte == 0)
        return "a NUL byte stands in the text";
    if (byte < 0x20 && byte != '\t')
        return "a control character stands in the string";
    if (quote == '"' && byte == '$' && next == '{')
        return "${...} is not expanded; for the plain characters use single quotes";
    if (quote == '"' && byte == '\\' && next != '"' && next != '\\')
        return "in double quotes a backslash stands only before \" or \\; use single quotes";
    return NULL;
}

static struct token lex_string(struct lexer *lexer, uint8_t quote)
{
    const size_t start = lexer->at;

    for (size_t i = start + 1; i < lexer->text.count; i++) {
        const uint8_t byte = lexer->text.at[i];
        const uint8_t next = i + 1 < lexer->text.count ? lexer->text.at[i + 1] : 0;
        const char *why = string_objection(quote, byte, next);
        if (why)
            return bad(lexer->line, why);
        if (byte == '\\' && (next == quote || next == '\\')) {
            i++;
        } else if (byte == quote) {
            lexer->at = i + 1;
            return (struct token){.kind = TOKEN_STRING,
                                  .raw = bytes_slice(lexer->text, start, i + 1 - start),
                                  .inner = bytes_slice(lexer->text, start + 1, i - start - 1),
                                  .line = lexer->line};
        }
    }
    return bad(lexer->line, "the string is not closed on its line");
}

static bool is_word_byte(uint8_t byte)
{
    return ascii_is_alnum(byte) || (byte != 0 && strchr("_-.:@%/", byte));
}

static struct token lex_word(struct lexer *lexer)
{
    const size_t start = lexer->at;

    while (lexer->at < lexer->text.count && is_word_byte(lexer->text.at[lexer->at]))
        lexer->at++;
    const uint8_t next = lexer->at < lexer->text.count ? lexer->text.at[lexer->at] : ' ';
    if (lexer->at == start || (next != 0 && strchr("#'\"", next)) ||
        !(ascii_is_print(next) || strchr("\t\r\n", next) || next == 0))
        return bad(lexer->line, "an unexpected character; values other than words need quotes");
    const struct bytes word = bytes_slice(lexer->text, start, lexer->at - start);
    return (struct token){.kind = TOKEN_WORD, .raw = word, .inner = word, .line = lexer->line};
}

struct token lexer_next(struct lexer *lexer)
{
    if (!skip_blank(lexer))
        return bad(lexer->line, "a comment is not closed");
    if (lexer->at >= lexer->text.count)
        return (struct token){.kind = TOKEN_END, .line = lexer->line};
    const uint8_t byte = lexer->text.at[lexer->at];
    if (byte == '"' || byte == '\'')
        return lex_string(lexer, byte);
    if (byte == 0)
        return bad(lexer->line, "a NUL byte stands in the text");
    if (strchr("{}()=,", byte)) {
        const struct bytes mark = bytes_slice(lexer->text, lexer->at++, 1);
        return (struct token){
            .kind = TOKEN_MARK, .raw = mark, .inner = mark, .mark = byte, .line = lexer->line};
    }
    return lex_word(lexer);
}
