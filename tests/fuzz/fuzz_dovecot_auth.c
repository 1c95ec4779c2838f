/* Dovecot's auth socket answering anything, cut anywhere: OK always names a user, and each other
 * answer says what it has to. */
#include "../unit/memory_stream.h"
#include "wire/dovecot_auth.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena arena = ARENA_WITH_LIMIT(MIB);
    const struct dovecot_request request = {.mechanism = "PLAIN", .has_initial = true};
    struct dovecot_auth *auth = NULL;

    if (size < 1)
        return 0;
    struct memory_stream memory = memory_stream_of(bytes_of(data + 1, size - 1));
    memory.fragment = data[0];
    struct dovecot_answer answer = dovecot_auth_talk(&arena, &memory.stream, &request, &auth);
    for (int i = 0; answer.result == DOVECOT_CONTINUE && i < 8; i++)
        answer = dovecot_auth_continue(auth, &arena, answer.challenge);
    INVARIANT(answer.result != DOVECOT_OK || answer.user.count > 0);
    INVARIANT(answer.result != DOVECOT_FAILED || answer.words.count > 0 || arena.failed);
    dovecot_auth_close(&auth);
    buffer_free(&memory.written);
    arena_clear(&arena);
    return 0;
}
