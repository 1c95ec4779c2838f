/* spamd's answer: judged only by a whole one, however it is cut and whenever it comes. */
#include "filter_peer.h"
#include "wire/spamd.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const struct spamd_verdict *verdict, const struct filter_peer *peer)
{
    struct header_walk walk = HEADER_WALK_OF(verdict->headers);
    struct header_field field;

    INVARIANT((verdict->result == SPAMD_FAILED) == (verdict->fault != FILTER_FAULT_NONE));
    if (verdict->result != SPAMD_JUDGED)
        return;
    INVARIANT(peer->written->count > peer->body.size_bytes &&
              peer->written->at[peer->written->count - 1] == 'x');
    while (header_next(&walk, &field))
        INVARIANT(bytes_starts_with_nocase(field.name, BYTES_LITERAL("X-Spam-")));
    INVARIANT(!walk.malformed && walk.rest.count == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena arena = ARENA_WITH_LIMIT(4 * MIB);
    struct filter_peer peer;

    if (!filter_peer_open(&peer, data, size))
        return 0;
    const struct spamd_verdict verdict =
        spamd_talk_scan(&arena, peer.stream, &peer.body, DEADLINE_NEVER);
    check(&verdict, &peer);
    peer.at_once.at = 0; /* the same as the answer to a ping */
    const struct spamd_verdict pinged = spamd_talk_ping(&arena, peer.stream, DEADLINE_NEVER);
    INVARIANT((pinged.result == SPAMD_FAILED) == (pinged.fault != FILTER_FAULT_NONE));
    buffer_free(peer.written);
    arena_clear(&arena);
    return 0;
}
