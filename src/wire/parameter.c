/*
 * ESMTP parameters: SIZE (RFC 1870), BODY (6152, 3030), SMTPUTF8 (6531), RET, ENVID, NOTIFY, ORCPT
 * (3461), AUTH (4954), REQUIRETLS (8689). A repeated or unknown one is refused (RFC 5321 4.1.1.11).
 */
#include "wire/command.h"

enum { ENVID_MAX = 100, ORCPT_MAX = 500, ADDRESS_TYPE_MAX = 32 };

/* A value whose `at` is NULL was not given; "SIZE=" gives an empty one. */
typedef enum smtp_fault parameter_parse(struct arena *arena, struct bytes value,
                                        struct smtp_command *command);

static bool all_digits(struct bytes value)
{
    for (size_t i = 0; i < value.count; i++)
        if (!ascii_is_digit(value.at[i]))
            return false;
    return value.count > 0;
}

static enum smtp_fault parse_size(struct arena *arena UNUSED, struct bytes value,
                                  struct smtp_command *command)
{
    if (!all_digits(value))
        return SMTP_FAULT_SYNTAX;
    return bytes_to_u64(value, &command->size_bytes) ? SMTP_FINE : SMTP_FAULT_TOO_BIG;
}

static enum smtp_fault parse_body(struct arena *arena UNUSED, struct bytes value,
                                  struct smtp_command *command)
{
    static const struct {
        const char *name;
        enum body_kind kind;
    } kinds[] = {{"7BIT", BODY_7BIT}, {"8BITMIME", BODY_8BITMIME}, {"BINARYMIME", BODY_BINARYMIME}};

    for (size_t i = 0; i < COUNT_OF(kinds); i++) {
        if (bytes_equal_text_nocase(value, kinds[i].name)) {
            command->body = kinds[i].kind;
            return SMTP_FINE;
        }
    }
    return SMTP_FAULT_SYNTAX;
}

static enum smtp_fault parse_smtputf8(struct arena *arena UNUSED, struct bytes value,
                                      struct smtp_command *command)
{
    command->smtputf8 = true;
    return value.at ? SMTP_FAULT_SYNTAX : SMTP_FINE;
}

static enum smtp_fault parse_requiretls(struct arena *arena UNUSED, struct bytes value,
                                        struct smtp_command *command)
{
    command->requiretls = true;
    return value.at ? SMTP_FAULT_SYNTAX : SMTP_FINE;
}

static enum smtp_fault parse_prdr(struct arena *arena UNUSED, struct bytes value,
                                  struct smtp_command *command)
{
    command->prdr = true;
    return value.at ? SMTP_FAULT_SYNTAX : SMTP_FINE;
}

static enum smtp_fault parse_return(struct arena *arena UNUSED, struct bytes value,
                                    struct smtp_command *command)
{
    if (bytes_equal_text_nocase(value, "FULL"))
        command->dsn_return = RETURN_FULL;
    else if (bytes_equal_text_nocase(value, "HDRS"))
        command->dsn_return = RETURN_HEADERS;
    else
        return SMTP_FAULT_SYNTAX;
    return SMTP_FINE;
}

static bool is_printable(struct bytes text)
{
    for (size_t i = 0; i < text.count; i++)
        if (!ascii_is_print(text.at[i]))
            return false;
    return true;
}

/* RFC 3461 4.4: at most 100 characters as sent, printable when decoded. */
static enum smtp_fault parse_envelope_id(struct arena *arena, struct bytes value,
                                         struct smtp_command *command)
{
    const bool fine = value.count > 0 && value.count <= ENVID_MAX &&
                      xtext_decode(arena, value, &command->envelope_id) &&
                      is_printable(command->envelope_id);

    return fine ? SMTP_FINE : SMTP_FAULT_SYNTAX;
}

static enum smtp_fault parse_auth(struct arena *arena, struct bytes value,
                                  struct smtp_command *command)
{
    const bool fine = value.count > 0 && xtext_decode(arena, value, &command->auth) &&
                      is_printable(command->auth);

    return fine ? SMTP_FINE : SMTP_FAULT_SYNTAX;
}

static enum notify_flags notify_flag(struct bytes word)
{
    static const struct {
        const char *name;
        enum notify_flags flag;
    } flags[] = {{"NEVER", NOTIFY_NEVER},
                 {"SUCCESS", NOTIFY_SUCCESS},
                 {"FAILURE", NOTIFY_FAILURE},
                 {"DELAY", NOTIFY_DELAY}};

    for (size_t i = 0; i < COUNT_OF(flags); i++)
        if (bytes_equal_text_nocase(word, flags[i].name))
            return flags[i].flag;
    return NOTIFY_DEFAULT;
}

/* RFC 3461 4.1: a list, or NEVER alone. */
static enum smtp_fault parse_notify(struct arena *arena UNUSED, struct bytes value,
                                    struct smtp_command *command)
{
    unsigned flags = 0, words = 0;

    for (bool more = true; more; words++) {
        struct bytes word = BYTES_EMPTY;

        more = bytes_find_byte(value, ',') < value.count;
        value = bytes_cut(value, ',', &word);
        const unsigned flag = notify_flag(word);
        if (flag == 0)
            return SMTP_FAULT_SYNTAX;
        flags |= flag;
    }
    if ((flags & NOTIFY_NEVER) && words > 1)
        return SMTP_FAULT_SYNTAX;
    command->notify = flags;
    return SMTP_FINE;
}

static bool address_type_is_valid(struct bytes type)
{
    for (size_t i = 0; i < type.count; i++)
        if (!ascii_is_alnum(type.at[i]) && type.at[i] != '-')
            return false;
    return type.count > 0 && type.count <= ADDRESS_TYPE_MAX;
}

/* addr-type ";" xtext, where the type utf-8 may hold letters beyond ASCII as they are (RFC 6533 3).
 */
static enum smtp_fault parse_original(struct arena *arena, struct bytes value,
                                      struct smtp_command *command)
{
    struct bytes type = BYTES_EMPTY, plain = BYTES_EMPTY;
    const struct bytes address = bytes_cut(value, ';', &type);

    if (value.count > ORCPT_MAX || address.count == 0 || !address_type_is_valid(type) ||
        !xtext_decode(arena, address, &plain) || !bytes_is_utf8(plain))
        return SMTP_FAULT_SYNTAX;
    if (!bytes_equal_text_nocase(type, "utf-8") && !is_printable(plain))
        return SMTP_FAULT_SYNTAX;
    command->original_recipient =
        arena_print(arena, "%.*s;%.*s", BYTES_PRINT(type), BYTES_PRINT(plain));
    return command->original_recipient.count > 0 ? SMTP_FINE : SMTP_FAULT_SYNTAX;
}

static const struct {
    const char *name;
    enum smtp_verb verb;
    parameter_parse *parse;
} PARAMETERS[] = {
    {"SIZE", SMTP_MAIL, parse_size},
    {"BODY", SMTP_MAIL, parse_body},
    {"SMTPUTF8", SMTP_MAIL, parse_smtputf8},
    {"RET", SMTP_MAIL, parse_return},
    {"ENVID", SMTP_MAIL, parse_envelope_id},
    {"AUTH", SMTP_MAIL, parse_auth},
    {"REQUIRETLS", SMTP_MAIL, parse_requiretls},
    {"PRDR", SMTP_MAIL, parse_prdr},
    {"NOTIFY", SMTP_RCPT, parse_notify},
    {"ORCPT", SMTP_RCPT, parse_original},
};

/* esmtp-keyword (RFC 5321 4.1.2). */
static bool keyword_is_valid(struct bytes keyword)
{
    for (size_t i = 0; i < keyword.count; i++)
        if (!ascii_is_alnum(keyword.at[i]) && (keyword.at[i] != '-' || i == 0))
            return false;
    return keyword.count > 0;
}

/* esmtp-value: no blanks, no controls, no "="; AUTH= alone may hold one in real mail, so "="
 * passes. */
static bool value_is_valid(struct bytes value)
{
    for (size_t i = 0; i < value.count; i++)
        if (value.at[i] <= ' ' || value.at[i] == 0x7f)
            return false;
    return true;
}

static enum smtp_fault parse_one(struct arena *arena, struct bytes parameter, unsigned *seen,
                                 struct smtp_command *command)
{
    const size_t equals = bytes_find_byte(parameter, '=');
    const struct bytes keyword = bytes_slice(parameter, 0, equals);
    const struct bytes value =
        equals < parameter.count ? bytes_skip(parameter, equals + 1) : BYTES_EMPTY;

    if (!keyword_is_valid(keyword) || !value_is_valid(value))
        return SMTP_FAULT_SYNTAX;
    for (unsigned i = 0; i < COUNT_OF(PARAMETERS); i++) {
        if (PARAMETERS[i].verb != command->verb ||
            !bytes_equal_text_nocase(keyword, PARAMETERS[i].name))
            continue;
        if (*seen & (1U << i))
            return SMTP_FAULT_SYNTAX;
        *seen |= 1U << i;
        return PARAMETERS[i].parse(arena, value, command);
    }
    return SMTP_FAULT_PARAMETER;
}

void parameters_parse(struct arena *arena, struct bytes rest, struct smtp_command *command)
{
    unsigned seen = 0;

    while (rest.count > 0) {
        struct bytes parameter = BYTES_EMPTY;

        rest = bytes_cut(rest, ' ', &parameter);
        if (parameter.count == 0)
            continue;
        command->parameter_count++;
        const enum smtp_fault fault = parse_one(arena, parameter, &seen, command);
        if (command->fault == SMTP_FINE)
            command->fault = fault;
    }
}
