/* clamd's answer: clean only for the one complete word, however it is cut and whenever it comes. */
#include "filter_peer.h"
#include "wire/clamd.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Nothing is clean before all of it was sent. */
static void check(const struct clamd_verdict *verdict, const struct filter_peer *peer)
{
    const struct bytes written = buffer_view(peer->written), answer = peer->answer;

    INVARIANT((verdict->result == CLAMD_FAILED) == (verdict->fault != FILTER_FAULT_NONE));
    if (verdict->result != CLAMD_CLEAN)
        return;
    INVARIANT(written.count > peer->body.size_bytes &&
              bytes_ends_with_nocase(written, BYTES_LITERAL("x\0\0\0\0")));
    if (peer->parts)
        return;
    INVARIANT(bytes_starts_with(answer, BYTES_LITERAL("stream: OK")));
    INVARIANT(answer.at[10] == 0 || answer.at[10] == '\n');
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena arena = ARENA_WITH_LIMIT(MIB);
    struct filter_peer peer;

    if (!filter_peer_open(&peer, data, size))
        return 0;
    const struct clamd_verdict verdict =
        clamd_talk_scan(&arena, peer.stream, &peer.body, DEADLINE_NEVER);
    check(&verdict, &peer);
    peer.at_once.at = 0; /* the same as the answer to a ping */
    const struct clamd_verdict pinged = clamd_talk_ping(&arena, peer.stream, DEADLINE_NEVER);
    if (pinged.result == CLAMD_CLEAN && !peer.parts)
        INVARIANT(bytes_starts_with(peer.answer, BYTES_LITERAL("PONG")));
    buffer_free(peer.written);
    arena_clear(&arena);
    return 0;
}
