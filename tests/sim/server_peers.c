/*
 * Who the server speaks to: next hops that take mail, and a clamd. Well behaved unless the scenario
 * says otherwise; then each stage may answer 4yz or 5yz, hang, lie in words, or go.
 */
#include "server.h"

#include <string.h>

enum { CONTENT_MOST = 256 * 1024 };
#define PEER_PATIENCE_US (1200 * US_PER_S)

static struct {
    unsigned hop_ppm, clamd_ppm; /* of misbehaviour, at each stage */
} mood;

void peers_behave(void)
{
    mood.hop_ppm = mood.clamd_ppm = 0;
}

void peers_misbehave_hops(unsigned ppm)
{
    mood.hop_ppm = ppm;
}

void peers_misbehave_clamd(unsigned ppm)
{
    mood.clamd_ppm = ppm;
}

bool peers_hop_strikes(const char *what)
{
    if (!sim_chance(mood.hop_ppm))
        return false;
    book.faults_struck++;
    tale_add(0, -1, "fault: %s", what);
    return true;
}

static bool say(struct stream *stream, struct bytes words)
{
    return stream_write(stream, words, deadline_in(PEER_PATIENCE_US)).status == IO_OK;
}

static bool say_text(struct stream *stream, const char *words)
{
    return say(stream, bytes_of_text(words));
}

/* ------------------------------------------------------------------ a next hop */

struct hop {
    struct line_reader reader;
    enum place places[WANTED_MOST * 4];
    unsigned place_count;
    bool null_sender, refuses;
    struct buffer content;
};

enum hop_answer { HOP_FINE = 0, HOP_GO_ON, HOP_OVER };

static void struck(const char *what, const char *stage)
{
    book.faults_struck++;
    tale_add(0, -1, "fault: next hop: %s at %s", what, stage);
}

static enum hop_answer hang(void)
{
    fiber_sleep_until(deadline_in(sim_below(1200) * US_PER_S));
    return HOP_OVER;
}

/* HOP_FINE: the stage goes as it should. A refusal is for good, so only where the sender can be
 * told. */
static enum hop_answer misbehave(struct hop *hop, const char *stage, bool may_refuse)
{
    static const char *const deferrals[] = {
        "451 4.3.0 Come back later\r\n",
        "450-4.2.0 Greylisted,\r\n450 4.2.0 try again in 5 min\r\n", "421 4.3.2 Going down\r\n",
        "452 Insufficient space\r\n"};

    if (!sim_chance(mood.hop_ppm))
        return HOP_FINE;
    switch (sim_below(may_refuse && !hop->null_sender ? 6 : 5)) {
    case 0:
    case 1: {
        const char *words = deferrals[sim_below(COUNT_OF(deferrals))];

        struck(words, stage);
        return say_text(hop->reader.stream, words) && memcmp(words, "421", 3) != 0 ? HOP_GO_ON
                                                                                   : HOP_OVER;
    }
    case 2:
        struck("hangs", stage);
        return hang();
    case 3:
        struck("goes", stage);
        return HOP_OVER;
    case 4:
        struck("garbage", stage);
        return say_text(hop->reader.stream, "what is this\r\n") ? HOP_GO_ON : HOP_OVER;
    default:
        struck("refuses", stage);
        return say_text(hop->reader.stream, "550 5.7.1 Not wanted\r\n") ? HOP_GO_ON : HOP_OVER;
    }
}

/* True: the session goes on. */
static bool answer(struct hop *hop, const char *stage, const char *words, bool *fine)
{
    const enum hop_answer answered =
        misbehave(hop, stage, strcmp(stage, "RCPT") == 0 || strcmp(stage, "MAIL") == 0);

    if (fine)
        *fine = answered == HOP_FINE;
    if (answered == HOP_FINE)
        return say_text(hop->reader.stream, words);
    return answered == HOP_GO_ON;
}

static bool hop_recipient(struct hop *hop, struct bytes line)
{
    struct bytes address = BYTES_EMPTY;
    enum place place = PLACE_COUNT;
    bool fine = false;

    bytes_cut(bytes_skip(line, bytes_find_byte(line, '<') + 1), '>', &address);
    CHECK(place_named(address, &place), "mail for %.*s", BYTES_PRINT(line));
    if (place == PLACE_NO)
        return say_text(hop->reader.stream, "550 5.1.1 No such user\r\n");
    if (!answer(hop, "RCPT", "250 2.1.5 Fine\r\n", &fine))
        return false;
    CHECK(hop->place_count < COUNT_OF(hop->places), "recipients");
    if (fine)
        hop->places[hop->place_count++] = place;
    return true;
}

/* Until the dot. False: the connection went before. */
static bool hop_content(struct hop *hop)
{
    struct bytes line;

    buffer_clear(&hop->content);
    while (line_read(&hop->reader, deadline_in(PEER_PATIENCE_US), &line)) {
        if (bytes_equal_text(line, "."))
            return true;
        buffer_add(&hop->content, line.count > 0 && line.at[0] == '.' ? bytes_skip(line, 1) : line);
        buffer_add_text(&hop->content, "\r\n");
        CHECK(!hop->content.failed, "a message of a bounded size");
    }
    return false;
}

static bool hop_lose_reply(void)
{
    const bool hangs = sim_chance(500000);

    struck(hangs ? "took it and hangs" : "took it and goes", "the dot");
    if (hangs)
        hang();
    return false;
}

static bool hop_data(struct hop *hop)
{
    bool fine = false;

    if (hop->place_count == 0)
        return say_text(hop->reader.stream, "554 5.5.1 No recipients\r\n");
    if (!answer(hop, "DATA", "354 Go on\r\n", &fine))
        return false;
    if (!fine)
        return true;
    if (!hop_content(hop))
        return false;
    const enum hop_answer answered = misbehave(hop, "the dot", true);
    if (answered != HOP_FINE)
        return answered == HOP_GO_ON;
    for (unsigned i = 0; i < hop->place_count; i++)
        parcel_arrived(buffer_view(&hop->content), hop->places[i], false);
    hop->place_count = 0;
    if (sim_chance(mood.hop_ppm))
        return hop_lose_reply();
    return say_text(hop->reader.stream, "250 2.0.0 Taken\r\n");
}

static bool hop_command(struct hop *hop, struct bytes line)
{
    if (bytes_starts_with_nocase(line, BYTES_LITERAL("EHLO")))
        return answer(hop, "EHLO",
                      "250-hop\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 ENHANCEDSTATUSCODES\r\n",
                      NULL);
    if (bytes_starts_with_nocase(line, BYTES_LITERAL("MAIL"))) {
        hop->null_sender = bytes_find(line, BYTES_LITERAL("<>")) < line.count;
        hop->place_count = 0;
        return answer(hop, "MAIL", "250 2.1.0 Fine\r\n", NULL);
    }
    if (bytes_starts_with_nocase(line, BYTES_LITERAL("RCPT")))
        return hop_recipient(hop, line);
    if (bytes_starts_with_nocase(line, BYTES_LITERAL("DATA")))
        return hop_data(hop);
    if (bytes_starts_with_nocase(line, BYTES_LITERAL("QUIT"))) {
        (void)say_text(hop->reader.stream, "221 Bye\r\n");
        return false;
    }
    hop->place_count = 0;
    return say_text(hop->reader.stream, "250 Fine\r\n");
}

static void hop_serve(void *argument, struct stream *stream)
{
    struct hop *hop = calloc(1, sizeof *hop);
    struct bytes line;

    CHECK(hop && argument == &book, "memory");
    hop->reader = (struct line_reader){.stream = stream, .heard = BUFFER_WITH_LIMIT(64 * KIB)};
    hop->content = BUFFER_WITH_LIMIT(CONTENT_MOST);
    hop->null_sender = true; /* nobody is refused before MAIL */
    bool lives = answer(hop, "banner", "220 hop ESMTP\r\n", NULL);
    while (lives && line_read(&hop->reader, deadline_in(PEER_PATIENCE_US), &line))
        lives = hop_command(hop, line);
    buffer_free(&hop->reader.heard);
    buffer_free(&hop->content);
    free(hop);
}

/* ------------------------------------------------------------------ clamd */

struct scanner {
    struct stream *stream;
    struct buffer heard;
};

static bool need(struct scanner *scanner, size_t count)
{
    while (scanner->heard.count < count) {
        uint8_t *room = buffer_reserve(&scanner->heard, 4096);

        CHECK(room != NULL, "memory");
        const struct io_result read =
            stream_read(scanner->stream, (struct span){room, 4096}, deadline_in(PEER_PATIENCE_US));
        if (read.status != IO_OK)
            return false;
        buffer_claim(&scanner->heard, read.count);
    }
    return true;
}

/* All chunks into *content; false: the connection went before the end. */
static bool scanner_chunks(struct scanner *scanner, struct buffer *content)
{
    for (;;) {
        if (!need(scanner, 4))
            return false;
        const uint8_t *at = scanner->heard.at;
        const size_t count =
            (size_t)at[0] << 24 | (size_t)at[1] << 16 | (size_t)at[2] << 8 | (size_t)at[3];
        CHECK(count < CONTENT_MOST, "a chunk of a bounded size");
        if (!need(scanner, 4 + count))
            return false;
        buffer_add(content, bytes_slice(buffer_view(&scanner->heard), 4, count));
        buffer_drop_front(&scanner->heard, 4 + count);
        if (count == 0)
            return !content->failed;
    }
}

/* True: something else was done than to answer well. */
static bool scanner_misbehaves(struct scanner *scanner, const char *when)
{
    static const char *const words[] = {"stream: O",
                                        "stream: ",
                                        "",
                                        "nonsense\n",
                                        "stream: OK ",
                                        "stream: Broken ERROR\n",
                                        "INSTREAM size limit exceeded. ERROR\n",
                                        "stream: OK"};

    if (!sim_chance(mood.clamd_ppm))
        return false;
    book.faults_struck++;
    if (sim_chance(300000)) {
        tale_add(0, -1, "fault: clamd hangs %s", when);
        fiber_sleep_until(deadline_in(sim_below(300) * US_PER_S));
        return true;
    }
    const char *answer = words[sim_below(COUNT_OF(words))];
    tale_add(0, -1, "fault: clamd says \"%s\" and goes %s", answer, when);
    (void)say_text(scanner->stream, answer);
    return true;
}

static void scanner_judge(const struct scanner *scanner, struct bytes content)
{
    struct bytes rest;
    struct letter *letter = letter_in(content, &rest);
    const struct bytes sent = letter ? letter_text(letter) : BYTES_EMPTY;

    CHECK(letter && bytes_equal(rest, sent) && bytes_equal(content, sent),
          "the filter was given something else: %.*s", BYTES_PRINT(bytes_slice(content, 0, 400)));
    if (letter->virus) {
        (void)say(scanner->stream, bytes_of("stream: Simulated.Virus FOUND", 30));
        return;
    }
    letter->judged_clean = true;
    tale_add(0, (int)letter->number, "the filter finds nothing");
    (void)say(scanner->stream, bytes_of("stream: OK", 11));
}

static void clamd_talk(struct scanner *scanner)
{
    struct buffer content = BUFFER_WITH_LIMIT(CONTENT_MOST);

    if (scanner_misbehaves(scanner, "at once") || !need(scanner, 6))
        return;
    if (memcmp(scanner->heard.at, "zPING", 6) == 0) {
        if (!scanner_misbehaves(scanner, "at PING"))
            (void)say(scanner->stream, bytes_of("PONG", 5));
        return;
    }
    if (!need(scanner, 10))
        return;
    CHECK(memcmp(scanner->heard.at, "zINSTREAM", 10) == 0, "a command of clamd");
    buffer_drop_front(&scanner->heard, 10);
    if (scanner_chunks(scanner, &content) && !scanner_misbehaves(scanner, "after the message"))
        scanner_judge(scanner, buffer_view(&content));
    buffer_free(&content);
}

static void clamd_serve(void *argument, struct stream *stream)
{
    struct scanner scanner = {.stream = stream, .heard = BUFFER_WITH_LIMIT(2 * CONTENT_MOST)};

    CHECK(argument == &book, "an argument of our own");
    clamd_talk(&scanner);
    buffer_free(&scanner.heard);
}

/* ------------------------------------------------------------------ opening */

void peers_start(void)
{
    static const char *const hops[] = {"203.0.113.1:25", "203.0.113.2:25", "203.0.113.3:2525"};
    struct endpoint at;

    for (size_t i = 0; i < COUNT_OF(hops); i++) {
        CHECK(endpoint_parse(bytes_of_text(hops[i]), &at), "an address");
        CHECK(sim_serve(&at, hop_serve, &book), "a listener");
    }
    CHECK(endpoint_parse(BYTES_LITERAL("203.0.113.4:3310"), &at), "an address");
    CHECK(sim_serve(&at, clamd_serve, &book), "a listener");
    CHECK(endpoint_parse(BYTES_LITERAL("unix:/run/commands"), &at), "an address");
    CHECK(sim_serve(&at, runner_serve_peer, &book), "a listener");
}
