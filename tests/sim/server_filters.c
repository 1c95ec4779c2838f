/*
 * A clamd and a spamd. Each reads the whole message, compares it with what was sent and with what
 * the milter made of it, and only then answers; when the scenario says so it hangs, goes, says half
 * an answer or nonsense, before the message or after it.
 */
#include "server.h"

#include <string.h>

static struct letter *content_letter(const struct ear *ear, struct bytes content, bool changed)
{
    struct bytes rest;
    struct letter *letter = letter_in(content, &rest);
    /* Where the milter may be passed over, the letter stays as it was. */
    const bool may_be_plain = !changed || setting.milter_accepts;

    CHECK(ear->stream && letter &&
              ((may_be_plain && bytes_equal(rest, letter_text(letter))) ||
               (changed && bytes_equal(rest, letter_text_changed(letter)))),
          "a filter was given something else: %.*s", BYTES_PRINT(bytes_slice(content, 0, 400)));
    return letter;
}

/* True: something else was done than to answer well: the beginning of an answer, or another. */
static bool misbehaves(enum peer peer, struct stream *stream, struct bytes answer, const char *when)
{
    static const char *const words[] = {"",
                                        "nonsense\n",
                                        "stream: OK ",
                                        "stream: Broken ERROR\n",
                                        "INSTREAM size limit exceeded. ERROR\n",
                                        "SPAMD/1.1 75 EX_TEMPFAIL\r\n\r\n",
                                        "SPAMD/1.1 0 EX_OK\r\n\r\n"};
    const char *name = peer == PEER_CLAMD ? "clamd" : "spamd";

    if (!peer_strikes(peer))
        return false;
    if (sim_chance(300000)) {
        peer_struck("%s hangs %s", name, when);
        fiber_sleep_until(deadline_in(sim_below(300) * US_PER_S));
        return sim_chance(700000); /* otherwise it answers after all, late */
    }
    const struct bytes cut = bytes_slice(answer, 0, sim_below(answer.count));
    const struct bytes said =
        sim_chance(500000) ? cut : bytes_of_text(words[sim_below(COUNT_OF(words))]);
    peer_struck("%s says \"%.*s\" and goes %s", name, BYTES_PRINT(said), when);
    peer_say(stream, said);
    return true;
}

/* ------------------------------------------------------------------ clamd */

/* All chunks into *content; false: the connection went before the end. */
static bool clamd_chunks(struct ear *ear, struct buffer *content)
{
    for (;;) {
        if (!ear_need(ear, 4))
            return false;
        const uint8_t *at = ear->heard.at;
        const size_t count =
            (size_t)at[0] << 24 | (size_t)at[1] << 16 | (size_t)at[2] << 8 | (size_t)at[3];
        CHECK(count < CONTENT_MOST, "a chunk of a bounded size");
        if (!ear_need(ear, 4 + count))
            return false;
        buffer_add(content, bytes_slice(buffer_view(&ear->heard), 4, count));
        buffer_drop_front(&ear->heard, 4 + count);
        if (count == 0)
            return !content->failed;
    }
}

/* What is scanned later was changed by the milter meanwhile. */
static struct letter *clamd_letter(const struct ear *ear, struct bytes content)
{
    struct bytes rest;
    struct letter *letter = letter_in(content, &rest);
    const bool later = letter && setting.scan_later && !bytes_equal(rest, letter_text(letter));

    return content_letter(ear, content, later);
}

static void clamd_judge(const struct ear *ear, struct bytes content)
{
    static const char found[] = "stream: Simulated.Virus FOUND", fine[] = "stream: OK";
    struct letter *letter = clamd_letter(ear, content);
    const bool infected = letter->virus && planted != PLANT_INFECT;
    const struct bytes answer =
        infected ? bytes_of(found, sizeof found) : bytes_of(fine, sizeof fine);

    if (misbehaves(PEER_CLAMD, ear->stream, answer, "after the message"))
        return;
    if (!infected && planted != PLANT_BLIND) {
        letter->judged_clean = true;
        tale_add(0, (int)letter->number, "clamd finds nothing");
    }
    peer_say(ear->stream, answer);
}

static void clamd_talk(struct ear *ear)
{
    struct buffer content = BUFFER_WITH_LIMIT(CONTENT_MOST);

    if (misbehaves(PEER_CLAMD, ear->stream, BYTES_LITERAL("stream: OK"), "at once") ||
        !ear_need(ear, 6))
        return;
    if (memcmp(ear->heard.at, "zPING", 6) == 0) {
        if (!misbehaves(PEER_CLAMD, ear->stream, BYTES_LITERAL("PONG"), "at PING"))
            peer_say(ear->stream, bytes_of("PONG", 5));
        return;
    }
    if (!ear_need(ear, 10))
        return;
    CHECK(memcmp(ear->heard.at, "zINSTREAM", 10) == 0, "a command of clamd");
    buffer_drop_front(&ear->heard, 10);
    if (clamd_chunks(ear, &content))
        clamd_judge(ear, buffer_view(&content));
    buffer_free(&content);
}

void clamd_serve(void *argument, struct stream *stream)
{
    struct ear ear = {.stream = stream, .heard = BUFFER_WITH_LIMIT(2 * CONTENT_MOST)};

    CHECK(argument == &book, "an argument of our own");
    clamd_talk(&ear);
    buffer_free(&ear.heard);
}

/* ------------------------------------------------------------------ spamd */

static void spamd_judge(const struct ear *ear, struct bytes content)
{
    struct letter *letter = content_letter(ear, content, true);
    char fields[200], answer[400];

    snprintf(fields, sizeof fields,
             "X-Spam-Status: %s, letter=%u\r\nSubject: not to be taken\r\n\r\n",
             letter->spam ? "Yes" : "No", letter->number);
    snprintf(answer, sizeof answer,
             "SPAMD/1.1 0 EX_OK\r\nContent-length: %zu\r\nSpam: %s / 5.0\r\n\r\n%s", strlen(fields),
             letter->spam ? "True ; 20.5" : "False ; 1.0", fields);
    if (misbehaves(PEER_SPAMD, ear->stream, bytes_of_text(answer), "after the message"))
        return;
    if (!letter->spam && planted != PLANT_HASTE) {
        letter->spamd_passed = true;
        tale_add(0, (int)letter->number, "spamd says no");
    }
    peer_say_text(ear->stream, answer);
}

/* False: it went before the empty line. */
static bool spamd_request(struct line_reader *reader, struct bytes *first, char *room, size_t size,
                          uint64_t *length)
{
    static const struct bytes mark = BYTES_LITERAL("Content-length: ");
    struct bytes line;

    if (!line_read(reader, deadline_in(PEER_PATIENCE_US), &line))
        return false;
    *first = bytes_of(room, (size_t)snprintf(room, size, "%.*s", BYTES_PRINT(line)));
    *length = 0;
    while (line.count > 0) {
        if (!line_read(reader, deadline_in(PEER_PATIENCE_US), &line))
            return false;
        if (bytes_starts_with(line, mark))
            CHECK(bytes_to_u64(bytes_skip(line, mark.count), length), "a length");
    }
    buffer_drop_front(&reader->heard, reader->used);
    reader->used = 0;
    return true;
}

static void spamd_talk(struct line_reader *reader)
{
    struct bytes first;
    char room[80];
    uint64_t length;

    if (misbehaves(PEER_SPAMD, reader->stream, BYTES_LITERAL("SPAMD/1.1 0 EX_OK"), "at once") ||
        !spamd_request(reader, &first, room, sizeof room, &length))
        return;
    if (bytes_starts_with(first, BYTES_LITERAL("PING"))) {
        if (!misbehaves(PEER_SPAMD, reader->stream, BYTES_LITERAL("SPAMD/1.5 0 PONG"), "at PING"))
            peer_say_text(reader->stream, "SPAMD/1.5 0 PONG\r\n");
        return;
    }
    CHECK(bytes_starts_with(first, BYTES_LITERAL("HEADERS ")) && length > 0, "a command of spamd");
    struct ear ear = {.stream = reader->stream, .heard = reader->heard};
    if (ear_need(&ear, length))
        spamd_judge(&ear, bytes_slice(buffer_view(&ear.heard), 0, length));
    reader->heard = ear.heard;
}

void spamd_serve(void *argument, struct stream *stream)
{
    struct line_reader reader = {.stream = stream, .heard = BUFFER_WITH_LIMIT(2 * CONTENT_MOST)};

    CHECK(argument == &book, "an argument of our own");
    spamd_talk(&reader);
    buffer_free(&reader.heard);
}
