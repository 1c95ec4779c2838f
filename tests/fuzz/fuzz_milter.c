/* A milter that says anything: the whole talk with it, packet by packet as it cuts them. */
#include "filter_peer.h"
#include "wire/milter.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct io_result sink_write(void *argument, struct bytes piece)
{
    bool *after_cr = argument;

    for (size_t i = 0; i < piece.count; i++) {
        INVARIANT(piece.at[i] != 0);
        INVARIANT((piece.at[i] == '\n') == *after_cr);
        *after_cr = piece.at[i] == '\r';
    }
    return io_ok(piece.count);
}

/* Gives one packet a read, so that none seems to come unasked. */
static struct io_result packet_read(struct stream *stream, struct span into, uint64_t deadline_us)
{
    struct memory_stream *memory = CONTAINER_OF(stream, struct memory_stream, stream);
    struct reader reader = READER_OF(bytes_skip(memory->input, memory->at));
    const uint32_t length = reader_u32(&reader);

    if (deadline_us == 0)
        return io_status_only(IO_TIMEOUT);
    const size_t wanted = reader.failed ? SIZE_MAX : (size_t)length + 4;
    const size_t count = MIN_OF(MIN_OF(wanted, into.count), memory->input.count - memory->at);
    if (count == 0)
        return io_status_only(IO_END);
    memcpy(into.at, memory->input.at + memory->at, count);
    memory->at += count;
    return io_ok(count);
}

static const struct stream_ops packet_ops = {.read = packet_read,
                                             .write = memory_write,
                                             .wait_readable = memory_wait,
                                             .close = memory_close};

static void check_header(const struct milter_changes *changes)
{
    const struct milter_headers before = {BYTES_LITERAL("A: 1\r\n"),
                                          BYTES_LITERAL("B: 2\r\n more\r\nA: 3\r\n")};
    struct buffer above = BUFFER_WITH_LIMIT(4 * MIB), below = BUFFER_WITH_LIMIT(4 * MIB);

    if (milter_headers_apply(&before, changes, &above, &below)) {
        const struct bytes blocks[] = {buffer_view(&above), buffer_view(&below)};
        for (size_t i = 0; i < COUNT_OF(blocks); i++) {
            struct header_walk walk = HEADER_WALK_OF(blocks[i]);
            struct header_field field;
            while (header_next(&walk, &field))
                ;
            INVARIANT(!walk.malformed && walk.rest.count == 0);
        }
    }
    buffer_free(&above);
    buffer_free(&below);
}

static void talk(struct milter *milter, const struct milter_call *call)
{
    struct endpoint remote = {.family = ENDPOINT_UNIX};
    bool after_cr = false;
    struct milter_changes changes = {.body = {sink_write, &after_cr}};
    const struct message_source body = {filter_body_read, NULL, 70000};
    const struct milter_message message = {.headers = {.below = BYTES_LITERAL("A: 1\r\nB: 2\r\n")},
                                           .body = &body};
    const struct milter_path path = {BYTES_LITERAL("<a@b>"), NULL, 0};
    struct milter_verdict verdict =
        milter_connect(milter, call, &(struct milter_client){&remote, {0}});

    verdict = milter_helo(milter, call, BYTES_LITERAL("h"));
    verdict = milter_mail(milter, call, &path);
    verdict = milter_rcpt(milter, call, &path);
    verdict = milter_data(milter, call);
    verdict = milter_message(milter, call, &message, &changes);
    INVARIANT((verdict.answer == MILTER_FAILED) == (verdict.fault != FILTER_FAULT_NONE));
    INVARIANT(verdict.answer != MILTER_REPLY_4 || verdict.words.at[0] == '4');
    INVARIANT(verdict.answer != MILTER_REPLY_5 || verdict.words.at[0] == '5');
    if (verdict.answer == MILTER_CONTINUE || verdict.answer == MILTER_ACCEPT) {
        INVARIANT(!after_cr);
        check_header(&changes);
    }
}

static void play(struct stream *stream)
{
    struct arena arena = ARENA_WITH_LIMIT(4 * MIB);
    const struct milter_call call = {.arena = &arena, .deadline_us = DEADLINE_NEVER};
    struct milter *milter = NULL;
    const struct milter_verdict opened = milter_open_stream(stream, &call, &milter);

    INVARIANT((opened.answer == MILTER_CONTINUE) == (milter != NULL));
    if (milter)
        talk(milter, &call);
    milter_close(&milter);
    arena_clear(&arena);
}

/* What comes first is the answer to our offer; the first bit of the input puts one there that goes
 * on. By the second the packets come in parts with 0xff between them, each let out by one of our
 * writes, so that they may come unasked, and by the third in single octets. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t options[] = "\0\0\0\15O\0\0\0\6\0\0\1\177\0\0\0";
    CLEANUP(buffer_free) struct buffer input = BUFFER_WITH_LIMIT(4 * MIB);

    if (size == 0)
        return 0;
    const bool offers = data[0] & 1, in_parts = data[0] & 2;
    if (in_parts && offers)
        buffer_add_byte(&input, PART_END); /* after our own offer */
    if (offers)
        buffer_add(&input, bytes_of(options, sizeof options));
    if (in_parts && offers)
        buffer_add_byte(&input, PART_END);
    buffer_add(&input, bytes_of(data + 1, size - 1));
    if (in_parts) {
        struct hostile_peer peer;
        hostile_open(&peer, buffer_view(&input), data[0] & 4 ? 1 : 0);
        play(&peer.stream);
        buffer_free(&peer.written);
    } else {
        struct memory_stream memory = memory_stream_of(buffer_view(&input));
        memory.stream.ops = &packet_ops;
        play(&memory.stream);
        buffer_free(&memory.written);
    }
    return 0;
}
