/*
 * SASL messages: what stands in them. Pure.
 */
#include "receive/sasl.h"

struct sasl_command sasl_parse_command(struct bytes argument)
{
    struct sasl_command command = {0};

    command.initial = bytes_trim(bytes_cut(argument, ' ', &command.mechanism));
    command.has_initial = command.initial.count > 0;
    if (bytes_equal_text(command.initial, "="))
        command.initial = BYTES_EMPTY;
    return command;
}

bool sasl_parse_plain(struct bytes message, struct sasl_plain *plain)
{
    const bool has_name = bytes_find_byte(message, '\0') < message.count;

    message = bytes_cut(message, '\0', &plain->act_as);
    const bool has_password = bytes_find_byte(message, '\0') < message.count;
    plain->password = bytes_cut(message, '\0', &plain->name);
    return has_name && has_password && plain->name.count > 0 && plain->password.count > 0 &&
           bytes_find_byte(plain->password, '\0') == plain->password.count;
}

/* "=2C" is a comma and "=3D" an equals sign; any other "=" is an error. */
static bool saslname_decode(struct arena *arena, struct bytes name, struct bytes *user)
{
    uint8_t *out = arena_take(arena, name.count + 1);
    size_t count = 0;

    for (size_t i = 0; out && i < name.count; i++) {
        const struct bytes escape = bytes_slice(name, i, 3);

        if (name.at[i] == '=') {
            if (!bytes_equal_text(escape, "=2C") && !bytes_equal_text(escape, "=3D"))
                return false;
            out[count++] = escape.at[2] == 'C' ? ',' : '=';
            i += 2;
        } else {
            out[count++] = name.at[i];
        }
    }
    *user = bytes_of(out, count);
    return out && count > 0;
}

/* RFC 5802 7 knows no NUL, where libraries that read C strings would end. */
bool sasl_scram_is_text(struct bytes message)
{
    return bytes_find_byte(message, '\0') == message.count;
}

bool sasl_scram_user(struct arena *arena, struct bytes message, struct bytes *user)
{
    struct bytes binding, act_as, name;

    *user = BYTES_EMPTY;
    message = bytes_cut(message, ',', &binding);
    message = bytes_cut(message, ',', &act_as);
    bytes_cut(message, ',', &name);
    if (!bytes_starts_with(name, BYTES_LITERAL("n=")))
        return false;
    return saslname_decode(arena, bytes_skip(name, 2), user);
}
