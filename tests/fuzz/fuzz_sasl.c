/* AUTH's argument, PLAIN's message, SCRAM's first message and stored keys: views stay within the
 * input, and what is refused leaves nothing behind. */
#include "directory/directory.h"
#include "receive/sasl.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool lies_within(struct bytes part, struct bytes whole)
{
    return part.count == 0 ||
           (part.at >= whole.at && part.at + part.count <= whole.at + whole.count);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct bytes input = bytes_of(data, size);
    struct arena arena = ARENA_WITH_LIMIT(1 * MIB);
    const struct sasl_command command = sasl_parse_command(input);
    struct sasl_plain plain = {0};
    struct directory_scram scram;
    struct bytes user;

    INVARIANT(lies_within(command.mechanism, input) && lies_within(command.initial, input));
    if (sasl_parse_plain(input, &plain)) {
        INVARIANT(plain.name.count > 0 && plain.password.count > 0);
        INVARIANT(plain.act_as.count + plain.name.count + plain.password.count + 2 == size);
        INVARIANT(bytes_find_byte(plain.name, 0) == plain.name.count);
    }
    if (sasl_scram_user(&arena, input, &user))
        INVARIANT(user.count > 0 && user.count < size);
    if (directory_parse_scram(&arena, input, &scram))
        INVARIANT(scram.iterations > 0 && scram.stored_key.count == 32 &&
                  scram.server_key.count == 32 && scram.salt.count > 0);
    arena_clear(&arena);
    return 0;
}
