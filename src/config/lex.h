/* Words, strings and marks of the configuration's language: the part of libconfuse's that we allow.
 */
#ifndef CONFIG_LEX_H
#define CONFIG_LEX_H

#include "config/options.h"

enum token_kind { TOKEN_BAD = 0, TOKEN_END, TOKEN_WORD, TOKEN_STRING, TOKEN_MARK };

struct token {
    enum token_kind kind;
    struct bytes raw;   /* as written, with its quotes */
    struct bytes inner; /* without them */
    uint8_t mark;       /* { } ( ) = , */
    unsigned line;
    const char *why; /* TOKEN_BAD */
};

struct lexer {
    struct bytes text;
    size_t at;
    unsigned line;
};

struct token lexer_next(struct lexer *lexer);

#endif
