/* The file of a next hop's name and password, and what that hop's server says of its login: both
 * parts are whole, and the server cannot make us count for minutes. */
#include "deliver/login.c"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_file(struct bytes text)
{
    struct login *login = calloc(1, sizeof *login);

    INVARIANT(login != NULL);
    const size_t count = MIN_OF(text.count, sizeof login->file - 1);
    if (count > 0)
        memcpy(login->file, text.at, count);
    if (login_parse(login, count)) {
        INVARIANT(login->name[0] && login->password[0] && login->password > login->name);
        INVARIANT(strlen(login->name) + strlen(login->password) < count);
        INVARIANT(!strpbrk(login->name, "\n") && !strpbrk(login->password, "\n"));
    }
    free(login);
}

/* A challenge as the server says it, in base 64. */
static void check_challenge(struct bytes challenge)
{
    struct arena arena = ARENA_WITH_LIMIT(MIB);
    struct deliver_channel *channel = calloc(1, sizeof *channel);
    CLEANUP(buffer_free) struct buffer encoded = BUFFER_WITH_LIMIT(MIB);

    INVARIANT(channel != NULL);
    base64_encode(&encoded, challenge);
    buffer_add_byte(&encoded, 0);
    channel->arena = &arena;
    struct login login = {.channel = channel, .in = (const char *)encoded.at};
    if (!iterations_are_bearable(&login))
        INVARIANT(bytes_find(challenge, BYTES_LITERAL("i=")) < challenge.count);
    arena_clear(&arena);
    free(channel);
}

static void check_offer(struct bytes greeting)
{
    const struct bytes word = BYTES_LITERAL("LOGIN");

    if (login_is_offered(greeting, "LOGIN"))
        INVARIANT(greeting.count > word.count);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct bytes text = bytes_of(data, MIN_OF(size, (size_t)8192));

    check_file(text);
    check_challenge(text);
    check_offer(text);
    return 0;
}
